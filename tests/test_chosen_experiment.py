"""Which MLflow experiment a run lands in."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import Result

from pneumonia.errors import TrackingError
from pneumonia.tracking.store import choose_experiment, connect

Cli = Callable[..., Result]


@pytest.fixture
def client(tmp_path: Path, empty_store: Path) -> mlflow.MlflowClient:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return mlflow.MlflowClient(connect(f"sqlite:///{tmp_path}/mlflow.db"))


def test_a_name_then_the_id_then_the_name_of_the_environment_decide(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one choice does not decide the next."""
    by_id = client.create_experiment("by id")
    assert choose_experiment() == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    assert client.get_experiment(choose_experiment()).name == "by name"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_id)
    assert choose_experiment() == by_id
    assert client.get_experiment(choose_experiment("asked for")).name == "asked for"
    assert choose_experiment() == by_id
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert choose_experiment() == "0"


def test_an_experiment_that_cannot_be_used_is_named(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.delete_experiment(client.create_experiment("old"))
    with pytest.raises(TrackingError, match=r"'old' was deleted: .*'mlflow experiments restore -x"):
        choose_experiment("old")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    with pytest.raises(TrackingError, match="MLFLOW_EXPERIMENT_ID '4711'"):
        choose_experiment()


def test_commands_follow_the_environment(
    trained: SimpleNamespace, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(trained.tracking_uri)
    experiment = client.create_experiment("of the environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    store = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    assert run_cli("predict", xrays / "val", "--track", *store).exit_code == 0
    assert len(client.search_runs([experiment])) == 1
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    failed = run_cli("evaluate", "--data", xrays, *store)
    assert failed.exit_code == 1
    assert "MLFLOW_EXPERIMENT_ID '4711'" in failed.stderr
