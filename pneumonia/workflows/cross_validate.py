"""Cross-validation: folds stratified by class and grouped by patient, one child run each."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, Images, preprocessing_of
from pneumonia.data.splits import patient_folds
from pneumonia.errors import CheckError, UsageError
from pneumonia.tracking.cross_validation import CrossValidation, Fold, log_cross_validation
from pneumonia.tracking.epochs import checkpoint_of, log_best, log_epoch
from pneumonia.tracking.lookup import final_metrics
from pneumonia.tracking.operating_point import measure
from pneumonia.tracking.run_config import (
    RunConfig,
    kept_tracking_uri,
    log_run_config,
    run_config_to_resume,
)
from pneumonia.tracking.run_lifecycle import (
    NewRun,
    children_of,
    continue_run,
    run_context,
    start_run,
)
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.training.loop import train
from pneumonia.training.setup import build_network
from pneumonia.workflows.prepare import load_data

log = logging.getLogger(__name__)

_Trained = tuple[nn.Module, Mapping[str, float]]
"""A network, and the validation metrics of its best epoch by name."""


def cross_validate(
    *,
    experiment: str = "auto",
    folds: int = 5,
    register: bool = False,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> CrossValidation:
    """Train once a fold, and score each image by the network that did not see its patient.

    The images are those for training and validation. The threshold and the temperature are chosen
    on all of them, each as scored out of its fold.

    Args:
        experiment: Name of an experiment file, path of one, or ``auto``.
        folds: Number of folds, at least 2.
        register: Whether to score the ensemble of the folds' networks on the test images, and to
            register it; else test images stay out.
        tracking_uri: MLflow tracking URI; then ``MLFLOW_TRACKING_URI``; then ``./mlflow.db``.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Told what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Training and data settings by name; the others are the experiment's.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
        KeyboardInterrupt: It was interrupted; it can be resumed.
    """
    run_config = RunConfig(
        experiment=load_experiment(experiment, settings),
        search=SearchSettings(),
        register_winner=register,
        folds=folds,
    )
    connect(tracking_uri)
    experiment_id = choose_experiment(experiment_name)
    data = load_data(run_config.experiment, progress)
    network = run_config.experiment.training.network
    tags = {"network": network, "kind": "cross-validation"}
    run = start_run(NewRun(f"{network}-{data.name}-cv{folds}", tags, experiment_id))
    return _run(run, run_config, data, progress, on_run)


def resume_cross_validation(
    run_id: str,
    *,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> CrossValidation:
    """Continue a cross-validation that was stopped; what its folds have trained is kept.

    Args:
        run_id: Its run.
        tracking_uri: MLflow tracking URI; then the one it was started with.
        progress: Told what is done, and how many images of how many.
        on_run: Called with the run that continues.

    Raises:
        PneumoniaError: It cannot be continued, or training failed.
        KeyboardInterrupt: It was interrupted; it can be resumed again.
    """
    connect(tracking_uri or kept_tracking_uri(run_id))
    run_config = run_config_to_resume(run_id)
    if not run_config.folds:
        raise UsageError(
            f"run {run_id} is no cross-validation: 'pneumonia train --resume {run_id}' continues it"
        )
    data = load_data(run_config.experiment, progress)
    run = continue_run(run_id, alone=True)
    if run.tags.get("data.digest", data.digest) != data.digest:
        run.end("KILLED")
        raise CheckError(
            f"the images, labels or roles of {str(data.root)!r} are not those that run {run_id} "
            "began with: restore them, or start anew"
        )
    return _run(run, run_config, data, progress, on_run)


def _run(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    progress: Progress | None,
    on_run: OnRun | None,
) -> CrossValidation:
    if on_run is not None:
        on_run(run)
    try:
        with run.local.alone(), run_context(run):
            return _cross_validate(run, run_config, data, progress)
    except KeyboardInterrupt:
        log.info("Resume it with: pneumonia cross-validate --resume %s", run.id)
        raise


def _cross_validate(
    run: Run, run_config: RunConfig, data: DataSet, progress: Progress | None
) -> CrossValidation:
    """Train the folds that are not trained yet, and log what all come to.

    Raises:
        DataError: A class has fewer patients than folds.
        DeviceError: The device is out of memory.
        TrainingError: A fold cannot be trained.
    """
    experiment, settings = run_config.experiment, run_config.experiment.training
    log_run_config(run, run_config, data)
    run.log_parameters({"folds": run_config.folds})
    opened = data.open(preprocessing_of(settings), progress)
    pool = _joined(opened["train"], opened["validation"])
    children = children_of(run, "fold")
    folds: list[Fold] = []
    parts = patient_folds(pool.files, run_config.folds, experiment.data.split_seed)
    for number, (left, held_out) in enumerate(parts):
        images = {
            "train": pool.part(torch.from_numpy(left)),
            "validation": pool.part(torch.from_numpy(held_out)),
        }
        child = children.get(str(number))
        trained = _trained(child, settings) if child else None
        if child is None or trained is None:
            own = {"fold": str(number)}
            name = f"{settings.network}-f{number}"
            child = continue_run(child.id) if child else run.child(name, own)
            with _ending(child):
                trained = _train(child, settings, data, images, progress)
        network, best = trained
        measured = measure(network, images["validation"], settings)
        keep = network.cpu() if run_config.register_winner else None
        folds.append(Fold(child, images, held_out, best, measured, keep))
    result = log_cross_validation(run, run_config, data, pool, opened["test"], folds)
    for fold in folds:  # last: a resumed run reads them
        if fold.run.has_checkpoint():
            fold.run.drop_checkpoint()
    return result


def _trained(child: Run, settings: TrainingSettings) -> _Trained | None:
    """What a fold came to, where it is trained already."""
    if child.status != "FINISHED" or not child.has_checkpoint():
        return None
    network = build_network(settings)
    network.load_state_dict(child.read_checkpoint())
    best = {
        key.removeprefix("best/"): value
        for key, value in final_metrics(child).items()
        if key.startswith("best/")
    }
    log.info("%s is trained already", child.label)
    return network.to(memory_format=torch.channels_last).eval(), best


def _train(
    child: Run,
    settings: TrainingSettings,
    data: DataSet,
    images: Mapping[str, Images],
    progress: Progress | None,
) -> _Trained:
    trained = train(
        settings,
        images,
        partial(log_epoch, child, settings),
        checkpoint_of(child, settings, data),
        progress=progress,
    )
    log_best(child, trained.best)
    child.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
    best = {key.removeprefix("val/"): v for key, v in trained.best.items() if "val/" in key}
    return trained.network, best


@contextmanager
def _ending(child: Run) -> Iterator[None]:
    """End a fold's run as the block ends; its checkpoint stays on this machine if it failed."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        child.end("KILLED" if interrupted else "FAILED", "interrupted" if interrupted else "failed")
        raise
    child.end("FINISHED", "complete")
    child.outbox.flush(wait=True)
    child.local.remove()


def _joined(first: Images, second: Images) -> Images:
    return replace(
        first,
        rows=torch.cat([first.rows, second.rows]),
        labels=torch.cat([first.labels, second.labels]),
        files=first.files + second.files,
    )
