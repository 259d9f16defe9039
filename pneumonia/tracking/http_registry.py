"""Registered models of an MLflow server, read by its REST interface, without importing MLflow.

Only what needs no more than that is done here: a server without authentication, a version or an
alias, and files that the server itself hands out. In every other case the caller asks MLflow.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import urlopen

from pneumonia.tracking.model_files import (
    DIGEST_TAG,
    FILES,
    LoadedModel,
    ModelLocation,
    read_model,
)
from pneumonia.tracking.store_uri import chosen_uri

_SECONDS = 10
"""How long to wait for the server before MLflow is asked, which waits and retries as it is set."""

_SERVED = "mlflow-artifacts"
"""Scheme of artifacts that the tracking server hands out."""


def load_http_model(uri: str, tracking_uri: str | None = None) -> LoadedModel | None:
    """Read a registered model as ``load_model`` does, without MLflow.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        tracking_uri: As ``connect`` takes it.

    Returns:
        The model; None where MLflow must be asked: the URI is of another form or names nothing, the
        store is no server, it does not answer or wants credentials, or the files are elsewhere.

    Raises:
        ModelError: It is not one of our models, or its files are not those that were logged.
    """
    server = chosen_uri(tracking_uri).rstrip("/")
    if not server.startswith(("http://", "https://")) or _needs_mlflow(server):
        return None
    asked = uri.removeprefix("models:/").strip("/")
    name, _, alias = asked.partition("@")
    query, wanted = "registered-models/alias", {"name": name, "alias": alias}
    if not alias:
        name, _, version = asked.partition("/")
        query, wanted = "model-versions/get", {"name": name, "version": version}
        if not uri.startswith("models:/") or not version.isdecimal():
            return None
    try:
        found = _ask(server, query, wanted)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", ())}
        given = {"name": name, "version": found["version"]}
        folder = _ask(server, "model-versions/get-download-uri", given)["artifact_uri"]
        location = ModelLocation(
            f"models:/{name}/{found['version']}",
            folder,
            found.get("run_id") or tags.get("run_id"),
            registered=True,
            sha256=tags.get(DIGEST_TAG, ""),
        )
        if urlsplit(folder).scheme != _SERVED or urlsplit(folder).netloc:
            return None
        with tempfile.TemporaryDirectory() as copied:
            for file in FILES:
                _download(server, f"{urlsplit(folder).path}/artifacts/{file}", Path(copied, file))
            return read_model(Path(copied), location)
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None  # no answer, or none that is known here


def _needs_mlflow(server: str) -> bool:
    """Whether something is set that only MLflow knows, such as credentials or certificates."""
    known = {"MLFLOW_TRACKING_URI"}
    set_otherwise = {
        name
        for name in os.environ
        if name.startswith(("MLFLOW_TRACKING_", "MLFLOW_WORKSPACE", "DATABRICKS_"))
    } - known
    credentials = Path.home() / ".mlflow" / "credentials"
    registry = os.environ.get("MLFLOW_REGISTRY_URI", server).rstrip("/")
    has_user = bool(urlsplit(server).username)
    return bool(set_otherwise) or has_user or registry != server or credentials.is_file()


def _ask(server: str, path: str, query: Mapping[str, str]) -> Any:
    with _open(f"{server}/api/2.0/mlflow/{path}?{urlencode(query)}") as answer:
        return json.load(answer)


def _download(server: str, path: str, target: Path) -> None:
    url = f"{server}/api/2.0/{_SERVED}/artifacts/{quote(path.lstrip('/'))}"
    with _open(url) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file)


def _open(url: str) -> IO[bytes]:
    answer: IO[bytes] = urlopen(url, timeout=_SECONDS)  # noqa: S310 - http or https, see above
    return answer
