"""Which parameters mattered in a study, how sure that is, and which way they point."""

import math
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pneumonia.evaluation.study_figures import Importance

_LEAST_TRIALS = 4
_RESAMPLES = 20
_TREES = 16
"""As many as 20 resamples of 200 trials take some seconds with."""

_CHANCE = 0.05


def importances_of(study: optuna.Study) -> list[Importance]:
    """The importance of each parameter, most first.

    Empty where there are too few complete trials to tell.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    shares = _shares(trials, study.direction)
    if not shares:
        return []
    draw = np.random.default_rng(0)
    resampled: dict[str, list[float]] = {name: [] for name in shares}
    for _ in range(_RESAMPLES):
        indices = draw.integers(len(trials), size=len(trials))
        for name, share in _shares([trials[index] for index in indices], study.direction).items():
            resampled[name].append(share)
    found = []
    for name, share in shares.items():
        low, high = np.quantile([share, *resampled[name]], [0.05, 0.95])
        better = _better(name, trials, study.direction)
        found.append(Importance(name, share, (float(low), float(high)), better))
    return sorted(found, key=lambda importance: (-importance.share, importance.name))


def importance_sentence(importances: Sequence[Importance]) -> str:
    """The importance of each parameter, in a sentence."""
    if not importances:
        return "Too few trials are complete to tell which parameters matter."
    named = ", ".join(_summary(importance) for importance in importances)
    return f"What mattered (share of the variation explained, 90 % interval): {named}."


def _summary(importance: Importance) -> str:
    low, high = importance.interval
    better = f"; {importance.better} is better" if importance.better else ""
    return f"{importance.name} {importance.share:.0%} ({low:.0%}–{high:.0%}{better})"


def _shares(trials: Sequence[FrozenTrial], direction: StudyDirection) -> dict[str, float]:
    if len(trials) < _LEAST_TRIALS or len({trial.value for trial in trials}) == 1:
        return {}
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _better(name: str, trials: Sequence[FrozenTrial], direction: StudyDirection) -> str:
    """Which values of a parameter are better, by a rank test of all trials that drew it."""
    from scipy.stats import kendalltau, kruskal

    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    drawn = [
        (trial.params[name], sign * trial.value)
        for trial in trials
        if name in trial.params and trial.value is not None
    ]
    if len(drawn) < _LEAST_TRIALS:
        return ""
    if all(isinstance(value, int | float) for value, _ in drawn):
        found = kendalltau(*zip(*drawn, strict=True))
        certain = found.pvalue < _CHANCE  # not where it is NaN: all equal
        return ("more" if found.statistic > 0 else "less") if certain else ""
    groups: dict[str, list[float]] = {}
    for value, score in drawn:
        groups.setdefault(str(value), []).append(score)
    if len(groups) < 2 or len({score for _, score in drawn}) == 1:
        return ""
    certain = kruskal(*groups.values()).pvalue < _CHANCE
    return max(groups, key=lambda choice: float(np.median(groups[choice]))) if certain else ""
