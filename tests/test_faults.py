"""One kill and one outage of those that ``faults/`` does at length."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import requests
from click.testing import Result

from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.outbox import Entry, Outbox, kept_entries
from pneumonia.tracking.run_lifecycle import NewRun, continue_run, start_run
from pneumonia.tracking.store import connect
from tests.faults.checks import Finding, client, duplicates, every_run, history
from tests.faults.commands import Forks
from tests.faults.kill_point import KillPoint
from tests.faults.sandbox import QUICK, Sandbox

Cli = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.xdist_group("forks")
def test_a_run_killed_while_it_logs_its_model_ends_as_if_it_had_not_been(
    tmp_path: Path, xrays: Path, forks: Forks
) -> None:
    found = []
    train = ["train", "--data", str(xrays), *QUICK, "--network", "simple_cnn", "--epochs", "1"]
    train += ["--experiment-name", "night"]
    for name, kill_point in (
        ("undisturbed", None),
        ("killed", KillPoint("finalize_model", "before")),
    ):
        sandbox = Sandbox(tmp_path / name, xrays)
        sandbox.folder.mkdir()
        process = forks.start(sandbox, train, "train", kill_point)
        process.join()
        store = client(sandbox.tracking_uri)
        (run,) = every_run(store)
        if kill_point is not None:
            assert process.exitcode == -9
            assert run.info.status == "RUNNING"
            assert forks.run(sandbox, ["train", "--resume", run.info.run_id], "resume") == 0
        (run,) = every_run(store)
        assert run.info.status == "FINISHED"
        assert not duplicates(history(store, run.info.run_id))
        assert len(store.search_logged_models([run.info.experiment_id])) == 1
        assert not list((sandbox.state / "runs").iterdir())
        found.append(Finding.of(store, run.info.run_id, "simple_cnn"))
    assert not found[0].difference(found[1])


def test_what_two_workers_keep_for_one_run_arrives_though_one_of_them_died(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(f"sqlite:///{workplace}/mlflow.db")
    run = start_run(NewRun("search", {}, "0"))
    deliver = mlflow.MlflowClient.log_batch

    def away(*_arguments: object, **_keywords: object) -> None:
        raise requests.ConnectionError("the server is being started anew")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", away)
    one, other = Outbox(), Outbox()
    for step in range(6):
        worker = one if step % 2 else other
        worker.send(run.id, Entry("metrics", {"metrics": [("auc", 0.5, 1000 + step, step)]}))
    assert len(kept_entries(run.id)) == 6
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", deliver)
    assert one.flush()
    resumed = continue_run(run.id)
    assert not resumed.log_metrics({"auc": 0.7}, step=5)
    assert resumed.log_metrics({"auc": 0.7}, step=6)
    logged = mlflow.MlflowClient().get_metric_history(run.id, "auc")
    assert [metric.step for metric in logged] == list(range(7))
    assert not kept_entries(run.id)
    LocalState(run.id).remove()
