"""Results as one JSON object on standard output, for programs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

Cli = Callable[..., Result]
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--network", "simple_cnn")


def test_evaluate_and_compare_print_json(
    trained: SimpleNamespace, xrays: Path, run_cli: Cli
) -> None:
    store = ("--tracking-uri", trained.tracking_uri)
    model = ("--model-uri", "models:/resnet34/1")
    result = run_cli("evaluate", *model, "--data", xrays, *store, "--json")
    scores = json.loads(result.stdout)
    assert 0 <= scores["metrics"]["auc"] <= 1
    assert scores["times_scored"] >= 1
    command = ("compare", "models:/resnet34/1", "models:/resnet34/1", *store, "--json")
    compared = json.loads(run_cli(*command).stdout)
    assert compared["verdict"] in ("non-inferior", "undecided")
    assert compared["differences"]["auc"]["first"] == compared["differences"]["auc"]["second"]
    result = run_cli(*command, "--require", "better")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["n_images"] == compared["n_images"]


@pytest.mark.slow
def test_training_prints_json(xrays: Path, workplace: Path, run_cli: Cli) -> None:
    assert workplace.is_dir()
    result = run_cli("train", "--data", xrays, *QUICK, "--json")
    printed = json.loads(result.stdout)
    assert printed["model_uri"] == "models:/simple_cnn/1"
    assert 0 <= printed["test"]["auc"] <= 1
    assert "run " in result.stderr
    result = run_cli("train", "--data", xrays, *QUICK, "--seeds", "2", "--json")
    printed = json.loads(result.stdout)
    assert len(printed["seeds"]) == 2
    assert printed["spread"]["test_auc"]["deviation"] >= 0
    result = run_cli("cross-validate", "--data", xrays, *QUICK, "--folds", "2", "--json")
    assert 0 <= json.loads(result.stdout)["metrics"]["auc"]["mean"] <= 1
