"""Deliver the entries that ended processes could not log while their store did not answer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from pneumonia.errors import TrackingError
from pneumonia.processes import describe_process, is_alive
from pneumonia.tracking.local_state import LocalState, kept_runs
from pneumonia.tracking.lookup import existing_run
from pneumonia.tracking.outbox import deliver_kept, is_outage, kept_entries, outbox
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import connect
from pneumonia.tracking.store_uri import chosen_uri, local_database


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a run's entries.

    Attributes:
        run_id: The run.
        delivered: How many arrived.
        waiting: How many still wait.
        status: MLflow's status of the run afterwards; empty where it is not known.
        remark: Why some still wait; empty where none does.
        failed: Whether the user has to do something about it.
    """

    run_id: str
    delivered: int
    waiting: int
    status: str = ""
    remark: str = ""
    failed: bool = False


def deliver_all(given: str | None = None) -> Iterator[Delivery]:
    """Deliver the waiting entries of this machine, run by run, unless the run's process is alive.

    A run goes to the given store if that has it, and else to the store it was begun in. Its
    entries keep their order, and only what has arrived is removed.

    Args:
        given: A tracking URI; then also the store of runs that do not know theirs.

    Yields:
        Each run that had waiting entries.

    Raises:
        TrackingError: A store does not answer; raised after all other stores were served.
    """
    given = chosen_uri(given) if given else None
    waiting: dict[str, LocalState] = {}
    for local in kept_runs():
        if not kept_entries(local.run_id):
            continue
        if is_alive(local.read_owner()):
            yield _at_work(local.run_id, local.read_owner())
        else:
            waiting[local.run_id] = local
    silent: list[TrackingError] = []
    for uri in _stores(waiting.values(), given):
        own = [local for local in waiting.values() if uri in (_store_of(local, given), given)]
        if not own:  # the given store had them all
            continue
        try:
            _connect(uri)
            for local in own:
                run = existing_run(local.run_id)
                if run is None and _store_of(local, given) != uri:
                    continue
                del waiting[local.run_id]
                yield _deliver(local, run)
        except TrackingError as error:
            silent.append(error)
    if silent:
        raise TrackingError(f"{'; '.join(map(str, silent))}; the waiting entries are kept")


def _store_of(local: LocalState, given: str | None) -> str:
    return local.tracking_uri or given or chosen_uri()


def _stores(waiting: Iterable[LocalState], given: str | None) -> list[str]:
    """The given store first, then the others in the order of their runs."""
    stores = [_store_of(local, given) for local in waiting]
    return list(dict.fromkeys([given, *stores] if given and stores else stores))


def _connect(uri: str) -> None:
    database = local_database(uri)
    if database and not database.is_file():
        raise TrackingError(
            f"the tracking store {uri!r} is not there: put it back, or name the present one with "
            "--tracking-uri"
        )
    connect(uri)


def _deliver(local: LocalState, run: Run | None) -> Delivery:
    number = len(kept_entries(local.run_id))
    if run is None:
        remark = "the run was deleted; 'pneumonia doctor --fix' removes its waiting entries"
        return Delivery(local.run_id, 0, number, remark=remark, failed=True)
    if run.status == "RUNNING" and is_alive(run.tags):
        return _at_work(run.id, run.tags)
    try:
        deliver_kept(run.id, outbox().deliver)
    except (MlflowException, OSError, ValueError) as error:  # ValueError: no entry of ours
        left = len(kept_entries(run.id))
        first = (str(error) or type(error).__name__).splitlines()[0]
        if is_outage(error):
            raise TrackingError(
                f"the tracking store stopped answering at run {run.id}, {number - left:,} of "
                f"{number:,} delivered ({first})"
            ) from error
        remark = f"the store refuses what comes next ({first})"
        return Delivery(run.id, number - left, left, run.status, remark, failed=True)
    status = ended.status if (ended := existing_run(run.id)) else ""
    if status == "FINISHED" or not (local.checkpoint.exists() or local.run_config.exists()):
        local.remove()
    return Delivery(run.id, number, len(kept_entries(run.id)), status)


def _at_work(run_id: str, tags: dict[str, str]) -> Delivery:
    remark = f"{describe_process(tags)} works on the run, and delivers them itself"
    return Delivery(run_id, 0, len(kept_entries(run_id)), remark=remark)
