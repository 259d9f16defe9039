"""Whether the tracking store and the study storage answer."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from optuna.storages import BaseStorage

from pneumonia.doctor.checks import Issue, Mark, Remark, Section
from pneumonia.errors import PneumoniaError
from pneumonia.search.storage import existing_storage
from pneumonia.search.storage_url import storage_url
from pneumonia.search.study import known_studies
from pneumonia.tracking.moved import former_folder, update_locations
from pneumonia.tracking.store import connect, without_password
from pneumonia.tracking.store_uri import chosen_uri, local_database


@dataclass(frozen=True, slots=True)
class Stores:
    """What answers.

    Attributes:
        tracking_uri: The tracking store; None where it does not answer, or is not there yet.
        studies: The study storage; None likewise.
        section: What was found.
    """

    tracking_uri: str | None
    studies: BaseStorage | None
    section: Section


def check_location(tracking_uri: str | None) -> Iterator[Section]:
    """Whether a local store still names the folder that its project was moved from.

    Args:
        tracking_uri: As given by the user, or None.
    """
    database = local_database(chosen_uri(tracking_uri))
    if database is None or not database.is_file():
        return
    try:
        old = former_folder(database)
    except sqlite3.Error:  # no store of MLflow; check_stores says so
        return
    if old is not None:
        issue = Issue(
            f"store {str(database)!r} keeps its artifacts in {str(old)!r}, where the project was "
            "before it was moved or copied",
            "look for them beside the store",
            lambda: f"changed {update_locations(database):,} locations",
        )
        yield Section("Location", [issue])


def check_stores(tracking_uri: str | None, storage: str) -> Stores:
    """Open both, but create neither.

    Args:
        tracking_uri: As given by the user, or None.
        storage: Optuna storage URL, or empty.
    """
    uri, tracking = _tracking(tracking_uri)
    studies, study_storage = _studies(storage)
    return Stores(uri, studies, Section("Stores", [tracking, study_storage]))


def _tracking(tracking_uri: str | None) -> tuple[str | None, Remark]:
    uri = chosen_uri(tracking_uri)
    database = local_database(uri)
    if database and not database.is_file():
        return None, Remark(Mark.OK, f"tracking store {uri!r}: not there yet; a run creates it")
    try:
        connected = connect(tracking_uri)
    except PneumoniaError as error:
        return None, Remark(Mark.WRONG, without_password(str(error), uri))
    answer = f"tracking store {connected!r} answers"
    return connected, Remark(Mark.OK, without_password(answer, uri))


def _studies(storage: str) -> tuple[BaseStorage | None, Remark]:
    url = storage_url(storage)
    try:
        opened = existing_storage(storage)
        if opened is None:
            return None, Remark(
                Mark.OK, f"study storage {url!r}: not there yet; a search creates it"
            )
        answer = f"study storage {url!r} answers; it holds {len(known_studies(opened)):,}"
    except PneumoniaError as error:
        return None, Remark(Mark.WRONG, without_password(str(error), url))
    return opened, Remark(Mark.OK, without_password(answer, url))
