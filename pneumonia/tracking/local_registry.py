"""Registered models of a local sqlite store, read without MLflow.

Importing MLflow and SQLAlchemy, and opening a store by them, takes three seconds: more than a few
predictions do. So the tables are read directly where they are those that this module knows, and in
every other case the caller asks MLflow.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pneumonia.errors import ModelError
from pneumonia.tracking.model_files import DIGEST_TAG, LoadedModel, ModelLocation, read_model
from pneumonia.tracking.moved import refuse_moved
from pneumonia.tracking.store_uri import chosen_uri, local_database

_SCHEMA = "dc11669786a5"
"""Alembic's revision of the tables of MLflow 3.17."""

_VERSIONS = """
SELECT version, storage_location, run_id FROM model_versions
WHERE name = :name AND workspace = 'default' AND current_stage != 'Deleted_Internal'
AND CASE
    WHEN :alias != '' THEN version IN (
        SELECT version FROM registered_model_aliases
        WHERE name = :name AND workspace = 'default' AND alias = :alias)
    ELSE :wanted IN ('latest', CAST(version AS TEXT))
END
ORDER BY version DESC
"""
_TAGS = """
SELECT key, value FROM model_version_tags
WHERE name = ? AND version = ? AND workspace = 'default'
"""


def load_local_model(uri: str, tracking_uri: str | None = None) -> LoadedModel | None:
    """Read a registered model as ``load_model`` does, without MLflow.

    Args:
        uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``models:/NAME/latest``.
        tracking_uri: As ``connect`` takes it.

    Returns:
        The model; None where MLflow must be asked: the URI is of another form or names nothing, the
        store is no local sqlite one or is of another version, or the model's files are elsewhere.

    Raises:
        ModelError: It is not one of our models, or its files are not those that were logged.
        TrackingError: The store names a former folder.
    """
    store = chosen_uri(tracking_uri)
    database = local_database(store)
    if not uri.startswith("models:/") or database is None or not database.is_file():
        return None
    if os.environ.get("MLFLOW_REGISTRY_URI", store) != store or "MLFLOW_WORKSPACE" in os.environ:
        return None
    try:
        location = _find_version(uri, database)
    except sqlite3.Error:  # another schema, or no database at all
        return None
    folder = _local_folder(location.folder) if location else None
    if location is None or folder is None or not folder.is_dir():
        return None
    refuse_moved(database)
    try:
        return read_model(folder / "artifacts", location)
    except OSError as error:
        raise ModelError(f"cannot read model {uri!r} ({error}): register it anew") from None


def _find_version(uri: str, database: Path) -> ModelLocation | None:
    asked = uri.removeprefix("models:/").strip("/")
    name, _, alias = asked.partition("@")
    wanted = ""
    if not alias:
        name, _, wanted = asked.partition("/")
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as store:
        (schema,) = store.execute("SELECT version_num FROM alembic_version").fetchone()
        if schema != _SCHEMA:
            return None
        given = {"name": name, "alias": alias, "wanted": wanted}
        found = store.execute(_VERSIONS, given).fetchone()
        if found is None:
            return None
        version, folder, run_id = found
        tags = dict(store.execute(_TAGS, (name, version)).fetchall())
    return ModelLocation(
        f"models:/{name}/{version}",
        folder or "",
        run_id or tags.get("run_id"),
        registered=True,
        sha256=tags.get(DIGEST_TAG, ""),
    )


def _local_folder(location: str) -> Path | None:
    """The folder that a storage location names; None where it is no local one."""
    if location.startswith("file:"):
        return Path(url2pathname(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None
