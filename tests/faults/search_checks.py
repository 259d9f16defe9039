"""What the stores say about a search once its workers have ended, read from outside."""

from collections import Counter

import mlflow
import optuna
from mlflow.entities import Run

from pneumonia.search.queue import TrialQueue
from pneumonia.search.study import open_study
from pneumonia.search.trials import number_of, state_of
from tests.faults.checks import duplicates, every_run, history, registered, running
from tests.faults.report import Report

_ENDINGS = {"complete": "FINISHED", "pruned": "KILLED"}


def check_search(
    report: Report, store: mlflow.MlflowClient, study: optuna.Study, n_trials: int, network: str
) -> None:
    """Check what must hold of a search of ``n_trials``, whatever happened to its workers."""
    check = report.check
    trials = TrialQueue(study, None).trials()
    states = Counter(map(state_of, trials))
    found = "" if len(trials) == n_trials else f"{len(trials)} trials"
    check("the trial count is exact", found)
    numbers = Counter(map(number_of, trials))
    found = "" if sorted(numbers) == list(range(n_trials)) else f"trials {sorted(numbers)}"
    check("no trial is lost, none is there twice", found)
    bad = {state: n for state, n in states.items() if state not in _ENDINGS}
    check("every trial is complete or pruned", f"{bad}" if bad else "")
    runs = every_run(store)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    check("one search", "" if len(parents) == 1 else f"{len(parents)} runs without parent")
    ended = [run.info.status for run in parents]
    check("the search is FINISHED", "" if ended == ["FINISHED"] else f"{ended}")
    check("no run is left RUNNING", running(store))
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    tags = Counter(run.data.tags["trial"] for run in children)
    odd = {trial: n for trial, n in tags.items() if n != 1}
    found = "" if not odd and len(tags) == n_trials else f"{len(tags)} trials, {odd}"
    check("one run a trial", found)
    for trial in trials:
        _check_trial(report, store, trial, children)
    check("the winner is registered once", _versions(store, network))
    for parent in parents:
        check("no metric step of the search is there twice", _twice(store, parent))
        winner = parent.data.tags.get("winner.run_id")
        best = TrialQueue(study, None).best()
        right = best is not None and winner == best.user_attrs["run_id"]
        check("the winner is the best trial", "" if right else f"{winner}")
        kept = [
            c.info.run_id for c in children if store.list_artifacts(c.info.run_id, "checkpoints")
        ]
        check("the winner's checkpoint alone is kept", "" if kept == [winner] else f"{kept}")


def _check_trial(
    report: Report,
    store: mlflow.MlflowClient,
    trial: optuna.trial.FrozenTrial,
    children: list[Run],
) -> None:
    """Check that a trial's run says what the trial does."""
    number = str(number_of(trial))
    for child in (child for child in children if child.data.tags["trial"] == number):
        expected = (_ENDINGS.get(state_of(trial)), state_of(trial))
        said = (child.info.status, child.data.tags.get("trial.state"))
        found = "" if said == expected else f"trial {number}: {said}"
        report.check("its run ends as its trial does", found)
        twice = _twice(store, child)
        report.check("no metric step of a trial is there twice", twice and f"{number}: {twice}")
        steps = sorted(step for step, _ in history(store, child.info.run_id).get("val/auc", []))
        gap = "" if steps == list(range(1, len(steps) + 1)) else f"{steps}"
        report.check("no epoch of a trial is missing", gap and f"{number}: {gap}")


def _twice(store: mlflow.MlflowClient, run: Run) -> str:
    return duplicates(history(store, run.info.run_id))


def _versions(store: mlflow.MlflowClient, network: str) -> str:
    versions = registered(store, network)
    return "" if versions == ["1"] else f"versions {versions}"


def study_named(name: str, storage: str) -> optuna.Study:
    """Open a study."""
    study = open_study(name, storage)
    assert study is not None
    return study
