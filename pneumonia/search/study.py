"""Optuna studies: where they are stored, how they sample and prune, and how they read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from pneumonia.errors import PneumoniaError, UsageError
from pneumonia.search.experiment import Experiment
from pneumonia.tracking.store import create_once

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How to search.

    Attributes:
        trials: Trials of the whole study, resumed ones included; 1 is a plain training run.
        timeout: Seconds after which no new trial begins, or None.
        study: Name of the study; empty names it after the run.
        storage: Optuna storage URL; empty is an sqlite file in the working directory.
        resume: Go on with an existing study.
        pruner: ``median``, ``hyperband`` or ``none``.
        keep_checkpoints: ``winner`` or ``all``.
    """

    trials: int = 1
    timeout: float | None = None
    study: str = ""
    storage: str = ""
    resume: bool = False
    pruner: str = "median"
    keep_checkpoints: str = "winner"


def open_study(
    experiment: Experiment, search: SearchSettings, data_digest: str, run_id: str
) -> optuna.Study:
    """Create the study, or open the one to resume.

    Args:
        experiment: What is searched; its seed seeds the sampler.
        search: The study's name, storage and pruner.
        data_digest: Fingerprint of the data, which must be that of a study resumed.
        run_id: Names the study where the user does not.

    Raises:
        UsageError: The study exists and is not to be resumed, or cannot be.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial is told by us, in one line
    training = experiment.training
    name = search.study or f"{experiment.name}-{run_id[:8]}"
    if search.resume and not search.study:
        raise UsageError("--resume needs the name of the study: add --study NAME")
    storage = open_storage(search.storage)
    known = optuna.get_all_study_names(storage)
    if search.resume and name not in known:
        listed = ", ".join(known[-5:]) or "none"
        raise UsageError(f"no study {name!r} to resume: the storage has {listed}")
    if not search.resume and name in known:
        raise UsageError(
            f"study {name!r} exists: go on with it by --resume, or choose another name"
        )
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=search.resume,
        direction="maximize" if training.higher_is_better else "minimize",
        # A resumed sampler must not draw again what it drew at first.
        sampler=optuna.samplers.TPESampler(seed=training.seed if not search.resume else None),
        pruner=_pruner(search.pruner, training.epochs),
    )
    fixed = {"data.digest": data_digest, "network": training.network, "metric": training.metric}
    for key, value in fixed.items():
        begun_with = study.user_attrs.get(key, value)
        if begun_with != value:
            raise UsageError(
                f"study {name!r} was begun with {key} {begun_with}, not {value}: its trials "
                "cannot be compared; begin another with --study"
            )
        study.set_user_attr(key, value)
    return study


def trials_table(study: optuna.Study, keys: Sequence[str], experiment_id: str) -> str:
    """The best twenty trials, best first, as a Markdown table with links to their runs."""
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    ranked = sorted(
        study.trials,
        key=lambda t: (t.state != TrialState.COMPLETE, sign * (t.value or 0.0), t.number),
    )
    metric = study.user_attrs["metric"]
    lines = [
        f"Study `{study.study_name}`",
        "",
        f"| trial | state | val {metric} | {' | '.join(keys)} |",
        "|" + "---|" * (len(keys) + 3),
    ]
    for trial in ranked[:20]:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [short(trial.params.get(key, "")) for key in keys]
        run_id = trial.user_attrs.get("run_id", "")
        link = f"[{trial.number}](#/experiments/{experiment_id}/runs/{run_id})"
        lines.append(f"| {link} | {STATES[trial.state]} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Open the study storage, creating the local sqlite one once.

    Raises:
        UsageError: The URL is none of Optuna's, or its database does not answer.
    """
    if not url:
        url = f"sqlite:///{Path('optuna.db').absolute()}"
    try:
        if url.startswith("sqlite:///"):
            database = Path(url.removeprefix("sqlite:///")).absolute()
            create_once(database, _create_study_tables)
        return optuna.storages.get_storage(url)
    except (PneumoniaError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot open the study storage {url!r}: {first}") from None


def _create_study_tables(database: Path) -> None:
    optuna.storages.RDBStorage(f"sqlite:///{database}")


def _pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    return optuna.pruners.NopPruner()


def short(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
