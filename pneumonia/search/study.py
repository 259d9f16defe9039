"""Optuna studies: creation, settings that must agree, sampler and pruner."""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from pneumonia.config.experiment import Experiment
from pneumonia.config.search import SearchSettings
from pneumonia.errors import UsageError
from pneumonia.processes import is_alive
from pneumonia.search.storage import open_storage

RUN = "run_id"
"""The study's attribute that names its run, which it does once it is ready."""

RESULT = "result"
"""The study's attribute that holds its result, once the winner is logged."""

WINNER = "/winner-"
"""A study named ``STUDY/winner-RUN`` holds one trial: the worker that takes it logs the winner."""

_SECONDS_TO_PREPARE = 120

_WARM_UP_EPOCHS = 1
"""Epochs after which the median pruner never stops a trial."""

_RANDOM_TRIALS = 5
"""Trials drawn at random before TPE learns from them; Optuna's 10 lose in short searches, as
``benchmarks.samplers`` shows."""


def create_study(
    experiment: Experiment, search: SearchSettings, data_digest: str
) -> optuna.Study | None:
    """Create the study; None where there is one of that name already.

    Several processes may try at once: one creates it.

    Raises:
        UsageError: The storage cannot be opened.
    """
    training = experiment.training
    try:
        study = optuna.create_study(
            study_name=search.study,
            storage=open_storage(search.storage),
            direction="maximize" if training.higher_is_better else "minimize",
            pruner=pruner_of(search, training.epochs),
        )
    except DuplicatedStudyError:
        return None
    study.set_user_attr("settings", _comparable(experiment, search, data_digest))
    study.set_user_attr("metric", training.metric)
    return study


def open_study(name: str, storage: str) -> optuna.Study | None:
    """Open the study of a name; None where there is none.

    Raises:
        UsageError: The storage cannot be opened.
    """
    try:
        return optuna.load_study(study_name=name, storage=open_storage(storage))
    except KeyError:
        return None


def check_same(
    study: optuna.Study, experiment: Experiment, search: SearchSettings, data_digest: str
) -> None:
    """Give a study that was opened its pruner, and refuse trials that could not be compared.

    Raises:
        UsageError: The study was begun with other settings or data.
    """
    study.pruner = pruner_of(search, experiment.training.epochs)
    # Studies of earlier versions knew no folds.
    begun = {"folds": 1, **study.user_attrs.get("settings", {})}
    now = _comparable(experiment, search, data_digest)
    for key in {**begun, **now}:
        if begun.get(key) != now.get(key):
            raise UsageError(
                f"study {study.study_name!r} was begun with {key} {begun.get(key)}, not "
                f"{now.get(key)}: its trials cannot be compared; begin another with --study"
            )


def await_ready(study: optuna.Study) -> bool:
    """Wait while another process creates the study.

    Returns:
        Whether it is ready; otherwise the process that was creating it has died.
    """
    looks = Retrying(
        retry=retry_if_result(lambda ready: ready is None),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(_SECONDS_TO_PREPARE),
        retry_error_callback=lambda _attempt: False,
    )
    return bool(looks(_is_ready, study))


def _is_ready(study: optuna.Study) -> bool | None:
    """Whether the study is ready; None while its creator may still be at work."""
    if study.user_attrs.get(RUN):
        return True
    return False if is_alive(study.user_attrs) is False else None


def is_incomplete(study: optuna.Study) -> bool:
    """Whether the study is one of ours whose creation was not finished."""
    attributes = study.user_attrs
    return "settings" in attributes and RUN not in attributes


def known_studies(storage: BaseStorage) -> list[str]:
    """Names of the studies in a storage, without those that only hold a claim to a winner."""
    return [name for name in optuna.get_all_study_names(storage) if WINNER not in name]


def sampler_of(name: str, trial_number: int, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial: ``tpe``, ``gp`` or ``random``.

    Each trial has one of its own, seeded by its number: so a search that was interrupted goes on
    with the draws it would have made from the same complete trials, and two workers never draw
    alike.
    """
    of_trial = (seed * 100_003 + trial_number) % 2**32
    if name == "random":
        return optuna.samplers.RandomSampler(seed=of_trial)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=of_trial)
    return optuna.samplers.TPESampler(seed=of_trial, n_startup_trials=_RANDOM_TRIALS)


def pruner_of(search: SearchSettings, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner. A trial reports its epochs, from 1, or its folds where it is scored by folds."""
    if search.pruner == "hyperband":
        steps = search.folds if search.folds > 1 else epochs
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=steps)
    if search.pruner == "median":
        # Optuna counts steps from 0: step 2 is the first that comes after one epoch of warm-up. A
        # fold needs none: it is trained to its end.
        warm_up = 0 if search.folds > 1 else _WARM_UP_EPOCHS + 1
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=warm_up)
    return optuna.pruners.NopPruner()


def _comparable(
    experiment: Experiment, search: SearchSettings, data_digest: str
) -> Mapping[str, Any]:
    """What all trials of a study have in common, as JSON holds it."""
    fixed = {
        key: value
        for key, value in experiment.training.parameters().items()
        if key not in experiment.space and key not in ("device", "precision")
    }
    space = {f"space.{key}": value.parameters() for key, value in experiment.space.items()}
    common: dict[str, Any] = json.loads(
        json.dumps({**fixed, **space, "data.digest": data_digest, "folds": search.folds})
    )
    return common
