"""Cross-validation: folds stratified by class and grouped by patient, one child run each."""

import logging
from dataclasses import replace
from typing import Any

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.data.dataset import DataSet, preprocessing_of
from pneumonia.errors import UsageError
from pneumonia.progress import Progress
from pneumonia.search.children import train_children, train_free_children
from pneumonia.search.folds import Folds
from pneumonia.tracking.cross_validation import CrossValidation, log_cross_validation
from pneumonia.tracking.operating_point import measure
from pneumonia.tracking.run_config import (
    RunConfig,
    kept_tracking_uri,
    log_run_config,
    run_config_to_resume,
)
from pneumonia.tracking.run_lifecycle import (
    NewRun,
    resumable,
    start_run,
)
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.workflows.prepare import (
    continue_with_same_data,
    join_with_same_data,
    load_data,
)

log = logging.getLogger(__name__)


def cross_validate(
    *,
    experiment: str = "auto",
    folds: int = 5,
    register: bool = False,
    jobs: int | None = None,
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
        jobs: Workers on this machine that share the folds, of which this process is one; None for
            as many as make it faster.
        tracking_uri: MLflow tracking URI; then ``MLFLOW_TRACKING_URI``; then ``./mlflow.db``.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Training and data settings by name; the others are the experiment's.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
        KeyboardInterrupt: It was interrupted; it can be resumed.
    """
    run_config = RunConfig(
        experiment=load_experiment(experiment, settings),
        search=SearchSettings(folds=folds),
        register_winner=register,
    )
    connect(tracking_uri)
    experiment_id = choose_experiment(experiment_name)
    data = load_data(run_config.experiment, progress)
    network = run_config.experiment.training.network
    tags = {"network": network, "kind": "cross-validation"}
    run = start_run(NewRun(f"{network}-{data.name}-cv{folds}", tags, experiment_id))
    return _run(run, run_config, data, jobs, progress, on_run)


def resume_cross_validation(
    run_id: str,
    *,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> CrossValidation:
    """Continue a cross-validation that was stopped; what its folds have trained is kept.

    Args:
        run_id: Its run.
        jobs: Workers on this machine, as ``cross_validate`` takes it.
        tracking_uri: MLflow tracking URI; then the one it was started with.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the run that continues.

    Raises:
        PneumoniaError: It cannot be continued, or training failed.
        KeyboardInterrupt: It was interrupted; it can be resumed again.
    """
    run_config = _run_config_of(run_id, tracking_uri)
    data = load_data(run_config.experiment, progress)
    run = continue_with_same_data(run_id, data)
    return _run(run, run_config, data, jobs, progress, on_run)


def join_cross_validation(
    run_id: str, *, tracking_uri: str | None = None, progress: Progress | None = None
) -> None:
    """Train folds of a cross-validation that another process works on, until none is left.

    Both need the same state folder, in which each says which fold it trains.

    Args:
        run_id: Its run.
        tracking_uri: MLflow tracking URI; then the one it was started with.
        progress: Called with what is done, and how many images of how many.

    Raises:
        PneumoniaError: It cannot be joined, or training failed.
        KeyboardInterrupt: It was interrupted; what it trained is kept.
    """
    run_config = _run_config_of(run_id, tracking_uri)
    data = load_data(run_config.experiment, progress, quiet=True)
    run = join_with_same_data(run_id, data)
    folds = _folds(run, run_config, data, progress)
    train_free_children(run, folds, set(folds.names))


def _run_config_of(run_id: str, tracking_uri: str | None) -> RunConfig:
    connect(tracking_uri or kept_tracking_uri(run_id))
    run_config = run_config_to_resume(run_id)
    if not run_config.cross_validating:
        raise UsageError(
            f"run {run_id} is no cross-validation: 'pneumonia train --resume {run_id}' continues it"
        )
    return run_config


def _run(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    jobs: int | None,
    progress: Progress | None,
    on_run: OnRun | None,
) -> CrossValidation:
    if on_run is not None:
        on_run(run)
    with resumable(run, "cross-validate"):
        return _cross_validate(run, run_config, data, jobs, progress)


def _folds(run: Run, run_config: RunConfig, data: DataSet, progress: Progress | None) -> Folds:
    settings, n_folds = run_config.experiment.training, run_config.search.folds
    return Folds(run, settings, data, n_folds, keep_networks=True, progress=progress)


def _cross_validate(
    run: Run, run_config: RunConfig, data: DataSet, jobs: int | None, progress: Progress | None
) -> CrossValidation:
    """Train the folds that are not trained yet, and log what all come to."""
    settings, register = run_config.experiment.training, run_config.register_winner
    log_run_config(run, run_config, data)
    folds = _folds(run, run_config, data, progress)
    command = ("cross-validate", "--resume", run.id, "--join")
    trained = train_children(run, folds, settings, command, jobs)
    read, said = [], []
    for name in folds.names:
        fold = folds.read(name, trained[name])
        assert fold.network is not None
        said.append(measure(fold.network, fold.images["validation"], settings))
        read.append(replace(fold, network=fold.network.cpu() if register else None))
    test_images = data.open(preprocessing_of(settings))["test"]
    result = log_cross_validation(run, run_config, data, folds.pool, test_images, read, said)
    for kept in read:  # last, for a resumed run reads them
        if kept.run.has_checkpoint():
            kept.run.drop_checkpoint()
    return result
