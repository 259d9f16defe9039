"""What a search costs beyond training: by trial, with two workers, and what pruning saves.

python -m benchmarks.search --data chest_xray --trials 6 --pruning 10

A trial costs what lies between its start and that of the next, less its epochs as they logged
themselves. So the network's making, the resumable checkpoint of each epoch, the checkpoint of a
trial that leads, and all of MLflow and Optuna count as cost.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import mlflow
import optuna

from benchmarks.report import Figure, ratios, report
from benchmarks.startup import PNEUMONIA, absolute, seconds_of
from pneumonia.config.data import DEMO
from pneumonia.search.study import open_study
from pneumonia.tracking.store import connect

_STUDY = "benchmark"


@dataclass(frozen=True, slots=True)
class Searched:
    """A search that has ended.

    Attributes:
        seconds: Wall seconds of the command.
        study: Its study, read whole.
        costs: Seconds that each trial but the last cost beyond its training, in their order.
    """

    seconds: float
    study: optuna.Study
    costs: list[float]

    @property
    def epochs(self) -> int:
        """Epochs trained, of all trials."""
        return sum(len(trial.intermediate_values) for trial in self.study.trials)


def search(options: Sequence[str], *more: str) -> Searched:
    """Run a search in a place of its own, and read what its stores say."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        command = [*PNEUMONIA, "train", *options, "--study", _STUDY, *more]
        seconds = seconds_of(command, folder)
        stored = open_study(_STUDY, f"sqlite:///{folder}/optuna.db")
        assert stored is not None
        connect(f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        by_start = sorted(stored.trials, key=_started)
        costs = []
        for trial, following in pairwise(by_start):
            history = client.get_metric_history(trial.user_attrs["run_id"], "speed/epoch_seconds")
            training = sum(metric.value for metric in history)
            costs.append(_started(following) - _started(trial) - training)
        study = optuna.create_study(direction=stored.direction)
        study.add_trials(stored.trials)
    return Searched(seconds, study, costs)


def _started(trial: optuna.trial.FrozenTrial) -> float:
    assert trial.datetime_start is not None
    return trial.datetime_start.timestamp()


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=64, show_default=True)
@click.option("--epochs", default=1, show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--subset", default=0.2, show_default=True, help="Share of patients trained on.")
@click.option("--trials", default=6, show_default=True, type=click.IntRange(min=2))
@click.option("--repeats", default=3, show_default=True, help="Searches of each kind.")
@click.option("--pruning", default=0, help="Measure pruning too, in trials of so many epochs.")
@click.option("--pruning-trials", default=20, show_default=True)
def main(pruning: int, pruning_trials: int, trials: int, repeats: int, **settings: Any) -> None:
    """Search in turns with one worker and two, then with and without a pruner; print the cost."""
    fixed = ["--jobs", "1"]
    for key, value in {**settings, "data": absolute(settings["data"])}.items():
        fixed += [f"--{key.replace('_', '-')}", str(value)]
    options = [*fixed, "--trials", str(trials)]
    one, two = [], []
    for repeat in range(repeats):
        # Each goes first in turn, for what one leaves in the page cache.
        for kind in ("one", "two") if repeat % 2 == 0 else ("two", "one"):
            if kind == "one":
                one.append(search(options))
            else:
                # The last value of an option counts.
                two.append(search(options, "--jobs", "2"))
    alone, together = [found.seconds for found in one], [found.seconds for found in two]
    means = [sum(found.costs) / len(found.costs) for found in one]
    figures = [
        Figure("a trial beyond its training, mean", means, "s", "< 1"),
        Figure("a trial beyond its training, worst", [max(found.costs) for found in one], "s"),
        Figure("whole search, one worker", alone, "s"),
        Figure("whole search, --jobs 2", together, "s"),
        Figure(
            "one worker over two", ratios(alone, together), limit="bounded by what one leaves idle"
        ),
    ]
    if pruning:
        longer = [*fixed, "--epochs", str(pruning), "--trials", str(pruning_trials)]
        figures += _pruning(longer, repeats)
    report("search", figures, trials=trials, pruning=pruning, **settings)


def _pruning(options: Sequence[str], repeats: int) -> list[Figure]:
    """Search with the median pruner and without, from the same seeds."""
    pruned, full = [], []
    for repeat in range(repeats):
        seeded = [*options, "--seed", str(repeat)]
        pruned.append(search(seeded, "--pruner", "median"))
        full.append(search(seeded, "--pruner", "none"))
    kept = ratios([found.epochs for found in pruned], [found.epochs for found in full])
    lost = [b.study.best_value - a.study.best_value for a, b in zip(pruned, full, strict=True)]
    return [
        Figure("epochs saved by pruning", [1 - share for share in kept], limit="> 0"),
        Figure("best value lost by pruning", lost, limit="0, but for the draws that differ"),
        Figure("best value without pruning", [found.study.best_value for found in full]),
    ]


if __name__ == "__main__":
    main()
