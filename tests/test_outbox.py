"""What is logged while the tracking store is away."""

import logging
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from pneumonia.errors import TrackingError
from pneumonia.tracking import outbox as outbox_module
from pneumonia.tracking.outbox import kept_entries, outbox
from pneumonia.tracking.run_lifecycle import NewRun, run_context, start_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import choose_experiment, connect


class Store:
    """A real sqlite store that can be unplugged."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.uri = connect(f"sqlite:///{folder}/mlflow.db")
        choose_experiment("Default")
        for name in ("log_batch", "log_artifact", "set_terminated", "create_run"):
            patch.setattr(mlflow.MlflowClient, name, self._guarded(name))

    def _guarded(self, name: str) -> object:
        answer = getattr(mlflow.MlflowClient, name)

        def guarded(*arguments: object, **options: object) -> object:
            if self.away:
                raise MlflowException("unplugged", error_code=TEMPORARILY_UNAVAILABLE)
            return answer(*arguments, **options)

        return guarded

    def steps(self, run: Run, key: str) -> list[int]:
        return [m.step for m in mlflow.MlflowClient(self.uri).get_metric_history(run.id, key)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PNEUMONIA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PNEUMONIA_PATIENCE", "0")
    outbox_module._outbox_of.cache_clear()
    yield Store(tmp_path, monkeypatch)
    outbox_module._outbox_of.cache_clear()


def test_everything_arrives_once_and_in_order_when_the_store_is_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pneumonia")
    run = start_run(NewRun("unplugged", {}, "0"))
    with run_context(run):
        for step in range(1, 9):
            store.away = step in (3, 4, 5)
            run.log_metrics({"val/auc": step / 10}, step=step)
            run.tag({"last": str(step)})
            run.log_text(f"{step}", f"steps/{step}.txt")
            if step == 4:
                assert len(kept_entries(run.id)) == 6
            run.outbox._next_try = 0.0  # time flies
    assert store.steps(run, "val/auc") == list(range(1, 9))
    client = mlflow.MlflowClient(store.uri)
    known = client.get_run(run.id)
    assert known.data.tags["last"] == "8"
    assert known.info.status == "FINISHED"
    assert len(client.list_artifacts(run.id, "steps")) == 8
    assert kept_entries(run.id) == []
    assert [r.levelname for r in caplog.records].count("WARNING") == 1


def test_what_was_never_delivered_is_kept_and_told(store: Store) -> None:
    run = start_run(NewRun("unplugged", {}, "0"))

    def log_two_epochs() -> None:
        with run_context(run):
            run.log_metrics({"val/auc": 0.5}, step=1)
            store.away = True
            run.log_metrics({"val/auc": 0.6}, step=2)

    with pytest.raises(TrackingError, match="'pneumonia sync' logs it once"):
        log_two_epochs()
    assert len(kept_entries(run.id)) == 2  # the metric, and how the run ended
    store.away = False
    assert outbox().flush(wait=True)
    assert store.steps(run, "val/auc") == [1, 2]


@pytest.mark.usefixtures("store")
def test_a_store_that_refuses_is_not_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run(NewRun("refused", {}, "0"))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise MlflowException("no such thing", error_code=INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    with pytest.raises(MlflowException, match="no such thing"):
        run.log_metrics({"val/auc": 0.5}, step=1)
    assert kept_entries(run.id) == []


def test_a_new_run_waits_for_the_store_no_longer_than_patience(store: Store) -> None:
    run = start_run(NewRun("parent", {}, "0"))
    store.away = True
    with pytest.raises(TrackingError, match="does not answer: unplugged"):
        run.child("child", {})


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_no_pattern_of_outages_loses_or_doubles_a_metric(
    tmp_path_factory: pytest.TempPathFactory, outages: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("outages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMONIA_STATE", str(folder / "state"))
        outbox_module._outbox_of.cache_clear()
        delivered: list[int] = []
        store = outbox()

        def log_batch(_run_id: str, metrics: list[mlflow.entities.Metric]) -> None:
            if away:
                raise MlflowException("unplugged", error_code=TEMPORARILY_UNAVAILABLE)
            delivered.extend(metric.step for metric in metrics)

        patch.setattr(store.client, "log_batch", log_batch)
        for step, away in enumerate(outages):  # noqa: B007 - log_batch looks at it
            entry = outbox_module.Entry("metrics", {"metrics": [("m", 0.0, step, step)]})
            store.send("run", entry)
            store._next_try = 0.0
        away = False
        assert store.flush()
        assert delivered == list(range(len(outages)))
        outbox_module._outbox_of.cache_clear()
