"""ONNX files: the same probabilities as the model, by a program without PyTorch."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import Result

from pneumonia.data.decode import Preprocessing, decode
from pneumonia.evaluation.decide import decide

onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX: pip install 'pneumonia[onnx]'")
pytest.importorskip("onnxscript", reason="needs ONNX: pip install 'pneumonia[onnx]'")

Cli = Callable[..., Result]


@pytest.mark.slow
def test_an_exported_model_decides_as_the_model_does(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    target = tmp_path / "model.onnx"
    # In a process of its own, where nothing was computed before the export.
    command = [sys.executable, "-m", "pneumonia", "export", *model, "--output", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of PyTorch" in done.stdout
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    described = session.get_modelmeta().custom_metadata_map
    config = json.loads(described["config"])
    assert described["model_uri"] == "models:/resnet34/1"

    rows = run_cli("predict", *model, xrays / "test", "--precision", "fp32").stdout
    for row in csv.DictReader(io.StringIO(rows)):
        preprocessing = Preprocessing(config["image_size"], config["resize"])
        grey = decode(Path(row["path"]).read_bytes(), preprocessing)
        inputs = {"grey": grey[np.newaxis].astype(np.float32)}  # batches of any size
        (probability,) = session.run(["probability"], inputs)[0]
        assert probability == pytest.approx(float(row["probability"]), abs=1e-4)
        assert config["class_names"][decide(probability, config["threshold"])] == row["label"]

    result = run_cli("export", *model, "--output", target / "no.onnx")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
