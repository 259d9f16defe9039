"""Study storages: Optuna's own, opened so that many workers can share them."""

import logging
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import Dialect
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError, ProgrammingError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from pneumonia.errors import PneumoniaError, UsageError
from pneumonia.search.queue import TrialQueue
from pneumonia.search.storage_url import JOURNAL, local_file, storage_url
from pneumonia.tracking.outbox import patience
from pneumonia.tracking.store import create_once, while_others_create
from pneumonia.tracking.store_uri import SQLITE

log = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.ERROR)  # the worker logs each trial in one line

_HEARTBEAT_SECONDS, _GRACE_SECONDS = 20, 60


def open_storage(url: str) -> BaseStorage:
    """Open the study storage, creating the local sqlite one once.

    Args:
        url: A database URL, ``journal:///path`` for Optuna's journal in a file, or empty for
            ``optuna.db`` in the working directory.

    Raises:
        UsageError: The URL is none of Optuna's, or its database does not answer.
    """
    try:
        if database := local_file(url):
            if url.startswith(JOURNAL):
                database.parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(str(database)))
            create_once(database, _create_study_tables)
        return while_others_create(
            lambda: _with_heartbeat(storage_url(url)), IntegrityError, ProgrammingError
        )
    except (PneumoniaError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot open the study storage {url!r}: {first}") from None


def existing_storage(url: str) -> BaseStorage | None:
    """Open the study storage, but create nothing; None where its file is not there.

    Args:
        url: As ``open_storage`` takes it.

    Raises:
        UsageError: It holds no studies, or its database does not answer.
    """
    database = local_file(url)
    if database and not database.is_file():
        return None
    try:
        if database and storage_url(url).startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(str(database)))
        return _with_heartbeat(storage_url(url), skip_table_creation=True)
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot open the study storage {storage_url(url)!r}: {first}") from None


def queue_of(study: optuna.Study, storage: str) -> TrialQueue:
    """The study as a queue."""
    file = local_file(storage)
    return TrialQueue(study, file.with_name(f"{file.name}.queue.lock") if file else None)


def _with_heartbeat(url: str, *, skip_table_creation: bool = False) -> RDBStorage:
    # sqlite: other processes may be writing. PostgreSQL: the server may have been restarted.
    local = {"connect_args": {"timeout": 60}}
    storage = RDBStorage(
        url,
        engine_kwargs=local if url.startswith(SQLITE) else {"pool_pre_ping": True},
        heartbeat_interval=_HEARTBEAT_SECONDS,
        grace_period=_GRACE_SECONDS,
        skip_table_creation=skip_table_creation,
    )
    # Retry from here on only: a database that does not exist is an error at once.
    listen(storage.engine, "do_connect", _connect_patiently)
    return storage


def _connect_patiently(dialect: Dialect, _record: Any, arguments: Any, options: Any) -> Any:
    """Connect to a database; retry until the configured wait is over."""
    attempts = Retrying(
        retry=retry_if_exception_type(dialect.loaded_dbapi.OperationalError),
        wait=wait_fixed(1),
        stop=stop_after_delay(patience()),
        before_sleep=_warn_once,
        reraise=True,
    )
    return attempts(dialect.connect, *arguments, **options)


def _warn_once(attempt: RetryCallState) -> None:
    if attempt.attempt_number == 1 and attempt.outcome is not None:
        reason = str(attempt.outcome.exception()).splitlines()[0]
        log.warning("the study storage does not answer (%s): waiting for it", reason)


def _create_study_tables(database: Path) -> None:
    storage = RDBStorage(f"{SQLITE}{database}")
    storage.remove_session()
    storage.engine.dispose()  # the file may be moved now
