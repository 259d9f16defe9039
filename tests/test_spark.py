"""Batch scoring by a real Spark: on this machine, and on a cluster of its own processes."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import Result

pyspark = pytest.importorskip("pyspark", reason="needs pyspark: pip install 'pneumonia[spark]'")
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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A standalone master and two workers of one core each, on the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path(pyspark.__file__).parent
    start = [str(home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    url = f"spark://127.0.0.1:{port}"
    master = ["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
    worker = ["worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "2g"]
    commands = [master, *([*worker, "--work-dir", str(tmp_path / str(n)), url] for n in (1, 2))]
    processes = []
    for entry, *options in commands:
        command = [start[0], f"{start[1]}.{entry}", *options]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        time.sleep(4)
    yield url
    for process in processes:
        process.kill()
        process.wait()


def test_a_cluster_of_two_workers_scores(
    trained: SimpleNamespace, images: Path, tmp_path: Path, cluster: str
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    output = tmp_path / "rows"
    result = predict(*model, images, "--spark", cluster, "--output", output)
    assert result.returncode == 1, result.stderr
    assert len(pd.read_parquet(output)) == 9
    result = predict(*model, images, "--spark", cluster.replace("127.0.0.1", "nowhere.invalid"))
    assert result.returncode == 2
    assert "--spark needs --output FOLDER" in result.stderr
