"""The tracking store: choose it, create it once, and check that it answers."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from pneumonia.errors import TrackingError
from pneumonia.tracking.moved import refuse_moved
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.store_uri import SQLITE, chosen_uri, local_database

T = TypeVar("T")

_ATTEMPTS_TO_CREATE = 10


def connect(tracking_uri: str | None = None) -> str:
    """Choose the tracking store, create it if it is a local one, and check that it answers.

    Args:
        tracking_uri: As given by the user; then ``MLFLOW_TRACKING_URI``; then an sqlite store in
            the working directory.

    Returns:
        The tracking URI, with local paths made absolute.

    Raises:
        TrackingError: The server or store does not answer, or names a former folder.
    """
    # A progress bar for a few small files is of no use.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = chosen_uri(tracking_uri)
    if database := local_database(uri):
        if "MLFLOW_RUN_ID" in os.environ and not database.exists():
            raise TrackingError(
                f"the run that 'mlflow run' began is not in {uri!r}, which is not there: name the "
                "store by its absolute path, since a project runs in its own folder"
            )
        create_once(database, _create_mlflow_tables)
        refuse_moved(database)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif _is_server_database(uri):
        _check_database(uri)
    registry = os.environ.get("MLFLOW_REGISTRY_URI")
    # MLflow exports the registry that is set: one in the former store was not the user's choice.
    if registry is None or registry == mlflow.get_tracking_uri():
        registry = uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry)

    def ask() -> object:
        return mlflow.MlflowClient().search_experiments(max_results=1)

    try:
        if _is_server_database(uri):
            while_others_create(ask, Exception)
        else:
            ask()
    except Exception as error:
        raise _unreachable(uri, str(error)) from error
    return uri


def while_others_create(open_database: Callable[[], T], *collisions: type[Exception]) -> T:
    """Open a database on a server, while other processes may be creating its tables.

    Only one succeeds: the others fail with ``collisions``, and retry.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(collisions),
        wait=wait_fixed(1),
        stop=stop_after_attempt(_ATTEMPTS_TO_CREATE),
        reraise=True,
    )
    return attempts(open_database)


def _is_server_database(uri: str) -> bool:
    return uri.startswith(("postgresql", "mysql", "mssql"))


def _check_database(uri: str) -> None:
    """Connect once; MLflow itself would try for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:  # ImportError: its driver
        raise _unreachable(uri, str(error)) from None


def choose_experiment(name: str | None = None) -> str:
    """Find the experiment to log to; one that is named is created where there is none.

    Args:
        name: The experiment's name; by default ``MLFLOW_EXPERIMENT_ID`` decides, then
            ``MLFLOW_EXPERIMENT_NAME``, then it is ``Default``.

    Returns:
        Its id.

    Raises:
        TrackingError: It was deleted, cannot be created, or there is none of that id.
    """
    client = mlflow.MlflowClient()
    given = os.environ.get("MLFLOW_EXPERIMENT_ID") if name is None else None
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
    try:
        found = client.get_experiment(given) if given else _named_experiment(client, name)
    except MlflowException as error:
        chosen = f"of MLFLOW_EXPERIMENT_ID {given!r}" if given else repr(name)
        raise TrackingError(
            f"cannot use experiment {chosen}: {_first_line(error)} Choose another with "
            "--experiment-name"
        ) from None
    if found.lifecycle_stage == LifecycleStage.DELETED:
        raise TrackingError(
            f"experiment {found.name!r} was deleted: choose another with --experiment-name, or "
            f"restore it with 'mlflow experiments restore -x {found.experiment_id}'"
        )
    return str(found.experiment_id)


def _named_experiment(client: mlflow.MlflowClient, name: str) -> Experiment:
    """The experiment of a name; created, with its artifacts beside a local store, if need be."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found
    try:
        created = client.create_experiment(name, artifact_location=_artifact_location(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process may have been faster
        if found is None:
            raise
        return found
    return client.get_experiment(created)


def tracking_uri() -> str:
    """The store chosen by ``connect``."""
    return str(mlflow.get_tracking_uri())


def shown_uri() -> str:
    """The store chosen by ``connect`` without its password, for messages."""
    return without_password(tracking_uri(), tracking_uri())


def create_once(database: Path, create: Callable[[Path], None]) -> None:
    """Create an sqlite database under a lock: several processes at once would corrupt it.

    It is created under another name and then renamed, since a partly created one cannot be
    repaired. An existing one is upgraded in place.

    Raises:
        TrackingError: The folder cannot be written to, the file is no database, or a newer
            version of MLflow or Optuna wrote it.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            building = database.with_name(f".{database.name}.building")
            for left in database.parent.glob(f"{building.name}*"):  # by a process that was killed
                left.unlink()
            file = database if database.exists() else building
            create(file)
            with sqlite3.connect(file) as connection:
                # Readers and a writer no longer lock each other out.
                connection.execute("PRAGMA journal_mode=wal")
            connection.close()
            file.replace(database)
    except (CommandError, OSError, sqlite3.Error, SQLAlchemyError, MlflowException) as error:
        # Alembic and MLflow each say in their own words that they do not know these tables.
        if isinstance(error, CommandError) or "database schema" in str(error):
            raise TrackingError(
                f"the store {str(database)!r} was written by another version of its library: "
                "upgrade the library with 'pip install -U mlflow optuna', or an older store with "
                f"'mlflow db upgrade {SQLITE}{database}'"
            ) from None
        if "file is not a database" in str(error):  # in the words of sqlite
            raise TrackingError(
                f"{str(database)!r} is not an sqlite database: move it away, or choose another "
                "store"
            ) from None
        raise TrackingError(
            f"cannot create the store {str(database)!r}: {_first_line(error)}"
        ) from None


def _create_mlflow_tables(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"{SQLITE}{database}", (database.parent / "mlruns").as_uri())
    store.engine.dispose()  # the file may be moved now


def _artifact_location(name: str) -> str | None:
    database = local_database(mlflow.get_tracking_uri())
    if database is None:
        return None  # the server knows
    folder = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    return (database.parent / "mlruns" / folder).as_uri()


def _check_server(uri: str) -> None:
    """Ask once, with MLflow's credentials, certificates and proxies, but not for minutes.

    Any answer will do: who may do what is for MLflow to say.
    """
    try:
        http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            timeout=10,
            max_retries=0,
            raise_on_status=False,
        )
    except (MlflowException, OSError, ValueError) as error:
        raise _unreachable(uri, str(error)) from None


def without_password(text: str, url: str) -> str:
    """Hide the password of a URL in a text: logs and reports are shown to others."""
    password = urlsplit(url).password
    return text.replace(f":{password}@", ":***@") if password else text


def _unreachable(uri: str, reason: str) -> TrackingError:
    first = reason.splitlines()[0] if reason else "no answer"
    message = (
        f"the tracking store {uri!r} does not answer ({first}): start it, or choose another with "
        "--tracking-uri or MLFLOW_TRACKING_URI"
    )
    return TrackingError(without_password(message, uri))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def latest_experiment() -> str:
    """Identifier of the experiment with the latest run, or of the first one."""
    client = mlflow.MlflowClient()
    identifiers = [item.experiment_id for item in search_all(client.search_experiments)]
    runs = client.search_runs(identifiers, order_by=["attributes.start_time DESC"], max_results=1)
    return str(runs[0].info.experiment_id) if runs else identifiers[-1]
