"""Every form of model URI that MLflow documents."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import Result

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def uris(trained: SimpleNamespace) -> dict[str, str]:
    """One URI of each form, all of the one trained model."""
    mlflow.set_tracking_uri(trained.tracking_uri)
    mlflow.set_registry_uri(trained.tracking_uri)
    client = mlflow.MlflowClient()
    (model,) = client.search_logged_models(["0"])
    client.set_registered_model_alias("resnet34", "ours", "1")
    folder = mlflow.artifacts.download_artifacts("models:/resnet34/1")
    return {
        "version": "models:/resnet34/1",
        "alias": "models:/resnet34@ours",
        "latest": "models:/resnet34/latest",
        "logged model": f"models:/{model.model_id}",
        "run": f"runs:/{model.source_run_id}/{model.name}",
        "folder": folder,
        "file": Path(folder).as_uri(),
    }


FORMS = ("version", "alias", "latest", "logged model", "run", "folder", "file")


@pytest.mark.parametrize("form", FORMS)
def test_each_form_predicts(
    form: str,
    uris: dict[str, str],
    trained: SimpleNamespace,
    xrays: Path,
    workplace: Path,
    run_cli: Cli,
) -> None:
    """The same image has the same probability by any URI of the model."""
    assert workplace.is_dir()
    image = next((xrays / "test" / "NORMAL").iterdir())
    rows = []
    for uri in (uris[form], uris["version"]):
        where = ("--model-uri", uri, "--tracking-uri", trained.tracking_uri, "--format", "jsonl")
        result = run_cli("predict", *where, image)
        assert result.exit_code == 0, result.stderr
        rows.append(result.stdout.partition('"model"')[0])
    assert rows[0] == rows[1]


@pytest.mark.parametrize("form", ["logged model", "run", "folder"])
@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_evaluate_and_explain_take_the_same_forms(
    command: str,
    form: str,
    uris: dict[str, str],
    trained: SimpleNamespace,
    xrays: Path,
    workplace: Path,
    run_cli: Cli,
) -> None:
    """The other commands read a model through the same door."""
    where = ("--model-uri", uris[form], "--tracking-uri", trained.tracking_uri)
    rest = ("--data", xrays) if command == "evaluate" else (xrays / "val", "--output", workplace)
    result = run_cli(command, *where, *rest)
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_the_uri_that_an_unregistered_training_prints_is_taken(
    xrays: Path, workplace: Path, run_cli: Cli
) -> None:
    """What ``train --register false`` prints, ``predict`` reads."""
    assert workplace.is_dir()
    quick = ("--network", "simple_cnn", "--epochs", "1", "--image-size", "32", "--batch-size", "8")
    trained = run_cli("train", "--data", xrays, *quick, "--register", "false")
    uri = trained.stdout.partition("model     ")[2].split()[0]
    assert uri.startswith("models:/m-")
    result = run_cli("predict", "--model-uri", uri, xrays / "val")
    assert result.exit_code == 0, result.stderr
