"""Registered models of a server are read without MLflow, and are those that MLflow reads."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch

from pneumonia.errors import ModelError
from pneumonia.tracking.http_registry import load_http_model
from pneumonia.tracking.models import load_model, log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.store import connect
from tests.faults.server import Server

URI = "models:/resnet34/1"


@pytest.fixture(scope="module")
def server(
    trained: SimpleNamespace, xrays: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with one registered model, which has an alias."""
    connect(trained.tracking_uri)
    model = load_model(URI)
    started = Server(tmp_path_factory.mktemp("server"))
    started.start()
    try:
        connect(started.url)
        example = next((xrays / "test" / "NORMAL").iterdir()).read_bytes()
        assert model.gate is not None
        with parent_run(NewRun("copied", {"kind": "train"}, "0")) as run:
            network, config = model.network, model.config
            logged = log_model(run, network, config, model.gate, step=0, example=example)
            metrics = ("auc", "sensitivity", "specificity", "balanced_accuracy")
            validation = dict.fromkeys(metrics, 0.9)
            register(logged, run, "resnet34", metric="auc", validation=validation, tags={})
        mlflow.MlflowClient().set_registered_model_alias("resnet34", "chosen", "1")
        yield started
    finally:
        started.stop()


@pytest.mark.slow
def test_a_version_and_an_alias_are_those_of_mlflow(server: Server) -> None:
    connect(server.url)
    theirs = load_model(URI)
    for asked in (URI, "models:/resnet34@chosen"):
        ours = load_http_model(asked, f"{server.url}/")
        assert ours is not None
        assert (ours.uri, ours.run_id, ours.config) == (theirs.uri, theirs.run_id, theirs.config)
        weights, others = ours.network.state_dict(), theirs.network.state_dict()
        assert all(torch.equal(weights[name], others[name]) for name in others)
    for nothing in ("models:/resnet34/2", "models:/resnet34@none", "models:/resnet34/latest"):
        assert load_http_model(nothing, server.url) is None


@pytest.mark.slow
def test_predict_does_not_import_mlflow_for_a_server(server: Server, xrays: Path) -> None:
    code = (
        "import sys; from pneumonia.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        "print({'mlflow', 'sqlalchemy', 'pandas'} & set(sys.modules))"
    )
    image = next((xrays / "test" / "NORMAL").iterdir())
    words = ["predict", "--model-uri", URI, image, "--tracking-uri", server.url]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert image.name in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_changed_weights_on_a_server_are_refused(server: Server) -> None:
    (weights,) = (server.folder / "artifacts").rglob("weights.pt")
    original = weights.read_bytes()
    weights.write_bytes(original + b"more")
    try:
        with pytest.raises(ModelError, match="are not those that were logged"):
            load_http_model(URI, server.url)
    finally:
        weights.write_bytes(original)


@contextmanager
def answering(status: int, content: bytes) -> Iterator[str]:
    """A server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()


_S3 = {"model_version": {"version": "1"}, "artifact_uri": "s3://bucket/model"}


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (401, b"who are you?"),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}'),
        (500, b""),
        (200, b"<html>a proxy's page</html>"),
        (200, b"[]"),
        (200, b"\xff\xfe"),
        (200, json.dumps(_S3).encode()),
    ],
)
def test_mlflow_is_asked_where_the_answer_is_another(status: int, content: bytes) -> None:
    with answering(status, content) as url:
        assert load_http_model(URI, url) is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "sqlite:///mlflow.db", "http://user:secret@127.0.0.1:9", "file:x"]
)
def test_mlflow_is_asked_about_other_stores(url: str) -> None:
    assert load_http_model(URI, url) is None


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_WORKSPACE"]
)
def test_mlflow_is_asked_where_it_has_settings_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request without credentials must not even be made."""
    with answering(200, b"{}") as url:
        monkeypatch.setenv(name, "true")
        monkeypatch.setattr("pneumonia.tracking.http_registry.urlopen", None)
        assert load_http_model(URI, url) is None
