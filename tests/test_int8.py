"""Prediction in integers of 8 bits: the labels of fp32, from a network that is prepared once."""

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import Result

Cli = Callable[..., Result]


def _needs_onnx() -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs ONNX: pip install 'pneumonia[onnx]'")


@pytest.mark.slow
def test_labels_in_int8_are_those_of_fp32(
    trained: SimpleNamespace,
    xrays: Path,
    tmp_path: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _needs_onnx()
    cache = tmp_path / "cache"
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache))
    options = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    predict = ("predict", *options, xrays / "test", "--device", "cpu", "--precision")

    monkeypatch.setattr("pneumonia.prediction.int8.INT8_MARGIN", 0)
    refused = run_cli(*predict, "int8")
    assert refused.exit_code == 1
    assert "precision 'int8' moves probabilities of 'models:/resnet34/1' by up to" in refused.stderr
    assert not list(cache.glob("int8-*.onnx"))
    monkeypatch.undo()
    monkeypatch.setenv("PNEUMONIA_CACHE", str(cache))

    def rows(precision: str, *more: object) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(run_cli(*predict, precision, *more).stdout)))

    exact, rounded = rows("fp32"), rows("int8")
    for one, other in zip(exact, rounded, strict=True):
        for column in ("path", "label", "status", "reason", "threshold"):
            assert one[column] == other[column]
        if one["probability"]:
            assert float(other["probability"]) == pytest.approx(float(one["probability"]), abs=0.1)
    far_off = ("--no-gate", "--threshold", "0.99")  # where nothing is computed again
    for one, other in zip(rows("fp32", *far_off), rows("int8", *far_off), strict=True):
        assert one["probability"] != other["probability"]

    (prepared,) = cache.glob("int8-*.onnx")
    content = prepared.read_bytes()
    assert rows("int8") == rounded
    assert prepared.read_bytes() == content
    prepared.write_bytes(b"garbage")
    result = run_cli(*predict, "int8")
    assert result.exit_code == 1
    assert "delete it, and it is made again" in result.stderr
    prepared.unlink()
    assert rows("int8") == rounded  # the same from the beginning


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_an_ensemble_has_the_same_labels_in_int8_and_is_exported(
    xrays: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_onnx()
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    quick = ("--network", "simple_cnn", "--epochs", "1", "--image-size", "32", "--batch-size", "8")
    seeds = run_cli("train", "--data", xrays, *quick, "--seeds", "2", "--register", "false")
    assert seeds.exit_code == 0, seeds.stderr
    (parent,) = mlflow.MlflowClient().search_runs(["0"], "tags.kind = 'seeds'")
    assert run_cli("ensemble", parent.info.run_id).exit_code == 0

    def labels(precision: str) -> list[tuple[str, str]]:
        predict = ("predict", "--model-uri", "models:/simple_cnn/1", xrays / "test")
        result = run_cli(*predict, "--device", "cpu", "--precision", precision)
        assert result.exit_code == 0, result.stderr
        table = csv.DictReader(io.StringIO(result.stdout))
        return [(row["path"], row["label"]) for row in table]

    assert labels("int8") == labels("fp32")
    export = ("export", "--model-uri", "models:/simple_cnn/1", "--output", tmp_path / "model.onnx")
    assert run_cli(*export).exit_code == 0


def test_int8_without_onnx_runtime_says_what_to_install(
    trained: SimpleNamespace, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    options = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    result = run_cli("predict", *options, xrays / "test", "--device", "cpu", "--precision", "int8")
    assert result.exit_code == 2
    assert "pip install 'pneumonia[onnx]'" in result.stderr
