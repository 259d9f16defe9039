"""``pneumonia train --seeds``: one training repeated with several seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.data.cache import Progress
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.run_lifecycle import NewRun, parent_run, run_context
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.workflows.prepare import load_data
from pneumonia.workflows.train import train_run

Spread = Mapping[str, tuple[float, float]]
"""Mean and standard deviation (with n - 1) by name of the metric."""


def train_seeds(
    n_seeds: int,
    *,
    experiment: str = "auto",
    register: bool = True,
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
        tracking_uri: MLflow tracking URI, as ``train`` takes it.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Told what is done, and how many images of how many.
        on_run: Called with the parent run, then with each child.
        **settings: Training and data settings by name; the others are the experiment's.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
        KeyboardInterrupt: It was interrupted; the child under way can be resumed by its id.
    """
    on_run = on_run or (lambda _run: None)
    chosen = load_experiment(experiment, settings)
    connect(tracking_uri)
    experiment_id = choose_experiment(experiment_name)
    data = load_data(chosen, progress)
    first, network = chosen.training.seed, chosen.training.network
    name = f"{network}-{data.name}"
    results = []
    tags = {"network": network, "kind": "seeds"}
    with parent_run(NewRun(f"{name}-seeds{n_seeds}", tags, experiment_id)) as parent:
        on_run(parent)
        parent.log_data_set(data)
        parent.log_parameters(chosen.training.parameters() | chosen.data.parameters())
        parent.log_parameters({"experiment": chosen.name, "seeds": n_seeds})
        for seed in range(first, first + n_seeds):
            training = chosen.training.with_values(seed=seed)
            run_config = RunConfig(
                experiment=chosen.with_values(training=training),
                search=SearchSettings(),
                register_winner=register,
            )
            own = {"network": network, "kind": "train", "seed": str(seed), "world_size": "1"}
            child = parent.child(f"{name}-s{seed}", own)
            on_run(child)
            with child.local.alone(), run_context(child):
                results.append(train_run(child, run_config, data, progress=progress))
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
