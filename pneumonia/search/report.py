"""How the trials of a study compare, as text for a terminal and as Markdown for MLflow."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pneumonia.errors import UsageError, nearest
from pneumonia.search.importance import importances_of
from pneumonia.search.queue import TrialQueue
from pneumonia.search.storage import existing_storage
from pneumonia.search.storage_url import storage_url
from pneumonia.search.study import RESULT, RUN, known_studies
from pneumonia.search.trials import number_of, state_of
from pneumonia.tracking.results import TrainingResult

_MOST_ROWS = 20


def show_study(name: str, storage: str) -> str:
    """A study in words: its trials, what decided, and its winner.

    Args:
        name: The study.
        storage: Optuna storage URL; empty is ``optuna.db`` in the working directory.

    Raises:
        UsageError: There is no such storage or study.
    """
    opened = _open(storage)
    known = known_studies(opened)
    if name not in known:
        hint = nearest(name, known) if known else "the storage has none"
        raise UsageError(f"no study {name!r}: {hint}")
    study = optuna.load_study(study_name=name, storage=opened)
    metric = study.user_attrs.get("metric", "value")
    ranked = TrialQueue(study, None).ranked()
    verb = "maximises" if study.direction == StudyDirection.MAXIMIZE else "minimises"
    lines = [
        f"study     {name}, {verb} validation {metric}",
        f"run       {study.user_attrs.get(RUN, 'none: it was never made ready')}",
        f"trials    {count_states(ranked)}",
        "",
        *_trials(ranked, metric),
        *_importances(study),
        *_winner(study, metric),
    ]
    return "\n".join(lines)


def list_studies(storage: str) -> str:
    """The studies of a storage, one a line.

    Raises:
        UsageError: There is no such storage.
    """
    opened = _open(storage)
    rows = []
    for name in sorted(known_studies(opened)):
        study = optuna.load_study(study_name=name, storage=opened)
        queue = TrialQueue(study, None)
        best, counts = queue.best(), count_states(queue.trials())
        value = f"{best.value:.4f}" if best else ""
        metric = study.user_attrs.get("metric", "value")
        rows.append([name, metric, value, counts, study.user_attrs.get(RUN, "")])
    if not rows:
        return f"No studies in {storage_url(storage)}."
    return "\n".join(
        _table([["study", "metric", "best", "trials", "run"], *rows], left={0, 1, 3, 4})
    )


def trials_table(queue: TrialQueue, keys: Sequence[str], experiment_id: str) -> str:
    """The best twenty trials, best first, as a Markdown table with links to their runs."""
    ranked = queue.ranked()
    begun = [trial for trial in ranked if trial.state != TrialState.WAITING]
    metric = queue.study.user_attrs["metric"]
    lines = [
        f"Study `{queue.study.study_name}`: {count_states(ranked)}",
        "",
        f"| trial | state | val {metric} | {' | '.join(keys)} |",
        "|" + "---|" * (len(keys) + 3),
    ]
    for trial in begun[:20]:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [short(trial.params.get(key, "")) for key in keys]
        run_id = trial.user_attrs.get("run_id", "")
        link = f"[{number_of(trial)}](#/experiments/{experiment_id}/runs/{run_id})"
        lines.append(f"| {link} | {state_of(trial)} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def count_states(trials: Sequence[FrozenTrial]) -> str:
    """How many trials are in which state: ``12 complete, 3 pruned, 1 running``."""
    counts = Counter(map(state_of, trials))
    order = ("complete", "pruned", "failed", "running", "waiting")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state]) or "none"


def short(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def result_of(study: optuna.Study) -> TrainingResult | None:
    """The study's result; None before its winner is logged."""
    known = study.user_attrs.get(RESULT)
    return TrainingResult.from_json(known) if known else None


def _open(storage: str) -> BaseStorage:
    opened = existing_storage(storage)
    if opened is None:
        raise UsageError(
            f"there is no study storage {storage_url(storage)!r}: name another with --storage, or "
            "begin a study with 'pneumonia train --trials 20'"
        )
    return opened


def _trials(ranked: Sequence[FrozenTrial], metric: str) -> list[str]:
    begun = [trial for trial in ranked if trial.state != TrialState.WAITING]
    if not begun:
        return []
    keys = sorted({key for trial in begun for key in trial.params})
    rows = [["trial", "state", f"val {metric}", *keys]]
    for trial in begun[:_MOST_ROWS]:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        parameters = [short(trial.params[key]) if key in trial.params else "" for key in keys]
        rows.append([str(number_of(trial)), state_of(trial), value, *parameters])
    more = len(begun) - _MOST_ROWS
    return [*_table(rows, left={1}), *([f"and {more:,} more"] if more > 0 else []), ""]


def _importances(study: optuna.Study) -> list[str]:
    found = importances_of(study)
    if not found:
        return []
    rows = [["parameter", "importance", "90 % interval", "better"]]
    for importance in found:
        low, high = importance.interval
        share = f"{importance.share:.3f}"
        rows.append([importance.name, share, f"{low:.3f}–{high:.3f}", importance.better])
    return [*_table(rows, left={0, 3}), ""]


def _winner(study: optuna.Study, metric: str) -> list[str]:
    best = TrialQueue(study, None).best()
    if best is None:
        return ["winner    none yet: no trial has completed"]
    run_id = best.user_attrs.get("run_id", "unknown")
    lines = [
        f"winner    trial {number_of(best)}, validation {metric} {best.value:.4f}, run {run_id}"
    ]
    if result := result_of(study):
        return [*lines, f"model     {result.model_uri} ({result.verdict})"]
    return [*lines, "model     none yet: the study is not finished"]


def _table(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Align columns, each as wide as its widest cell; those not in ``left`` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
