import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import pytest
from click.testing import Result

from pneumonia.cli import cli
from pneumonia.config.experiment import experiment_files, load_experiment
from pneumonia.errors import UsageError
from pneumonia.tracking.epochs import epoch_line

Cli = Callable[..., Result]
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--network", "simple_cnn")


def client_at(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


def test_a_training_run_holds_everything(trained: SimpleNamespace) -> None:
    client = mlflow.MlflowClient(trained.tracking_uri)
    # Other tests add runs of predictions to the same store.
    run = client.search_runs(["0"], order_by=["attributes.start_time"])[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "1"
    assert int(run.data.params["dataset/train/images"]) > 20
    for keys in (run.data.params, run.data.metrics):  # a file store has files and folders for them
        assert not [(a, b) for a in keys for b in keys if b.startswith(f"{a}/")]
    assert {"train/loss", "val/accuracy", "val/auc", "test/sensitivity"} <= run.data.metrics.keys()
    assert run.data.tags["version.torch"]
    assert run.data.tags["git.dirty"] in {"true", "false", "unknown"}
    contexts = {entry.tags[0].value: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert contexts.keys() == {"training", "validation", "test"}
    names = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert names == {
        f"figures/{name}.png"
        for name in (
            "augmented",
            "curves",
            "confusion_validation",
            "confusion_test",
            "roc_validation",
            "roc_test",
            "scores_test",
            "scores_validation",
            "gallery",
            "grad_cam",
            "reliability_validation",
            "stress",
            "subgroups_test",
        )
    }
    checkpoints = {item.path for item in client.list_artifacts(run.info.run_id, "checkpoints")}
    assert checkpoints == {"checkpoints/best.pt", "checkpoints/class_indices.json"}
    version = client.get_model_version("resnet34", "1")
    assert version.run_id == run.info.run_id
    assert version.tags["data.digest"] == run.data.tags["data.digest"]
    assert "models:/resnet34/1" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_search_keeps_every_trial_and_scores_only_the_winner_on_test(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    arguments = ("train", "--data", xrays, *QUICK, "--trials", 3, "--study", "night")
    result = run_cli(*arguments)
    assert result.exit_code == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("study night: ")]
    assert re.fullmatch(r".* 1 of 3 trials done, best auc .* about \d+s left", said[0])
    assert said[-1].startswith("study night: 3 of 3 trials done, best auc")
    assert "left" not in said[-1]
    client = client_at(workplace)
    runs = client.search_runs(["0"])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {child.info.run_name for child in children} == {f"simple_cnn-t00{n}" for n in range(3)}
    assert {child.data.tags["trial.state"] for child in children} == {"complete"}
    assert not any(key.startswith("test/") for child in children for key in child.data.metrics)
    assert "test/auc" in parent.data.metrics
    kinds = {key.partition("/")[0] for key in parent.data.metrics}
    kept = {"threshold", "threshold_low", "threshold_high", "temperature"}
    # The winner's curves stay in its own run.
    assert kinds == {"best", "search", "stress", "test", *kept}
    # The list of runs shows a search that still runs by its best so far, and trials by their data.
    so_far = client.get_metric_history(parent.info.run_id, "best/auc")
    assert so_far[0].step < 1
    assert len({metric.step for metric in so_far}) == len(so_far)
    for child in children:
        assert child.data.params["data"] == parent.data.params["data"]
        assert child.data.tags["network"] == "simple_cnn"
    steps = client.get_metric_history(parent.info.run_id, "search/best")
    assert [metric.step for metric in steps] == [0, 1, 2]
    assert [metric.value for metric in steps] == sorted(metric.value for metric in steps)
    assert all({"best/auc", "best/epoch"} <= child.data.metrics.keys() for child in children)
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{workplace}/optuna.db")
    assert len(study.trials) == 3
    assert parent.data.metrics["best/auc"] == pytest.approx(study.best_trial.value)
    winner = study.best_trial.user_attrs["run_id"]
    assert parent.data.tags["winner.run_id"] == winner
    assert f"(#/experiments/0/runs/{winner}) won" in parent.data.tags["mlflow.note.content"]
    kept = [c for c in children if client.list_artifacts(c.info.run_id, "checkpoints")]
    assert [c.info.run_id for c in kept] == [parent.data.tags["winner.run_id"]]
    assert "| trial | state | val auc |" in parent.data.tags["mlflow.note.content"]

    again = run_cli(*arguments)
    assert again.exit_code == 2
    assert "study 'night' exists" in again.stderr
    resumed = run_cli(*arguments[:-4], "--trials", 4, "--study", "night", "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{workplace}/optuna.db")
    assert len(study.trials) == 4


@pytest.mark.slow
def test_a_search_ends_in_time_and_keeps_its_study_where_told(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    storage = f"sqlite:///{workplace}/studies/all.db"
    search = ("--trials", 50, "--timeout", 5, "--pruner", "hyperband", "--storage", storage)
    result = run_cli("train", "--data", xrays, *QUICK, *search, "--study", "night")
    assert result.exit_code == 0, result.stderr
    trials = optuna.load_study(study_name="night", storage=storage).trials
    finished = [trial for trial in trials if trial.state.is_finished()]
    assert 1 <= len(finished) < 50
    assert len(trials) == 50
    assert not (workplace / "optuna.db").exists()


@pytest.mark.slow
def test_a_failing_trial_is_recorded_and_does_not_end_the_study(
    workplace: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumonia.errors import TrainingError
    from pneumonia.search import worker

    train, calls = worker.train, []

    def sometimes(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise TrainingError("training loss is nan in epoch 1")
        trained = train(*arguments, **options)
        if len(calls) > 2:
            return trained
        return replace(trained, history=[{**e, "val/auc": math.nan} for e in trained.history])

    monkeypatch.setattr(worker, "train", sometimes)
    result = run_cli("train", "--data", xrays, *QUICK, "--trials", 3)
    assert result.exit_code == 0, result.stderr
    states = {
        run.info.run_name: (run.info.status, run.data.tags["trial.state"])
        for run in client_at(workplace).search_runs(["0"])
        if "mlflow.parentRunId" in run.data.tags
    }
    assert states["simple_cnn-t000"] == ("FAILED", "failed")
    assert states["simple_cnn-t001"] == ("FAILED", "failed")
    assert states["simple_cnn-t002"] == ("FINISHED", "complete")
    assert "trial 0 failed: training loss is nan" in result.stderr
    assert "trial 1 failed: validation auc was never a number" in result.stderr


@pytest.mark.parametrize("name", experiment_files())
def test_experiment_files_are_valid(name: str) -> None:
    experiment = load_experiment(name, {})
    assert experiment.name == name


def test_the_report_is_run_as_it_was() -> None:
    for network in ("simple_cnn", "resnet34"):
        experiment = load_experiment(f"report_{network}", {})
        training, data = experiment.training, experiment.data
        assert (training.network, training.epochs, training.optimizer) == (network, 10, "adam")
        roles = (data.train_folders, data.validation_folders, data.test_folders)
        assert roles == ("train", "test", "val")
    assert load_experiment("report_resnet34", {}).training.weights == "imagenet"


def test_options_override_the_file_and_leave_the_space() -> None:
    experiment = load_experiment("resnet34", {"learning_rate": 0.5, "split_seed": 7})
    assert experiment.training.learning_rate == 0.5
    assert experiment.data.split_seed == 7
    assert "learning_rate" not in experiment.space
    assert "weight_decay" in experiment.space


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[training]\nepoch = 3", r"unknown key 'epoch': did you mean 'epochs'"),
        ("[training]\nepochs = 'ten'", r"epochs = 'ten' is a str"),
        ("[trainig]", r"unknown key 'trainig': did you mean 'training'"),
        ("[space]\nlearning_rat = {low = 1, high = 2}", r"did you mean 'learning_rate'"),
        ("[space]\nlearning_rate = {low = 2.0, high = 1.0}", r"low must not be above high"),
        ("[space]\noptimizer = {choices = ['sgd']}", r"unknown optimizer 'sgd'"),
        ("epochs = ", r"not TOML"),
    ],
)
def test_wrong_experiment_files_name_file_key_and_value(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        load_experiment(str(file), {})
    assert str(file) in str(caught.value)


@pytest.mark.slow
def test_the_start_says_what_differs_from_the_experiment_file(
    xrays: Path, workplace: Path, run_cli: Cli
) -> None:
    assert workplace.is_dir()
    result = run_cli("train", "--data", xrays, *QUICK, "--register", "false")
    assert result.exit_code == 0, result.stderr
    settings = [line.strip() for line in result.stderr.splitlines() if " = " in line]
    assert settings == ["image_size = 32", "epochs = 1", "batch_size = 8", f"data = {xrays}"]
    (line,) = [line for line in result.stderr.splitlines() if "epoch 1/1" in line]
    assert line.startswith("epoch 1/1  loss ")
    assert len(line) < 80
    quiet = run_cli("--quiet", "train", "--data", xrays, *QUICK, "--register", "false")
    assert quiet.exit_code == 0
    assert "epoch" not in quiet.stderr
    verbose = run_cli("--verbose", "train", "--data", xrays, *QUICK, "--register", "false")
    assert "  label_smoothing = " in verbose.stderr
    assert "  label_smoothing = " not in quiet.stderr
    assert "test " in quiet.stdout


def test_an_epochs_line_fits_a_terminal() -> None:
    epoch = {"epoch": 10, "train/loss": 0.6931, "val/loss": 10.5, "val/auc": 1.0}
    epoch |= {"val/sensitivity": 1.0, "val/specificity": 1.0, "speed/images_per_second": 1234.5}
    line = epoch_line("t012", 100, epoch | {"speed/epoch_seconds": 66.0})
    assert line == (
        "t012 epoch 10/100 loss 0.693 val 10.500 auc 1.0000 sens 1.00 spec 1.00 99m left"
    )
    assert len(line) < 80
    last = epoch_line("", 10, epoch | {"speed/epoch_seconds": 66.0})
    assert last.endswith("1234/s")
    assert len(last) < 80


def test_help_lists_every_command_by_purpose(run_cli: Cli) -> None:
    shown = run_cli("--help").stdout
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", shown, re.MULTILINE)
    assert sorted(listed) == sorted(cli.commands)
    assert shown.index("Train:") < shown.index("Use a model:") < shown.index("After a crash")
