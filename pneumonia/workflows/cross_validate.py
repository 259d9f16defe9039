"""Cross-validation: folds stratified by class and grouped by patient, one child run each."""

import csv
import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pneumonia.config.experiment import Experiment, load_experiment
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, Images, preprocessing_of
from pneumonia.data.splits import patient_folds
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.figures import confusion_matrices, roc_and_precision_recall
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.tracking.epochs import log_best, log_epoch
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.device import choose_engine, out_of_memory_as_error
from pneumonia.training.loop import train
from pneumonia.workflows.prepare import load_data

log = logging.getLogger(__name__)

Summary = Mapping[str, tuple[float, float, float]]


def cross_validate(
    *,
    experiment: str = "auto",
    folds: int = 5,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> Summary:
    """Train once a fold, and score each image by the network that did not see its patient.

    Args:
        experiment: Name of an experiment file, path of one, or ``auto``.
        folds: Number of folds, at least 2.
        tracking_uri: MLflow tracking URI; then ``MLFLOW_TRACKING_URI``; then ``./mlflow.db``.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.
        progress: Told what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Training and data settings by name; the others are the experiment's.

    Returns:
        For each metric its mean over folds, its standard deviation, and the value over all
        out-of-fold predictions pooled.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
    """
    chosen = load_experiment(experiment, settings)
    connect(tracking_uri)
    experiment_id = choose_experiment(experiment_name)
    data = load_data(chosen, progress)
    network = chosen.training.network
    tags = {"network": network, "kind": "cross-validation"}
    with parent_run(NewRun(f"{network}-{data.name}-cv{folds}", tags, experiment_id)) as run:
        if on_run is not None:
            on_run(run)
        return run_cross_validation(run, chosen, data, folds, progress)


def run_cross_validation(
    run: Run,
    experiment: Experiment,
    data: DataSet,
    n_folds: int,
    progress: Progress | None = None,
) -> Summary:
    """Train once a fold on the training and validation images; test images stay out.

    A fold's run has the metrics of its epochs and of its best epoch, as any run that trained. The
    parent has, for each metric, ``cv/auc_mean``, ``cv/auc_sd`` and ``cv/auc_pooled``. The mean is
    also its ``best/auc``, so that one column ranks all runs.

    The best epoch of a fold is chosen on the fold itself, so each fold's figure is optimistic by
    as much as choosing among its epochs gains; ``epochs`` alike for all keeps it small.

    Returns:
        For each metric its mean over folds, standard deviation (with n - 1), and the value over
        all out-of-fold predictions pooled.

    Raises:
        DataError: A class has fewer patients than folds.
        DeviceError: The device is out of memory.
        TrainingError: A fold cannot be trained.
    """
    settings = experiment.training
    run.log_data_set(data)
    run.log_parameters(settings.parameters() | experiment.data.parameters())
    run.log_parameters({"folds": n_folds, "experiment": experiment.name})
    opened = data.open(preprocessing_of(settings))
    pool = _joined(opened["train"], opened["validation"])
    engine = choose_engine(settings.device, settings.precision)
    out_of_fold = np.full(len(pool), np.nan)
    fold_of = np.zeros(len(pool), dtype=np.int64)
    best: list[Epoch] = []
    for fold, (left, held_out) in enumerate(
        patient_folds(pool.files, n_folds, experiment.data.split_seed)
    ):
        child = run.child(f"{settings.network}-f{fold}", {"fold": str(fold)})
        try:
            images = {
                "train": pool.part(torch.from_numpy(left)),
                "validation": pool.part(torch.from_numpy(held_out)),
            }
            trained = train(
                settings, images, partial(log_epoch, child, settings), progress=progress
            )
            with out_of_memory_as_error(engine.device, "use --device cpu"):
                out_of_fold[held_out] = predict_probabilities(
                    trained.network, images["validation"].to(engine.device), engine
                )
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            child.end(
                "KILLED" if interrupted else "FAILED", "interrupted" if interrupted else "failed"
            )
            raise
        fold_of[held_out] = fold
        best.append(trained.best)
        log_best(child, trained.best)
        child.end("FINISHED", "complete")
    return _log_summary(run, data, pool, out_of_fold, fold_of, best)


def _log_summary(
    run: Run,
    data: DataSet,
    pool: Images,
    out_of_fold: np.ndarray,
    fold_of: np.ndarray,
    best: list[Epoch],
) -> Summary:
    truth, names = pool.labels.numpy(), data.settings.class_names
    summary = {}
    for key, pooled in classification_metrics(truth, out_of_fold).items():
        of_folds = [epoch[f"val/{key}"] for epoch in best]
        summary[key] = (float(np.mean(of_folds)), float(np.std(of_folds, ddof=1)), pooled)
    for key, (mean, deviation, pooled) in summary.items():
        run.log_metrics({f"cv/{key}_mean": mean, f"cv/{key}_sd": deviation})
        run.log_metrics({f"cv/{key}_pooled": pooled, f"best/{key}": mean})
    title = f"out of fold ({len(pool):,} images)"
    predicted = decide(out_of_fold, 0.5)
    run.log_figure(confusion_matrices(truth, predicted, names, title=title), "confusion_pooled")
    run.log_figure(roc_and_precision_recall(truth, out_of_fold, title=title), "roc_pooled")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "patient", "fold", "truth", "probability"])
    for file, fold, label, value in zip(pool.files, fold_of, truth, out_of_fold, strict=True):
        writer.writerow(
            [file.path.relative_to(data.root), file.patient.name, fold, names[label], value]
        )
    run.log_text(table.getvalue(), "out_of_fold.csv")
    rows = [
        f"| {key} | {mean:.4f} ± {deviation:.4f} | {pooled:.4f} |"
        for key, (mean, deviation, pooled) in summary.items()
    ]
    head = f"{len(best)} folds, by patient.\n\n| metric | mean ± sd | pooled |\n|---|---|---|\n"
    warning = f"\n**Warning**: {data.warning}.\n" if data.warning else ""
    run.set_description(head + "\n".join(rows) + "\n" + warning)
    if data.warning:
        log.warning("warning: %s", data.warning)
    return summary


def _joined(first: Images, second: Images) -> Images:
    return replace(
        first,
        rows=torch.cat([first.rows, second.rows]),
        labels=torch.cat([first.labels, second.labels]),
        files=first.files + second.files,
    )
