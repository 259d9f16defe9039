"""Starting, joining, continuing and ending runs."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from pneumonia.errors import TrackingError, UsageError
from pneumonia.processes import describe_process, is_alive, this_process
from pneumonia.tracking.outbox import outbox
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.provenance import git_state, versions
from pneumonia.tracking.runs import Run, find_run
from pneumonia.tracking.store import shown_uri

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start.

    Attributes:
        name: Its name.
        tags: Its tags, beside those of the process and the versions.
        experiment_id: The experiment it belongs to, as ``choose_experiment`` finds it.
    """

    name: str
    tags: Mapping[str, str]
    experiment_id: str


@contextmanager
def parent_run(new: NewRun) -> Iterator[Run]:
    """Start a run, or join the one that ``mlflow run`` started, and end it as the block ends.

    An interrupt ends it as KILLED, an error as FAILED with the reason in the tag ``error``.

    Raises:
        TrackingError: The store does not answer, or refuses.
    """
    with run_context(start_run(new)) as run:
        yield run


def start_run(new: NewRun) -> Run:
    """Start a run, or join the one that ``mlflow run`` started.

    Raises:
        TrackingError: The store does not answer, or refuses.
    """
    client = mlflow.MlflowClient()
    given = os.environ.get("MLFLOW_RUN_ID")
    own = {**new.tags, **this_process(), **versions(), **git_state()}
    try:
        if given:
            client.update_run(given, status="RUNNING", name=new.name)
            run = Run(client.get_run(given))
            run.tag(own)
            return run
        # Tags come with the creation: if this process dies now, they name the process.
        of_mlflow = resolve_tags({"mlflow.source.name": "pneumonia"})
        # MLflow's commit is that of the repository around the script that was started.
        context = {k: v for k, v in of_mlflow.items() if not k.startswith("mlflow.source.git.")}
        return Run(client.create_run(new.experiment_id, tags=context | own, run_name=new.name))
    except MlflowException as error:
        raise TrackingError(f"cannot start a run: {str(error).splitlines()[0]}") from None


@contextmanager
def run_context(run: Run, shared: Callable[[], bool] = lambda: False) -> Iterator[Run]:
    """End a run as the block ends: FINISHED, KILLED by an interrupt, or FAILED by an error.

    Args:
        run: The run.
        shared: Whether other processes continue the run, which then does not end.

    Raises:
        TrackingError: The store refuses something, or stopped answering.
    """
    try:
        yield run
    except KeyboardInterrupt:
        if not shared():
            run.end("KILLED")
        run.outbox.flush()
        raise
    except BaseException as error:
        if not shared():
            run.tag({"error": f"{type(error).__name__}: {error}"[:5000]})
            run.end("FAILED")
        run.outbox.flush()
        if isinstance(error, MlflowException):
            raise TrackingError(f"logging failed: {str(error).splitlines()[0]}") from error
        raise
    run.outbox.adopt(run.id)  # what dead workers could not log
    ended = not shared()
    if ended:
        run.end("FINISHED")
    if not run.outbox.flush(wait=True):
        raise TrackingError(
            f"the tracking store {shown_uri()!r} does not answer: what was not logged yet is kept "
            "on disk, and 'pneumonia sync' logs it once the store answers"
        )
    if ended:
        run.local.remove()


@contextmanager
def resumable(run: Run, command: str) -> Iterator[None]:
    """Be the only process that works on a run, within a ``run_context``.

    Where the block is interrupted, the command that resumes the run is logged.

    Args:
        run: The run.
        command: The command of ``pneumonia``, with its options, without ``--resume``.

    Raises:
        TrackingError: As ``run_context``.
        UsageError: Another process of this machine works on the run.
    """
    try:
        with run.local.alone(), run_context(run):
            yield
    except KeyboardInterrupt:
        log.info("Resume it with: pneumonia %s --resume %s", command, run.id)
        raise


def left_running(experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """Identifier of a run with these tags whose process has died, or None."""
    store = outbox()
    found = store.ask(
        lambda: list(
            search_all(store.client.search_runs, [experiment_id], "attributes.status = 'RUNNING'")
        )
    )
    for run in found:
        if tags.items() <= run.data.tags.items() and not is_alive(run.data.tags):
            return str(run.info.run_id)
    return None


def children_of(run: Run, tag: str) -> dict[str, Run]:
    """The runs below a run, by a tag of theirs, such as ``fold``; of two alike, a finished one.

    What dead workers of this machine could not log to them is delivered first.
    """
    store = run.outbox
    query = f"tags.`mlflow.parentRunId` = '{run.id}'"

    def below() -> list[Run]:
        found = search_all(store.client.search_runs, [run.experiment_id], query)
        return [Run(child) for child in found]

    for child in store.ask(below):
        store.adopt(child.id)
    store.flush(wait=True)
    children: dict[str, Run] = {}
    for child in store.ask(below):  # again, with what was just delivered
        name = child.tags.get(tag)
        if name is not None and (name not in children or child.status == "FINISHED"):
            children[name] = child
    return children


def end_if_dead(run_id: str) -> bool:
    """End a run as KILLED if its process, on this machine, has died; returns whether it had."""
    try:
        run = find_run(run_id)
    except TrackingError:
        return False
    if run.status != "RUNNING" or is_alive(run.tags) is not False:
        return False
    run.end("KILLED")
    return True


def continue_run(run_id: str, *, alone: bool = False) -> Run:
    """Continue a run that was stopped, or whose process has died.

    Args:
        run_id: The run.
        alone: Whether to refuse a run that has finished or that another process works on.

    Raises:
        TrackingError: There is none, or the store does not answer.
        UsageError: The run has finished, or another process works on it.
    """
    store = outbox()
    found = find_run(run_id)
    if alone and found.status == "FINISHED":
        found.local.remove()  # its process may have died just before
        raise UsageError(f"run {run_id} has finished: there is nothing to resume")
    if alone and found.status == "RUNNING" and is_alive(found.tags):
        raise UsageError(f"run {run_id} is running, in {describe_process(found.tags)}: wait for it")
    store.adopt(run_id)
    run = Run(store.ask(lambda: store.client.get_run(found.id)), continued=True)
    # Tags before the status: a running run must never name a dead process.
    run.tag({**this_process(), "error": ""} if "error" in run.tags else this_process())
    store.ask(lambda: store.client.update_run(run_id, status="RUNNING"))
    run.status = "RUNNING"
    return run
