"""How the trials of a study compare: their ranking, their states, and what mattered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pneumonia.search.queue import TrialQueue, number_of, state_of


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


def importances_of(study: optuna.Study) -> Mapping[str, float]:
    """Share of the metric's variation that each parameter explains (fANOVA), most first, 0–1.

    Empty where there are too few complete trials to tell.
    """
    values = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) <= 3 or len(set(values)) == 1:
        return {}
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )


def short(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
