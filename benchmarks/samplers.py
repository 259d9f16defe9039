"""Which sampler and which pruner find good settings in the fewest epochs.

python -m benchmarks.samplers --study recorded --storage sqlite:///optuna.db

Thousands of searches are simulated on a surrogate: a random forest that predicts the learning curve
of any settings from those of a study whose trials were drawn at random and never pruned
(Eggensperger et al., AAAI 2015, "Efficient benchmarking of hyperparameter optimizers via
surrogates"). Such a study is made by

pneumonia train --data chest_xray --network simple_cnn --image-size 32 --subset 0.2 --epochs 4
    --trials 140 --sampler random --pruner none --study recorded

Each simulated trial has the predicted curve plus the error that the forest made of some recorded
one, when it had not seen it. A search is judged by the settings it takes for the best: by their
predicted value, without the error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor

from benchmarks.report import Figure, report
from pneumonia.config.search import SearchSettings
from pneumonia.search.storage_url import storage_url
from pneumonia.search.study import open_study, pruner_of, sampler_of

Curves = NDArray[np.float64]
"""Validation metrics by trial and epoch (n, epochs)."""

SamplerOf = Callable[[int, int], optuna.samplers.BaseSampler]
"""The sampler of a trial, by its number and the seed of the search."""

SAMPLERS: Mapping[str, SamplerOf] = {
    "random": lambda number, seed: sampler_of("random", number, seed),
    "tpe": lambda number, seed: sampler_of("tpe", number, seed),
    "tpe, one setting at a time": lambda number, seed: optuna.samplers.TPESampler(
        seed=seed * 100_003 + number, n_startup_trials=5, multivariate=False
    ),
    "tpe, after 10 random trials": lambda number, seed: optuna.samplers.TPESampler(
        seed=seed * 100_003 + number, n_startup_trials=10
    ),
    "gp": lambda number, seed: sampler_of("gp", number, seed),
}
"""The samplers of ``--sampler``, and variants."""

Pruner = Literal["median", "hyperband", "none"]

KINDS: Sequence[tuple[str, Pruner]] = (
    *((sampler, "median") for sampler in SAMPLERS),
    *(("random", "none"), ("tpe", "none"), ("tpe", "hyperband"), ("gp", "none")),
)
"""Samplers and pruners that are compared."""


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Learning curves of any settings, learnt from those of recorded trials.

    Attributes:
        space: Each setting's distribution, by name.
        forest: Predicts curves from coordinates.
        errors: Of the forest's curves of trials that it had not seen (n, epochs).
        rank: Spearman's correlation of the best values of those curves with the recorded ones.
        first: The settings of the first recorded trial, the experiment's own.
    """

    space: Mapping[str, BaseDistribution]
    forest: RandomForestRegressor
    errors: Curves
    rank: float
    first: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return int(self.errors.shape[1])

    def curves(self, settings: Sequence[Mapping[str, Any]]) -> Curves:
        """Predicted curves, without errors."""
        predicted = self.forest.predict([_coordinates(self.space, each) for each in settings])
        return np.asarray(predicted).reshape(len(settings), -1)


def learn(trials: Sequence[FrozenTrial]) -> Surrogate:
    """Learn the curves of recorded trials.

    Raises:
        click.UsageError: Trials were pruned, or there are fewer than 20.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < 20 or any(trial.state == TrialState.PRUNED for trial in trials):
        raise click.UsageError("record 20 trials or more, with --sampler random --pruner none")
    space = complete[0].distributions
    curves = np.array([list(trial.intermediate_values.values()) for trial in complete])
    places = [_coordinates(space, trial.params) for trial in complete]
    forest = RandomForestRegressor(200, oob_score=True, random_state=0).fit(places, curves)
    unseen = np.asarray(forest.oob_prediction_)
    rank = float(spearmanr(unseen.max(axis=1), curves.max(axis=1)).statistic)
    return Surrogate(space, forest, curves - unseen, rank, complete[0].params)


def _coordinates(space: Mapping[str, BaseDistribution], settings: Mapping[str, Any]) -> list[float]:
    """Settings as numbers, those of a logarithmic range by their logarithm."""
    return [
        distribution.to_internal_repr(settings[name])
        if isinstance(distribution, CategoricalDistribution)
        else math.log(settings[name])
        if getattr(distribution, "log", False)
        else float(settings[name])
        for name, distribution in space.items()
    ]


def search(
    surrogate: Surrogate, sampler: SamplerOf, pruner: Pruner, n_epochs: int, seed: int
) -> list[float]:
    """Simulate a search, for as many epochs as it may train.

    Returns:
        After each epoch, the predicted value of the settings that are best so far.
    """
    rng = np.random.default_rng(seed)
    study = optuna.create_study(
        direction="maximize", pruner=pruner_of(SearchSettings(pruner=pruner), surrogate.epochs)
    )
    study.enqueue_trial(dict(surrogate.first))
    course: list[float] = []
    highest, chosen = -math.inf, math.nan
    while len(course) < n_epochs:
        study.sampler = sampler(len(study.trials), seed)
        trial = study.ask(dict(surrogate.space))
        (predicted,) = surrogate.curves([trial.params])
        observed = predicted + surrogate.errors[rng.integers(len(surrogate.errors))]
        state = TrialState.COMPLETE
        for epoch, value in enumerate(observed, 1):
            trial.report(value, epoch)
            course.append(chosen)
            if epoch < surrogate.epochs and trial.should_prune():
                state = TrialState.PRUNED
                break
        if state == TrialState.COMPLETE:
            study.tell(trial, observed.max())
            if observed.max() > highest:
                highest, chosen = observed.max(), predicted.max()
                course[-1] = chosen
        else:
            study.tell(trial, state=state)
    return course[:n_epochs]


@click.command()
@click.option("--study", required=True, help="Trials drawn at random, none of them pruned.")
@click.option("--storage", default="", help="Its storage, as 'pneumonia train' takes it.")
@click.option("--trials", default=30, show_default=True, help="Whole trials a search may train.")
@click.option("--repeats", default=50, show_default=True, help="Searches of each kind.")
def main(study: str, storage: str, trials: int, repeats: int) -> None:
    """Simulate searches of each kind from the same seeds; print means and their 95 % intervals."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = open_study(study, storage_url(storage))
    if recorded is None:
        raise click.UsageError(f"no study {study!r} in {storage_url(storage)}")
    surrogate = learn(recorded.trials)
    best = _best_value(surrogate)
    n_epochs = trials * surrogate.epochs
    figures = [
        Figure("rank of trials that the forest has not seen", [surrogate.rank]),
        Figure("best predicted value of 2,000 settings", [best]),
    ]
    for sampler, pruner in KINDS:
        seeds = range(1, repeats + 1)  # with seed 0 the settings would be the recorded ones
        courses = np.array(
            [search(surrogate, SAMPLERS[sampler], pruner, n_epochs, seed) for seed in seeds]
        )  # (repeats, n_epochs)
        for after in (n_epochs // 3, n_epochs * 2 // 3, n_epochs):
            what = f"{sampler}, pruner {pruner}: below that after {after} epochs"
            figures.append(Figure(what, _mean_with_interval(best - courses[:, after - 1])))
    report("samplers", figures, study=study, trials=trials, repeats=repeats)


def _best_value(surrogate: Surrogate) -> float:
    """The best predicted value of settings drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask(dict(surrogate.space)).params for _ in range(2_000)]
    return float(surrogate.curves(drawn).max())


def _mean_with_interval(values: NDArray[np.float64]) -> list[float]:
    """The mean between the bounds of its 95 % interval, by bootstrap over searches."""
    drawn = np.random.default_rng(0).choice(values, (2_000, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return [float(low), float(values.mean()), float(high)]


if __name__ == "__main__":
    main()
