"""URLs of study storages, without Optuna."""

from pathlib import Path

from pneumonia.tracking.store_uri import SQLITE, absolute_sqlite_url

JOURNAL = "journal:///"
"""How the URL of Optuna's journal in a file begins."""


def storage_url(url: str) -> str:
    """The storage's URL, with the local default and local paths made absolute."""
    if url.startswith(JOURNAL):
        return f"{JOURNAL}{Path(url.removeprefix(JOURNAL)).absolute()}"
    url = url or f"{SQLITE}optuna.db"
    return absolute_sqlite_url(url) if url.startswith(SQLITE) else url


def local_file(url: str) -> Path | None:
    """The file a storage is, where it is one."""
    absolute = storage_url(url)
    for scheme in (SQLITE, JOURNAL):
        if absolute.startswith(scheme):
            return Path(absolute.removeprefix(scheme).partition("?")[0])
    return None
