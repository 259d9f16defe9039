"""Batch prediction that is stopped and goes on, and that is divided among machines."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from click.testing import Result

from pneumonia.prediction import batch
from pneumonia.prediction.resume import shard

Cli = Callable[..., Result]


def rows_of(file: Path) -> list[dict[str, object]]:
    """The rows of an output in any format."""
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".csv":
        return list(csv.DictReader(file.read_text().splitlines()))
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def model(trained: SimpleNamespace) -> tuple[str, ...]:
    """Options that name the trained model."""
    return ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were decoded, in order."""
    decoded: list[str] = []
    original = batch.decode_ahead

    def counting(paths: object, *arguments: object, **options: object) -> object:
        for file in original(paths, *arguments, **options):  # type: ignore[arg-type]
            decoded.append(str(file.file))
            yield file

    monkeypatch.setattr(batch, "decode_ahead", counting)
    return decoded


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_stopped_job_goes_on_without_scoring_twice(
    ending: str,
    model: tuple[str, ...],
    xrays: Path,
    tmp_path: Path,
    run_cli: Cli,
    counted: list[str],
) -> None:
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"rows.{ending}"
    images = sorted((xrays / "test").rglob("*.*"))
    assert run_cli("predict", *model, xrays / "test", "--output", whole).exit_code == 0
    # As an interrupt leaves it: the first four images.
    run_cli("predict", *model, *images[:4], "--output", output)
    shutil.move(output, tmp_path / f"rows.partial.{ending}")
    counted.clear()
    result = run_cli("predict", *model, xrays / "test", "--output", output, "--resume")
    assert result.exit_code == 0, result.stderr
    assert "4 there already" in result.stderr
    assert sorted(counted) == [str(path) for path in images[4:]]
    assert not (tmp_path / f"rows.partial.{ending}").exists()
    key = {str(row["path"]): str(row["label"]) for row in rows_of(whole)}
    assert {str(row["path"]): str(row["label"]) for row in rows_of(output)} == key
    assert len(rows_of(output)) == len(images)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("lost", [1, 5, 40])
def test_what_a_killed_process_was_writing_is_kept_but_for_the_cut_line(
    ending: str, lost: int, model: tuple[str, ...], xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    output = tmp_path / f"rows.{ending}"
    run_cli("predict", *model, xrays / "test", "--output", output)
    n_rows = len(rows_of(output))
    written = output.read_bytes()
    output.unlink()
    (tmp_path / f"rows.{ending}.0123abcd.tmp").write_bytes(written[:-lost])
    result = run_cli("predict", *model, xrays / "test", "--output", output, "--resume")
    assert f"{n_rows - 1} there already" in result.stderr
    assert len(rows_of(output)) == n_rows


def test_rows_of_another_threshold_are_not_mixed_in(
    model: tuple[str, ...], xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    output = tmp_path / "rows.csv"
    run_cli("predict", *model, xrays / "test", "--output", output)
    before = output.read_bytes()
    resume = ("--output", output, "--resume", "--threshold", "0.9")
    result = run_cli("predict", *model, xrays / "test", *resume)
    assert result.exit_code == 1
    assert "not 0.9: name another file" in result.stderr
    assert output.read_bytes() == before
    assert run_cli("predict", *model, xrays / "test", "--resume").exit_code == 2


def test_shards_are_all_images_once(
    model: tuple[str, ...], xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    files = [Path(str(number)) for number in range(10)]
    parts = [list(shard(files, f"{part}/3")) for part in (1, 2, 3)]
    assert sorted(file for part in parts for file in part) == sorted(files)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    paths: list[str] = []
    for part in (1, 2):
        output = tmp_path / f"{part}.jsonl"
        run_cli("predict", *model, xrays / "test", "--output", output, "--shard", f"{part}/2")
        paths += [str(row["path"]) for row in rows_of(output)]
    assert sorted(paths) == sorted(map(str, (xrays / "test").rglob("*.*")))
    result = run_cli("predict", *model, xrays / "test", "--shard", "0/2")
    assert result.exit_code == 2
    assert "shard = '0/2': give K/N, such as 3/8" in result.stderr
