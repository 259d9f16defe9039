"""URIs of tracking stores, without MLflow."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from pneumonia.errors import UsageError

SQLITE = "sqlite:///"
"""How the URI of an sqlite store begins."""


def chosen_uri(tracking_uri: str | None = None) -> str:
    """The store that ``connect`` would choose, with local paths made absolute."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    return absolute_sqlite_url(uri) if uri.startswith(SQLITE) else uri


def absolute_sqlite_url(url: str) -> str:
    """An sqlite URL with its path made absolute.

    Raises:
        UsageError: The path holds what means something else in a URL.
    """
    text, mark, query = url.removeprefix(SQLITE).partition("?")
    path = str(Path(unquote(text)).absolute())  # as SQLAlchemy reads it
    # MLflow makes a stray folder of a path that is quoted, so these two cannot be used.
    special = re.search(r"\?|%[0-9A-Fa-f]{2}", path)
    if special or not re.match(r"\w+=|$", query):
        raise UsageError(
            f"the path {path + mark + query!r} holds {special[0] if special else mark!r}, which "
            "means something else in a database URL: rename the folder, or choose a store elsewhere"
        )
    return f"{SQLITE}{path}{mark}{query}"


def local_database(uri: str) -> Path | None:
    """The file a store is, where it is an sqlite one."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])
