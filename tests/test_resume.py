import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import optuna
import pytest
import torch
from click.testing import Result

from pneumonia import cores
from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.augment import augment
from pneumonia.data.dataset import Images, load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.errors import TrainingError
from pneumonia.search import launch
from pneumonia.search.queue import TrialQueue
from pneumonia.tracking.local_state import kept_runs
from pneumonia.training.checkpoint import Checkpoint, Epoch
from pneumonia.training.loop import Trained, train

Cli = Callable[..., Result]
QUICK = (
    *("--epochs", "2", "--image-size", "32", "--batch-size", "8", "--precision", "fp32"),
    *("--network", "simple_cnn"),
)
SETTINGS = TrainingSettings(
    image_size=32,
    epochs=2,
    batch_size=8,
    precision="fp32",
    ema=0.9,
    dropout=0.3,
    flip=0.5,
    clip_norm=1.0,
    class_weights="balanced",
)
UNLIKE = {"speed/images_per_second", "speed/epoch_seconds"}


@pytest.fixture(scope="module")
def images(xrays: Path) -> dict[str, Images]:
    preprocessing = Preprocessing(SETTINGS.image_size)
    return load_data_set(DataSettings(data=str(xrays)), preprocessing).open(preprocessing)


@pytest.fixture(scope="module")
def uninterrupted(images: dict[str, Images]) -> Trained:
    return train(SETTINGS, images, lambda _epoch: None)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PNEUMONIA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def assert_same(one: Trained, other: Trained) -> None:
    for mine, theirs in zip(one.history, other.history, strict=True):
        np.testing.assert_equal(  # for which NaN equals NaN
            {k: v for k, v in mine.items() if k not in UNLIKE},
            {k: v for k, v in theirs.items() if k not in UNLIKE},
        )
    assert one.best_epoch == other.best_epoch
    weights = other.network.state_dict()
    for key, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 11])  # of the first epoch and of the second
def test_training_asked_to_stop_goes_on_in_mid_epoch_to_the_same_bits(
    batch: int,
    images: dict[str, Images],
    uninterrupted: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return augment(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pneumonia.training.loop.augment", interrupted)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "the same")
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, images, lambda _epoch: None, checkpoint)
    assert len(calls) == batch  # the batch under way was finished, and no other begun
    torch.manual_seed(1234)  # whatever happens in between
    assert_same(train(SETTINGS, images, lambda _epoch: None, checkpoint), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 2])  # after the second, training is over
def test_an_epoch_that_was_kept_but_not_reported_is_reported_again(
    last: int, images: dict[str, Images], uninterrupted: Trained, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "the same")

    def dies(epoch: Epoch) -> None:
        if epoch["epoch"] == last:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        train(SETTINGS, images, dies, checkpoint)
    reported: list[Epoch] = []
    assert_same(train(SETTINGS, images, reported.append, checkpoint), uninterrupted)
    assert [epoch["epoch"] for epoch in reported] == [1, 2]


def test_a_second_interrupt_stops_at_once(
    images: dict[str, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*_arguments: object, **_options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("training went on")

    monkeypatch.setattr("pneumonia.training.loop.augment", impatient)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "the same")
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, images, lambda _epoch: None, checkpoint)
    assert not checkpoint.path.exists()


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(
    images: dict[str, Images], tmp_path: Path
) -> None:
    once = SETTINGS.with_values(epochs=1)
    path = tmp_path / "checkpoint.pt"
    train(once, images, lambda _epoch: None, Checkpoint(path, "one"))
    with pytest.raises(TrainingError, match="belongs to other settings or data"):
        train(once, images, lambda _epoch: None, Checkpoint(path, "other"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="is damaged"):
        train(once, images, lambda _epoch: None, Checkpoint(path, "one"))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def steps_of(client: mlflow.MlflowClient, run_id: str) -> dict[str, list[int]]:
    metrics = client.get_run(run_id).data.metrics
    return {key: [m.step for m in client.get_metric_history(run_id, key)] for key in metrics}


def test_a_stopped_run_goes_on_in_the_same_run(
    workplace: Path,
    state: Path,
    xrays: Path,
    run_cli: Cli,
    interrupt_epoch: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt_epoch(1)
    stopped = run_cli("train", "--data", xrays, *QUICK)
    assert stopped.exit_code == 130
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.metrics["best/auc"] == run.data.metrics["val/auc"]  # known before the end
    assert f"pneumonia train --resume {run.info.run_id}" in stopped.stderr
    assert [kept.run_id for kept in kept_runs()] == [run.info.run_id]

    refused = run_cli("train", "--resume", run.info.run_id, "--epochs", "9")
    assert refused.exit_code == 2
    assert "--epochs cannot be given with --resume" in refused.stderr

    monkeypatch.chdir(state.parent.parent)  # the run's store is known wherever one stands
    resumed = run_cli("train", "--resume", run.info.run_id)
    assert resumed.exit_code == 0, resumed.stderr
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    steps = steps_of(client, run.info.run_id)
    assert steps["train/loss"] == [1, 2]
    assert steps["test/auc"] == [0]
    aucs = [metric.value for metric in client.get_metric_history(run.info.run_id, "val/auc")]
    assert steps["best/auc"] == [1, 2][: 1 + (aucs[1] > aucs[0])]
    assert run.data.metrics["best/auc"] == max(aucs)
    assert kept_runs() == []
    assert len(client.search_model_versions("name='simple_cnn'")) == 1

    again = run_cli("train", "--resume", run.info.run_id)
    assert again.exit_code == 2
    assert "has finished" in again.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_a_search_that_was_stopped_goes_on_in_the_same_trial(
    workplace: Path, xrays: Path, run_cli: Cli, interrupt_epoch: Callable[[int], None]
) -> None:
    interrupt_epoch(3)  # the first epoch of the second trial
    search = ("--trials", 2, "--study", "night", "--pruner", "none")
    stopped = run_cli("train", "--data", xrays, *QUICK, *search)
    assert stopped.exit_code == 130, stopped.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    resumed = run_cli("train", "--data", xrays, *QUICK, *search, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "continuing after epoch 1" in resumed.stderr
    runs = client.search_runs(["0"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert {run.info.run_name for run in children} == {"simple_cnn-t000", "simple_cnn-t001"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for child in children:
        assert steps_of(client, child.info.run_id)["val/auc"] == [1, 2]
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{workplace}/optuna.db")
    assert len(study.trials) == 3  # the second one was begun twice
    assert len(TrialQueue(study, None).trials()) == 2
    assert parent.info.run_id == study.user_attrs["run_id"]
    assert len(client.search_model_versions("name='simple_cnn'")) == 1
    assert kept_runs() == []

    finished = run_cli("train", "--data", xrays, *QUICK, *search, "--resume")
    assert finished.exit_code == 2
    assert "study 'night' is finished, with 2 trials" in finished.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_workers_share_a_study_and_register_one_winner(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    search = ("--trials", 3, "--study", "shared", "--jobs", 2, "--pruner", "none")
    result = run_cli("train", "--data", xrays, *QUICK, *search, "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    assert "models:/simple_cnn/1" in result.stdout
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    runs = client.search_runs(["0"])
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {run.data.tags.get("mlflow.parentRunId", parent.info.run_id) for run in runs} == {
        parent.info.run_id
    }
    workers = {run.data.tags["process.id"] for run in runs if run is not parent}
    assert str(os.getpid()) in workers  # the other one may have come too late
    assert len(client.search_model_versions("name='simple_cnn'")) == 1
    assert "starting 1 more worker on this machine" in result.stderr
    other = run_cli("train", "--data", xrays, *QUICK, *search, "--epochs", 2, "--join")
    assert other.exit_code == 2
    assert "study 'shared' was begun with epochs 1, not 2" in other.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("workplace", "broken_python")
@pytest.mark.parametrize(
    ("n_trials", "options", "threads", "n_others"),
    [(8, (), None, 1), (7, (), None, 0), (8, ("--jobs", 1), None, 0), (8, (), "1", 0)],
)
def test_a_long_search_starts_as_many_workers_as_make_it_faster(
    n_trials: int,
    options: tuple[str | int, ...],
    threads: str | None,
    n_others: int,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    monkeypatch.setattr(launch, "_MIN_SECONDS_LEFT", 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    quick = (*QUICK, "--epochs", 1, "--subset", 0.3)
    result = run_cli("train", "--data", xrays, *quick, "--trials", n_trials, *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("ended with exit code 7; the others go on") == n_others


@pytest.mark.usefixtures("workplace", "broken_python")
def test_a_search_goes_on_without_a_worker_that_cannot_start(xrays: Path, run_cli: Cli) -> None:
    search = ("--trials", 2, "--jobs", 2, "--timeout", 3600)
    result = run_cli("train", "--data", xrays, *QUICK, *search, "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    # A worker that starts later has as much less time.
    asked = r"\[2\] no memory left for .* train --resume \w{32} --join .*--timeout 3[56]\d\d\n"
    assert re.search(asked, result.stderr)
    assert "[2] ended with exit code 7; the others go on" in result.stderr
    assert "models:/simple_cnn/1" in result.stdout


@pytest.mark.usefixtures("workplace")
def test_a_search_goes_on_where_no_process_can_be_started(
    xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    search = ("--trials", 2, "--jobs", 2)
    result = run_cli("train", "--data", xrays, *QUICK, *search, "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    assert "cannot start worker 2: " in result.stderr


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--resume",), "--resume needs the name of the study"),
        (("--join",), "--join needs the name of the study"),
        (("--resume", "0" * 32), f"run '{'0' * 32}' cannot be resumed"),
        (("--resume", "--study", "nigth"), "no study 'nigth' to resume"),
    ],
)
def test_what_cannot_be_resumed_is_named(
    arguments: tuple[str, ...], says: str, xrays: Path, run_cli: Cli
) -> None:
    where = () if "0" * 32 in arguments else ("--data", xrays)
    result = run_cli("train", *where, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_only_a_search_takes_a_timeout_when_it_is_resumed(
    trained: SimpleNamespace, run_cli: Cli
) -> None:
    store = ("--tracking-uri", trained.tracking_uri)
    (run,) = mlflow.MlflowClient(trained.tracking_uri).search_runs(["0"], "tags.kind = 'train'")
    refused = run_cli("train", "--resume", run.info.run_id, "--timeout", 5, *store)
    assert refused.exit_code == 2
    assert f"run {run.info.run_id} is no search: leave --timeout out" in refused.stderr
