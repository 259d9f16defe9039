"""Cross-validation: out-of-fold scores, resuming, and the ensemble of the folds' networks."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from click.testing import Result
from optuna.trial import TrialState
from sklearn.metrics import roc_auc_score

from pneumonia import cores
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.search import launch
from pneumonia.tracking.local_state import LocalState, kept_runs
from pneumonia.tracking.models import load_model

Cli = Callable[..., Result]
QUICK = ("--network", "resnet34", "--image-size", "32", "--batch-size", "8")


def out_of_fold(client: mlflow.MlflowClient, run_id: str, folder: Path) -> list[dict[str, str]]:
    path = client.download_artifacts(run_id, "predictions_out_of_fold.csv", str(folder))
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_cross_validation_scores_every_image_out_of_fold(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    result = run_cli("cross-validate", "--data", xrays, *QUICK, "--epochs", 1, "--folds", 2)
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    runs = client.search_runs(["0"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3
    rows = out_of_fold(client, parent.info.run_id, workplace)
    assert len(rows) == sum(
        int(parent.data.params[f"dataset/{r}/images"]) for r in ("train", "validation")
    )
    folds_of: dict[str, set[str]] = {}
    for row in rows:
        folds_of.setdefault(row["patient"], set()).add(row["fold"])
    (threshold,) = {float(row["threshold"]) for row in rows}
    assert threshold == pytest.approx(parent.data.metrics["threshold"])
    for row in rows:
        called = "PNEUMONIA" if float(row["probability"]) >= threshold else "NORMAL"
        assert row["decision"] == called
    children = [run for run in runs if run is not parent]
    folds_best = [child.data.metrics["best/accuracy"] for child in children]
    for child in children:
        history = client.get_metric_history(child.info.run_id, "val/accuracy")
        assert [entry.step for entry in history] == [1]
        assert child.data.metrics["best/accuracy"] == history[0].value
    of_parent = parent.data.metrics
    labels = [int(row["label"]) for row in rows]
    pooled = roc_auc_score(labels, [float(row["probability"]) for row in rows])
    assert of_parent["cv/auc_pooled"] == pytest.approx(pooled)  # calibration keeps the order
    assert of_parent["cv/auc_low"] <= pooled <= of_parent["cv/auc_high"]
    assert of_parent["cv/accuracy_mean"] == pytest.approx(np.mean(folds_best))
    assert of_parent["cv/accuracy_sd"] == pytest.approx(np.std(folds_best, ddof=1))
    assert of_parent["best/accuracy"] == of_parent["cv/accuracy_mean"]
    assert not any(key.startswith("test/") for key in of_parent)
    assert re.search(r"auc +\d\.\d+ ± \d\.\d+ +pooled \d\.\d+ \(", result.stdout)


@pytest.mark.slow
def test_a_stopped_cross_validation_goes_on_as_if_it_had_not_been(
    workplace: Path,
    xrays: Path,
    run_cli: Cli,
    interrupt_epoch: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMONIA_STATE", str(workplace / "state"))
    command = ("cross-validate", "--data", xrays, *QUICK, "--epochs", 2, "--folds", 2)
    interrupt_epoch(3)  # the first epoch of the second fold
    stopped = run_cli(*command)
    assert stopped.exit_code == 130
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    begun = client.search_runs(["0"])
    (parent,) = [run for run in begun if "mlflow.parentRunId" not in run.data.tags]
    assert f"pneumonia cross-validate --resume {parent.info.run_id}" in stopped.stderr

    refused = run_cli("train", "--resume", parent.info.run_id)
    assert refused.exit_code == 2
    assert "is a cross-validation: 'pneumonia cross-validate --resume" in refused.stderr
    refused = run_cli("cross-validate", "--resume", parent.info.run_id, "--folds", "3")
    assert refused.exit_code == 2
    assert "--folds cannot be given with --resume" in refused.stderr

    resumed = run_cli("cross-validate", "--resume", parent.info.run_id)
    assert resumed.exit_code == 0, resumed.stderr
    assert "-f0 is trained already" in resumed.stderr
    assert "continuing after epoch 1" in resumed.stderr
    runs = client.search_runs(["0"])
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert kept_runs() == []
    for run in runs:
        assert client.list_artifacts(run.info.run_id, "checkpoints") == []

    whole = run_cli(*command, "--experiment-name", "whole")
    assert whole.exit_code == 0, whole.stderr
    (of_whole,) = client.search_experiments(filter_string="name = 'whole'")
    (other,) = client.search_runs([of_whole.experiment_id], "params.folds = '2'")
    (workplace / "whole").mkdir()
    rows = out_of_fold(client, parent.info.run_id, workplace)
    assert rows == out_of_fold(client, other.info.run_id, workplace / "whole")
    equal = run_cli("compare", parent.info.run_id, other.info.run_id, "--role", "out_of_fold")
    assert equal.exit_code == 0, equal.stderr
    again = run_cli("cross-validate", "--resume", parent.info.run_id)
    assert again.exit_code == 2
    assert "has finished" in again.stderr


@pytest.mark.slow
def test_a_second_process_trains_the_folds_that_no_other_trains(
    workplace: Path,
    xrays: Path,
    run_cli: Cli,
    interrupt_epoch: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMONIA_STATE", str(workplace / "state"))
    command = ("cross-validate", "--data", xrays, *QUICK, "--epochs", 1, "--folds", 3)
    interrupt_epoch(1)
    assert run_cli(*command).exit_code == 130
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (parent,) = client.search_runs(["0"], "tags.kind = 'cross-validation'")
    join = ("cross-validate", "--resume", parent.info.run_id, "--join")
    with LocalState(parent.info.run_id).claim("fold-0"):
        joined = run_cli(*join)
        assert joined.exit_code == 0, joined.stderr
    of_folds = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    status = {run.data.tags["fold"]: run.info.status for run in client.search_runs(["0"], of_folds)}
    assert status == {"0": "KILLED", "1": "FINISHED", "2": "FINISHED"}
    assert client.get_run(parent.info.run_id).info.status == "KILLED"  # it is not the joiner's

    resumed = run_cli("cross-validate", "--resume", parent.info.run_id, "--jobs", 1)
    assert resumed.exit_code == 0, resumed.stderr
    assert re.findall(r"-f(\d) is trained already", resumed.stderr) == ["1", "2"]
    whole = run_cli(*command, "--experiment-name", "whole", "--json")
    (of_whole,) = client.search_experiments(filter_string="name = 'whole'")
    (other,) = client.search_runs([of_whole.experiment_id], "params.folds = '3'")
    assert whole.exit_code == 0, whole.stderr
    (workplace / "whole").mkdir()
    rows = out_of_fold(client, parent.info.run_id, workplace)
    assert rows == out_of_fold(client, other.info.run_id, workplace / "whole")

    late = run_cli(*join)
    assert late.exit_code == 2
    assert "has finished: there is nothing to join" in late.stderr
    nothing = run_cli("cross-validate", "--data", xrays, "--join")
    assert nothing.exit_code == 2
    assert "--join needs the run to join" in nothing.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("workplace", "broken_python")
@pytest.mark.parametrize(
    ("command", "n_others"),
    [
        (("cross-validate", "--folds", 2), 1),
        (("cross-validate", "--folds", 2, "--jobs", 1), 0),
        (("train", "--seeds", 2), 1),
    ],
)
def test_folds_and_seeds_start_as_many_workers_as_make_them_faster(
    command: tuple[str | int, ...],
    n_others: int,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And finish without them, should they fail."""
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    monkeypatch.setattr(launch, "_MIN_SECONDS_LEFT", 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    result = run_cli(*command, "--data", xrays, *QUICK, "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("ended with exit code 7; the others go on") == n_others


@pytest.mark.slow
def test_the_ensemble_of_the_folds_answers_with_their_mean_probability(
    workplace: Path, xrays: Path, run_cli: Cli
) -> None:
    command = ("cross-validate", "--data", xrays, *QUICK, "--epochs", 1, "--folds", 2)
    result = run_cli(*command, "--register")
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (parent,) = client.search_runs(["0"], "params.folds = '2'")
    metrics = parent.data.metrics
    assert 0 <= metrics["test/auc_low"] <= metrics["test/auc"] <= metrics["test/auc_high"] <= 1
    uri = "models:/resnet34/1"
    assert uri in result.stdout
    model = load_model(uri)
    assert model.config.members == 2
    assert model.config.threshold == metrics["threshold"]

    test = sorted((xrays / "test").rglob("*.jpeg"))
    path = client.download_artifacts(parent.info.run_id, "predictions_test.csv", str(workplace))
    of_run = pd.read_csv(path).set_index("path")["probability"]
    rows = workplace / "rows.csv"
    options = ("--no-gate", "--precision", "fp32", "--output", rows)
    predicted = run_cli("predict", "--model-uri", uri, xrays / "test", *options)
    assert predicted.exit_code == 0, predicted.stderr
    table = pd.read_csv(rows).set_index("path")["probability"]
    served = mlflow.pyfunc.load_model(uri).predict(
        pd.DataFrame({"image": [file.read_bytes() for file in test]}), params={"gate": False}
    )
    for position, file in enumerate(map(str, test)):
        assert table[file] == pytest.approx(of_run[file], abs=1e-6)
        assert served["probability"][position] == pytest.approx(of_run[file], abs=1e-6)
    explained = run_cli("explain", "--model-uri", uri, xrays / "test", "--output", "maps")
    assert explained.exit_code in (0, 3), explained.stderr
    assert list((workplace / "maps").glob("*.png"))
    # Each image of the folds trained all members but one.
    refused = run_cli("recalibrate", "--model-uri", uri, "--data", xrays)
    assert "was trained on 59 of these 69 images" in refused.stderr


SEARCH = ("--epochs", 1, "--folds", 2, "--study", "night")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "said"),
    [(4, "t001-f0 is trained already"), (5, "continuing after epoch 1")],
    ids=["in the second fold of the second trial", "while the winner is trained"],
)
def test_a_trial_scored_by_folds_has_their_mean_and_goes_on_after_an_interrupt(
    epochs: int,
    said: str,
    workplace: Path,
    xrays: Path,
    run_cli: Cli,
    interrupt_epoch: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMONIA_STATE", str(workplace / "state"))
    command = ("train", "--data", xrays, *QUICK, *SEARCH, "--trials", 2, "--pruner", "none")
    interrupt_epoch(epochs)
    stopped = run_cli(*command)
    assert stopped.exit_code == 130, stopped.stderr
    other = run_cli(*command, "--resume", "--folds", 3)
    assert other.exit_code == 2
    assert "was begun with folds 2, not 3" in other.stderr
    resumed = run_cli(*command, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert said in resumed.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    runs = client.search_runs(["0"])
    assert len(runs) == 1 + 2 + 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{workplace}/optuna.db")
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 2
    for trial in complete:
        own = trial.user_attrs["run_id"]
        of_folds = [
            run.data.metrics["best/auc"]
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == own
        ]
        assert trial.value == pytest.approx(np.mean(of_folds))
        assert client.get_run(own).data.metrics["best/auc"] == pytest.approx(trial.value)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [m.step for m in client.get_metric_history(parent.info.run_id, "val/auc")] == [1]
    assert "models:/resnet34/1" in resumed.stdout
    assert load_model("models:/resnet34/1").run_id == parent.info.run_id
    assert kept_runs() == []


@pytest.mark.slow
def test_a_trial_whose_first_fold_is_poor_is_pruned(
    workplace: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measured(*arguments: object) -> dict[str, float]:
        calls.append(len(calls))
        metrics = classification_metrics(*arguments)  # type: ignore[arg-type]
        return {**metrics, "auc": 0.1 if calls[-1] == 6 else 0.9}  # trial 3, fold 0

    monkeypatch.setattr("pneumonia.training.validation.classification_metrics", measured)
    result = run_cli("train", "--data", xrays, *QUICK, *SEARCH, "--trials", 4)
    assert result.exit_code == 0, result.stderr
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{workplace}/optuna.db")
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]
    assert study.trials[3].intermediate_values == {1: 0.1}


def test_folds_without_trials_are_refused(xrays: Path, run_cli: Cli) -> None:
    result = run_cli("train", "--data", xrays, "--folds", 3)
    assert result.exit_code == 2
    assert "--folds scores the trials of a search: add --trials" in result.stderr
