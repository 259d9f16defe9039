"""Registered models of a local store are found without MLflow, and are those that MLflow finds."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import mlflow
import pytest
import torch
from click.testing import Result

from pneumonia.errors import ModelError
from pneumonia.tracking.local_registry import load_local_model
from pneumonia.tracking.models import load_model
from pneumonia.tracking.store import connect

Cli = Callable[..., Result]


@pytest.fixture
def store(trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a store with one registered model, whose tables may be changed."""
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    original = sqlite3.connect(trained.tracking_uri.removeprefix("sqlite:///"))
    with sqlite3.connect(tmp_path / "copy.db") as copied:
        original.backup(copied)
    original.close()
    return f"sqlite:///{tmp_path}/copy.db"


def change(store: str, *statements: str) -> None:
    with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
        for statement in statements:
            connection.execute(statement)


def test_versions_aliases_and_the_latest_are_those_of_mlflow(store: str) -> None:
    """Also that the tables are those of the installed MLflow, else nothing would be found."""
    connect(store)
    client = mlflow.MlflowClient()
    version = client.get_model_version("resnet34", "1")
    second = client.create_model_version("resnet34", version.source, version.run_id)
    client.set_registered_model_alias("resnet34", "chosen", "1")
    for asked in ("resnet34/1", "resnet34/latest", "resnet34@chosen"):
        ours, theirs = load_local_model(f"models:/{asked}", store), load_model(f"models:/{asked}")
        assert ours is not None
        assert (ours.uri, ours.run_id, ours.config) == (theirs.uri, theirs.run_id, theirs.config)
        weights, others = ours.network.state_dict(), theirs.network.state_dict()
        assert all(torch.equal(weights[name], others[name]) for name in others)
    client.delete_model_version("resnet34", second.version)
    assert load_local_model(f"models:/resnet34/{second.version}", store) is None
    latest = load_local_model("models:/resnet34/latest", store)
    assert latest is not None
    assert latest.uri == "models:/resnet34/1"


@pytest.mark.parametrize(
    "uri",
    [
        "models:/resnet34/9",
        "models:/resnet34@none",
        "models:/resnet34",
        "models:/other/1",
        "runs:/a/b",
    ],
)
def test_mlflow_is_asked_for_what_is_not_found(uri: str, store: str) -> None:
    assert load_local_model(uri, store) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alembic_version SET version_num = 'of a later version'",
        "DROP TABLE alembic_version",
        "UPDATE model_versions SET storage_location = 's3://bucket/model'",
        "UPDATE model_versions SET storage_location = NULL",
        "UPDATE model_versions SET workspace = 'another'",
    ],
)
def test_mlflow_is_asked_where_the_tables_are_others(statement: str, store: str) -> None:
    change(store, "PRAGMA foreign_keys = OFF", statement)
    assert load_local_model("models:/resnet34/1", store) is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////no/such/file.db"])
def test_mlflow_is_asked_about_other_stores(uri: str) -> None:
    assert load_local_model("models:/resnet34/1", uri) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9"), ("MLFLOW_WORKSPACE", "another")],
)
def test_mlflow_is_asked_about_a_registry_elsewhere(
    name: str, value: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert load_local_model("models:/resnet34/1", store) is None


def test_changed_weights_are_refused(store: str, tmp_path: Path, run_cli: Cli, xrays: Path) -> None:
    connect(store)
    version = mlflow.MlflowClient().get_model_version("resnet34", "1")
    stored = mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}")
    folder = shutil.copytree(urlsplit(stored).path, tmp_path / "model")
    change(store, f"UPDATE model_versions SET storage_location = 'file://{folder}'")
    assert load_local_model("models:/resnet34/1", store) is not None
    (folder / "artifacts" / "weights.pt").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="are not those that were logged"):
        load_local_model("models:/resnet34/1", store)
    predicted = run_cli(
        "predict", "--model-uri", "models:/resnet34/1", xrays, "--tracking-uri", store
    )
    assert predicted.exit_code == 1
    assert "are not those that were logged" in predicted.stderr
    (folder / "artifacts" / "weights.pt").unlink()
    with pytest.raises(ModelError, match="cannot read model 'models:/resnet34/1'"):
        load_local_model("models:/resnet34/1", store)
