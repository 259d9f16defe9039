"""When a search stops a trial early, and when it must not."""

from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import optuna
import pytest
from click.testing import Result
from mlflow.entities import Run
from optuna.trial import TrialState

from pneumonia.evaluation.metrics import classification_metrics

Cli = Callable[..., Result]
QUICK = (
    "--subset",
    "0.5",
    "--epochs",
    "3",
    "--image-size",
    "32",
    "--batch-size",
    "8",
    "--network",
    "simple_cnn",
)


def search(
    folder: Path,
    xrays: Path,
    run_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    auc: Mapping[int, float],
    *options: object,
) -> tuple[list[optuna.trial.FrozenTrial], Run, dict[str, Run]]:
    """Search with four trials whose n-th validation, from 0, has the AUC ``auc[n]``, else 0.9."""
    calls: list[int] = []

    def measured(*arguments: object) -> dict[str, float]:
        calls.append(len(calls))
        metrics = classification_metrics(*arguments)  # type: ignore[arg-type]
        return {**metrics, "auc": auc.get(calls[-1], 0.9)}

    monkeypatch.setattr("pneumonia.training.validation.classification_metrics", measured)
    arguments = ("--trials", 4, "--study", "night", *options)
    result = run_cli("train", "--data", xrays, *QUICK, *arguments)
    assert result.exit_code == 0, result.stderr
    study = optuna.load_study(study_name="night", storage=f"sqlite:///{folder}/optuna.db")
    runs = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["0"])
    (parent,) = [run for run in runs if "trial" not in run.data.tags]
    children = {run.data.tags["trial"]: run for run in runs if "trial" in run.data.tags}
    return study.trials, parent, children


@pytest.mark.slow
def test_a_trial_below_the_median_is_pruned_after_the_second_epoch(
    workplace: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial below the median stops after epoch 2, but not among the first three trials."""
    bad = {**dict.fromkeys(range(6, 9), 0.1), 9: 0.3, 10: 0.2, 11: 0.2}  # trials 2 and 3
    trials, parent, children = search(workplace, xrays, run_cli, monkeypatch, bad)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]
    assert list(trials[3].intermediate_values) == [1, 2]
    pruned = children["3"]
    assert (pruned.info.status, pruned.data.tags["trial.state"]) == ("KILLED", "pruned")
    assert pruned.data.metrics["best/auc"] == pytest.approx(0.3)
    assert pruned.data.metrics["best/epoch"] == 1
    assert parent.data.tags["winner.trial"] == "0"


@pytest.mark.slow
def test_a_trial_that_starts_badly_and_recovers_is_not_pruned(
    workplace: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad first epoch alone never stops a trial: the first epoch is warm-up."""
    recovers = {9: 0.1, 10: 0.95, 11: 0.95}
    trials, parent, _ = search(workplace, xrays, run_cli, monkeypatch, recovers)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert parent.data.tags["winner.trial"] == "3"
