"""Batch scoring by a real Spark: on this machine, and on a cluster of its own processes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import Result

pyspark = pytest.importorskip("pyspark", reason="needs pyspark: pip install 'pneumonia[spark]'")
from benchmarks.spark import cluster  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java"),
    pytest.mark.xdist_group("spark"),
]

_SAME = ("label", "status", "reason", "threshold", "model", "run", "sha256", "version")

Cli = Callable[..., Result]


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run predict in a process of its own, since a process has one Spark."""
    command = [sys.executable, "-m", "pneumonia", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def images(xrays: Path, tmp_path: Path) -> Path:
    """Eight images, one that is unreadable, and one file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, file in enumerate(sorted(xrays.glob("test/*/*"))[:8]):
        shutil.copy(file, folder / f"é {number}{file.suffix}")
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_spark_gives_the_rows_of_one_machine_and_goes_on(
    trained: SimpleNamespace, images: Path, tmp_path: Path, run_cli: Cli
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    local = tmp_path / "rows.jsonl"
    run_cli("predict", *model, images, "--precision", "fp32", "--output", local)
    wanted = {row["path"]: row for row in map(json.loads, local.read_text().splitlines())}

    held_back = images / "é 3.jpeg"
    shutil.move(held_back, tmp_path / "away")
    output = tmp_path / "rows"
    spark = (*model, images, "--spark", "local[2]", "--output", output)
    result = predict(*spark)
    assert result.returncode == 1, result.stderr  # one image is unreadable
    assert "1 error" in result.stderr
    assert "skipped: 1 .txt" in result.stderr
    shutil.move(tmp_path / "away", held_back)
    result = predict(*spark)
    assert result.returncode == 0, result.stderr
    assert "8 there already" in result.stderr

    rows = {row["path"]: row for row in pd.read_parquet(output).to_dict("records")}
    assert rows.keys() == wanted.keys()
    for path, row in rows.items():
        expected = wanted[path]
        if expected["status"] == "ok":
            assert row["probability"] == pytest.approx(expected["probability"], abs=1e-6)
        assert [row[key] for key in _SAME] == [expected[key] for key in _SAME]
    result = predict(*spark, "--threshold", "0.123")
    assert result.returncode == 1
    assert "name another folder" in result.stderr


def test_a_cluster_of_two_workers_scores(
    trained: SimpleNamespace, images: Path, tmp_path: Path
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    output = tmp_path / "rows"
    with cluster(2) as started:
        result = predict(*model, images, "--spark", started.url, "--output", output)
    assert result.returncode == 1, result.stderr
    assert len(pd.read_parquet(output)) == 9
    result = predict(*model, images, "--spark", "spark://nowhere.invalid:1")
    assert result.returncode == 2
    assert "--spark needs --output FOLDER" in result.stderr
