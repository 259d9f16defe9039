"""A project folder that was moved or copied: its local store names artifacts by their old path."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pneumonia.errors import TrackingError

_FOLDER = "mlruns"
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold the paths of artifacts."""


@dataclass(frozen=True, slots=True)
class _Location:
    table: str
    column: str
    rowid: int
    path: Path
    old: Path  # the former mlruns folder that path is in


def refuse_moved(database: Path) -> None:
    """Refuse a store that would write its artifacts into another project's folder.

    Raises:
        TrackingError: It would.
    """
    if old := former_folder(database):
        raise TrackingError(
            f"the store {str(database)!r} keeps its artifacts in {str(old)!r}, where this project "
            f"was before it was moved or copied: 'pneumonia doctor --fix' changes that to "
            f"{str(database.parent / _FOLDER)!r}"
        )


def former_folder(database: Path) -> Path | None:
    """The artifact folder that a moved or copied store still names; None where there is none."""
    return next((location.old for location in _moved(database)), None)


def update_locations(database: Path) -> int:
    """Rewrite the old paths of artifacts to those beside the store; returns how many."""
    moved = list(_moved(database))
    with closing(sqlite3.connect(database)) as connection, connection:
        for location in moved:
            inside = location.path.relative_to(location.old)
            connection.execute(
                f"UPDATE {location.table} SET {location.column} = ? WHERE rowid = ?",  # noqa: S608
                ((database.parent / _FOLDER / inside).as_uri(), location.rowid),
            )
    return len(moved)


def _moved(database: Path) -> Iterator[_Location]:
    """The locations in a former folder of the project.

    A location belongs to a former folder if what it names lies beside the store, or if that folder
    is gone with the store's first experiment; another experiment may have been given a folder that
    is yet to be made.
    """
    here = database.parent / _FOLDER
    home: Path | None = None
    with closing(sqlite3.connect(database)) as connection:
        for table, column in _LOCATIONS:
            rows = connection.execute(f"SELECT rowid, {column} FROM {table}")  # noqa: S608 - ours
            for rowid, location in rows.fetchall():
                path, old = _path(location), _mlruns(_path(location))
                if path is None or old is None:
                    continue
                home = home or old  # that of the first experiment, which came with the store
                gone = old == home and not old.parent.is_dir()
                copied = (here / path.relative_to(old)).exists()
                if old.resolve() != here.resolve() and (gone or copied):
                    yield _Location(table, column, rowid, path, old)


def _mlruns(path: Path | None) -> Path | None:
    """The innermost ``mlruns`` above a path; None where there is none."""
    above = path.parents if path else ()
    return next((folder for folder in above if folder.name == _FOLDER), None)


def _path(location: str | None) -> Path | None:
    """The local folder of an artifact location; None where it is elsewhere."""
    url = urlsplit(location or "")
    if url.scheme == "file":
        return Path(unquote(url.path))
    return Path(location) if location and location.startswith("/") else None
