"""What could not be logged arrives later: once, in order, in the store it belongs to."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import Result
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from pneumonia.processes import this_process
from pneumonia.tracking import outbox as outbox_module
from pneumonia.tracking.local_state import LocalState, kept_runs
from pneumonia.tracking.outbox import Entry, Outbox, deliver_kept, kept_entries
from pneumonia.tracking.run_lifecycle import NewRun, start_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import connect

Cli = Callable[..., Result]


class Store:
    """A real sqlite store that can be unplugged; a process that dies logs to it."""

    def __init__(self, uri: str, patch: pytest.MonkeyPatch) -> None:
        self.uri = connect(uri)
        self.client = mlflow.MlflowClient(uri)
        self.away = False
        self.delivered: list[str] = []
        self.refused: str | None = None
        self.deaf_after = -1
        for name in ("log_batch", "log_artifact", "set_terminated"):
            patch.setattr(mlflow.MlflowClient, name, self._guarded(name))

    def _guarded(self, name: str) -> object:
        answer = getattr(mlflow.MlflowClient, name)

        def guarded(client: object, run_id: str, *arguments: object, **options: object) -> None:
            if self.away:
                raise MlflowException("unplugged", error_code=TEMPORARILY_UNAVAILABLE)
            if run_id == self.refused:
                raise MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)
            answer(client, run_id, *arguments, **options)
            self.delivered.append(name)
            if len(self.delivered) == self.deaf_after:
                self.away = True  # it has written, and its answer is lost
                raise MlflowException("unplugged", error_code=TEMPORARILY_UNAVAILABLE)

        return guarded

    def steps(self, run: Run, key: str = "val/auc") -> list[int]:
        return [m.step for m in self.client.get_metric_history(run.id, key)]

    def tags(self, run: Run) -> dict[str, str]:
        return dict(self.client.get_run(run.id).data.tags)

    def status(self, run: Run) -> str:
        return str(self.client.get_run(run.id).info.status)


@pytest.fixture
def as_dead(dead: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Log as a process would that is dead by the time of 'sync'."""
    for module in ("local_state", "runs", "run_lifecycle"):
        monkeypatch.setattr(f"pneumonia.tracking.{module}.this_process", lambda: dead)


@pytest.fixture
def store(workplace: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PNEUMONIA_STATE", str(workplace / "state"))
    monkeypatch.setenv("PNEUMONIA_PATIENCE", "0")
    outbox_module._outbox_of.cache_clear()
    shutil.copy(empty_store, workplace / "mlflow.db")
    yield Store(f"sqlite:///{workplace}/mlflow.db", monkeypatch)
    outbox_module._outbox_of.cache_clear()


def die_during_an_outage(store: Store, name: str = "cut off", status: str = "FINISHED") -> Run:
    """Two epochs arrive, three are kept, with a file and how the run ended."""
    run = start_run(NewRun(name, {}, "0"))
    for epoch in range(1, 6):
        store.away = epoch > 2
        run.log_metrics({"val/auc": epoch / 10, "val/loss": 1 / epoch}, step=epoch)
        run.tag({"epoch": str(epoch)})
    run.log_text("five epochs", "notes.txt")
    run.end(status)
    store.away = False
    outbox_module._outbox_of.cache_clear()  # its process dies
    assert len(kept_entries(run.id)) == 8
    return run


@pytest.mark.usefixtures("as_dead")
def test_what_waited_arrives_once_and_in_order_and_ends_the_run(store: Store, run_cli: Cli) -> None:
    run = die_during_an_outage(store)
    assert store.status(run) == "RUNNING"
    result = run_cli("sync")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run.id}  8 delivered, FINISHED\n"
    assert store.steps(run) == store.steps(run, "val/loss") == [1, 2, 3, 4, 5]
    assert store.tags(run)["epoch"] == "5"
    assert store.status(run) == "FINISHED"
    assert [item.path for item in store.client.list_artifacts(run.id)] == ["notes.txt"]
    assert kept_runs() == []
    assert run_cli("sync").stdout == "Nothing waits to be delivered.\n"


@pytest.mark.usefixtures("as_dead")
@pytest.mark.parametrize("answers", [1, 2, 7, 8])
def test_a_store_that_falls_silent_midway_loses_and_doubles_nothing(
    answers: int, store: Store, run_cli: Cli
) -> None:
    run = die_during_an_outage(store)
    store.deaf_after = len(store.delivered) + answers
    cut = run_cli("sync")
    assert cut.exit_code == 1
    assert len(cut.stderr.splitlines()) == 1
    assert f"at run {run.id}, {answers - 1} of 8 delivered (unplugged)" in cut.stderr
    assert "the waiting entries are kept" in cut.stderr
    store.away = False
    assert run_cli("sync").exit_code == 0
    assert store.steps(run) == [1, 2, 3, 4, 5]
    assert store.tags(run)["epoch"] == "5"
    assert store.status(run) == "FINISHED"


@pytest.mark.usefixtures("as_dead")
def test_a_store_that_is_not_there_takes_nothing_and_is_not_made(
    store: Store, workplace: Path, run_cli: Cli
) -> None:
    run = die_during_an_outage(store)
    with sqlite3.connect("mlflow.db") as here, sqlite3.connect("moved.db") as there:
        here.backup(there)
    for file in workplace.glob("mlflow.db*"):
        file.unlink()
    result = run_cli("sync")
    assert result.exit_code == 1
    assert f"Error: the tracking store '{store.uri}' is not there" in result.stderr
    assert not (workplace / "mlflow.db").exists()
    assert len(kept_entries(run.id)) == 8

    moved = run_cli("sync", "--tracking-uri", f"sqlite:///{workplace}/moved.db")
    assert moved.exit_code == 0, moved.output
    assert f"{run.id}  8 delivered, FINISHED" in moved.stdout


@pytest.mark.usefixtures("as_dead")
def test_each_run_goes_to_the_store_it_was_begun_in(
    store: Store, empty_store: Path, workplace: Path, run_cli: Cli
) -> None:
    first = die_during_an_outage(store)
    shutil.copy(empty_store, workplace / "other.db")
    connect(f"sqlite:///{workplace}/other.db")
    parent = start_run(NewRun("parent", {}, "0"))
    store.away = False
    child = parent.child("child", {"trial": "0"})
    store.away = True
    child.log_metrics({"val/auc": 0.5}, step=1)
    child.end("KILLED", "pruned")
    store.away = False
    outbox_module._outbox_of.cache_clear()
    assert LocalState(child.id).read_run_config_file() is None
    result = run_cli("sync")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2
    assert store.status(first) == "FINISHED"
    known = mlflow.MlflowClient(f"sqlite:///{workplace}/other.db").get_run(child.id)
    assert known.info.status == "KILLED"
    assert known.data.metrics == {"val/auc": 0.5}
    assert known.data.tags["trial.state"] == "pruned"
    assert kept_runs() == []


@pytest.mark.usefixtures("as_dead")
@pytest.mark.parametrize("deleted", [True, False])
def test_a_run_that_cannot_take_it_is_named_and_the_others_get_theirs(
    deleted: bool, store: Store, run_cli: Cli
) -> None:
    runs = [die_during_an_outage(store, name) for name in ("one", "two", "three")]
    stuck = min(runs, key=lambda run: run.id)
    if deleted:
        store.client.delete_run(stuck.id)
    else:
        store.refused = stuck.id
    result = run_cli("sync")
    assert result.exit_code == 1
    why = "the run was deleted" if deleted else "the store refuses what comes next (no such thing)"
    assert f"{stuck.id}  0 delivered" in result.stdout
    assert f"8 wait: {why}" in result.stdout
    assert "Error: 1 of 3 runs could not be brought up to date" in result.stderr
    for run in runs:
        assert store.status(run) == ("RUNNING" if run is stuck else "FINISHED")
    assert len(kept_entries(stuck.id)) == 8


@pytest.mark.usefixtures("as_dead")
def test_a_run_that_was_stopped_keeps_what_it_goes_on_from(store: Store, run_cli: Cli) -> None:
    run = die_during_an_outage(store, status="KILLED")
    run.local.checkpoint.write_bytes(b"weights")
    assert run_cli("sync").exit_code == 0
    assert store.status(run) == "KILLED"
    assert run.local.checkpoint.exists()
    assert kept_entries(run.id) == []


def test_a_process_at_work_delivers_for_itself(store: Store, run_cli: Cli) -> None:
    run = start_run(NewRun("at work", {}, "0"))
    store.away = True
    run.log_metrics({"val/auc": 0.5}, step=1)
    store.away = False
    result = run_cli("sync")
    assert result.exit_code == 0, result.output
    assert f"1 wait: process {this_process()['process.id']} on" in result.stdout
    assert len(kept_entries(run.id)) == 1


@pytest.mark.usefixtures("store")
def test_workers_that_log_to_one_run_do_not_overwrite_what_another_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = Outbox(), Outbox()
    write = Entry.write

    def write_late(entry: Entry, path: Path) -> None:
        if "one" in entry.content:  # the other keeps something in the very same moment
            other._keep("shared", Entry("tags", {"other": entry.content["one"]}))
        write(entry, path)

    monkeypatch.setattr(Entry, "write", write_late)
    for number in range(3):
        one._keep("shared", Entry("tags", {"one": str(number)}))
    delivered: list[tuple[str, str]] = []
    deliver_kept("shared", lambda _run_id, entry: delivered.extend(entry.content.items()))
    for worker in ("one", "other"):
        assert [number for name, number in delivered if name == worker] == ["0", "1", "2"]
    assert kept_entries("shared") == []
