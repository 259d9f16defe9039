"""``pneumonia train --seeds``: one training repeated with several seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.data.dataset import DataSet
from pneumonia.errors import UsageError
from pneumonia.progress import Progress
from pneumonia.search.children import train_children, train_free_children
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import (
    RunConfig,
    kept_tracking_uri,
    log_run_config,
    run_config_to_resume,
)
from pneumonia.tracking.run_lifecycle import (
    NewRun,
    continue_run,
    resumable,
    run_context,
    start_run,
)
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.training.loop import OnEpoch
from pneumonia.workflows.prepare import (
    continue_with_same_data,
    join_with_same_data,
    load_data,
)
from pneumonia.workflows.train_once import train_run

Spread = Mapping[str, tuple[float, float]]
"""Mean and standard deviation (with n - 1) by name of the metric."""


def train_seeds(
    n_seeds: int,
    *,
    experiment: str = "auto",
    register: bool = True,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> tuple[list[TrainingResult], Spread]:
    """Train with the seed of the settings and the next ones, on the same split.

    Each seed is a child run, complete like any training, and its model becomes a version. The
    parent has the mean and the standard deviation of test metrics and stress test, as
    ``seeds/test_auc_mean`` and ``seeds/test_auc_sd``.

    Args:
        n_seeds: How many, at least 2.
        experiment: Name of an experiment file, path of one, or ``auto``.
        register: Whether to register each model.
        jobs: Workers on this machine that share the seeds, of which this process is one; None for
            as many as make it faster.
        tracking_uri: MLflow tracking URI, as ``train`` takes it.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the parent run, then with each child.
        **settings: Training and data settings by name; the others are the experiment's.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
        KeyboardInterrupt: It was interrupted; it can be resumed.
    """
    chosen = load_experiment(experiment, settings)
    connect(tracking_uri)
    experiment_id = choose_experiment(experiment_name)
    data = load_data(chosen, progress)
    run_config = RunConfig(
        experiment=chosen, search=SearchSettings(), register_winner=register, seeds=n_seeds
    )
    network = chosen.training.network
    tags = {"network": network, "kind": "seeds"}
    parent = start_run(NewRun(f"{network}-{data.name}-seeds{n_seeds}", tags, experiment_id))
    return _train(parent, run_config, data, jobs, progress, on_run)


def resume_seeds(
    run_id: str,
    n_seeds: int,
    *,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> tuple[list[TrainingResult], Spread]:
    """Continue a training of several seeds that was stopped; finished seeds are kept.

    Args:
        run_id: The parent run.
        n_seeds: With how many seeds it was begun.
        jobs: Workers on this machine, as ``train_seeds`` takes it.
        tracking_uri: MLflow tracking URI; then the one it was started with.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the parent run, then with each child that is trained.

    Raises:
        PneumoniaError: It cannot be continued, or training failed.
        KeyboardInterrupt: It was interrupted; it can be resumed again.
    """
    run_config = _run_config_of(run_id, n_seeds, tracking_uri)
    data = load_data(run_config.experiment, progress)
    parent = continue_with_same_data(run_id, data)
    return _train(parent, run_config, data, jobs, progress, on_run)


def join_seeds(
    run_id: str,
    n_seeds: int,
    *,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Train seeds of a run that another process works on, until none is left.

    Both need the same state folder, in which each says which seed it trains.

    Args:
        run_id: The parent run.
        n_seeds: With how many seeds it was begun.
        tracking_uri: MLflow tracking URI; then the one it was started with.
        progress: Called with what is done, and how many images of how many.

    Raises:
        PneumoniaError: It cannot be joined, or training failed.
        KeyboardInterrupt: It was interrupted; what it trained is kept.
    """
    run_config = _run_config_of(run_id, n_seeds, tracking_uri)
    data = load_data(run_config.experiment, progress, quiet=True)
    parent = join_with_same_data(run_id, data)
    seeds = _Seeds(parent, run_config, data, progress)
    train_free_children(parent, seeds, set(seeds.names))


def _run_config_of(run_id: str, n_seeds: int, tracking_uri: str | None) -> RunConfig:
    connect(tracking_uri or kept_tracking_uri(run_id))
    run_config = run_config_to_resume(run_id)
    if run_config.seeds != n_seeds:
        raise UsageError(f"run {run_id} was begun with --seeds {run_config.seeds}, not {n_seeds}")
    return run_config


class _Seeds:
    """The trainings of a run, one a seed."""

    tag = "seed"

    def __init__(
        self,
        parent: Run,
        run_config: RunConfig,
        data: DataSet,
        progress: Progress | None,
        on_run: OnRun | None = None,
    ) -> None:
        self._parent, self._run_config, self._data = parent, run_config, data
        self._progress, self._on_run = progress, on_run or (lambda _run: None)
        first = run_config.experiment.training.seed
        self.names = [str(seed) for seed in range(first, first + run_config.seeds)]

    def is_trained(self, child: Run) -> bool:
        """Whether a seed's training has finished."""
        return child.status == "FINISHED"

    def train(self, name: str, child: Run | None, on_epoch: OnEpoch | None = None) -> None:
        """Train with a seed, or continue where a stopped process left off."""
        experiment = self._run_config.experiment
        training = experiment.training.with_values(seed=int(name))
        one_seed = self._run_config.with_values(
            experiment=experiment.with_values(training=training), seeds=1
        )
        if child is None:
            tags = {"kind": "train", self.tag: name, "world_size": "1"}
            child = self._parent.child(f"{training.network}-{self._data.name}-s{name}", tags)
        else:
            child = continue_run(child.id)
        self._on_run(child)
        with child.local.alone(), run_context(child):
            train_run(child, one_seed, self._data, progress=self._progress, on_epoch=on_epoch)


def _train(
    parent: Run,
    run_config: RunConfig,
    data: DataSet,
    jobs: int | None,
    progress: Progress | None,
    on_run: OnRun | None,
) -> tuple[list[TrainingResult], Spread]:
    """Train with the seeds that are not trained yet, and log mean and standard deviation."""
    if on_run is not None:
        on_run(parent)
    settings, n_seeds = run_config.experiment.training, run_config.seeds
    seeds = _Seeds(parent, run_config, data, progress, on_run)
    with resumable(parent, f"train --seeds {n_seeds}"):
        log_run_config(parent, run_config, data)
        parent.log_parameters({"seeds": n_seeds})
        command = ("train", "--seeds", str(n_seeds), "--resume", parent.id, "--join")
        trained = train_children(parent, seeds, settings, command, jobs)
        results = [TrainingResult.read(trained[name].id) for name in seeds.names]
        spread = _spread(results)
        _log_spread(parent, spread, n_seeds)
    return results, spread


def _spread(results: Sequence[TrainingResult]) -> Spread:
    measured = [
        {f"test_{key}": value for key, value in result.test.items()}
        | {f"stress_{key}": value for key, value in result.stress.items()}
        for result in results
    ]
    return {
        key: (
            float(np.mean([values[key] for values in measured])),
            float(np.std([values[key] for values in measured], ddof=1)),
        )
        for key in measured[0]
    }


def _log_spread(parent: Run, spread: Spread, n_seeds: int) -> None:
    for key, (mean, deviation) in spread.items():
        parent.log_metrics({f"seeds/{key}_mean": mean, f"seeds/{key}_sd": deviation})
    rows = [f"| {key} | {mean:.4f} ± {sd:.4f} |" for key, (mean, sd) in spread.items()]
    head = f"{n_seeds} seeds on one split.\n\n| metric | mean ± sd |\n|---|---|\n"
    parent.set_description(head + "\n".join(rows) + "\n")
