"""What a finished cross-validation shows: its folds together, and their ensemble."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pneumonia.data import summary
from pneumonia.data.dataset import DataSet, Images
from pneumonia.evaluation.calibration import scaled
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.figures import confusion_matrices, roc_and_precision_recall
from pneumonia.evaluation.intervals import Interval, bootstrap_intervals, value_text
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.evaluation.predictions import predictions_of
from pneumonia.evaluation.stress import StressTest
from pneumonia.networks.ensemble import Ensemble
from pneumonia.tracking.candidate import Candidate
from pneumonia.tracking.input_gate import fitted_gate
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.operating_point import Calibrated, Measured, log_operating_point
from pneumonia.tracking.results import TrainingResult, log_candidate
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold that is trained.

    Attributes:
        run: Its run.
        images: Those it was trained on, ``train``, and those held out, ``validation``.
        held_out: Positions of the latter in the pool of all folds, int64 (n,).
        best: Validation metrics of its best epoch by name, at a threshold of 0.5.
        network: Its network, where networks are kept.
    """

    run: Run
    images: Mapping[str, Images]
    held_out: NDArray[np.int64]
    best: Mapping[str, float]
    network: nn.Module | None


@dataclass(frozen=True, slots=True)
class Pooled:
    """A metric of a cross-validation.

    Attributes:
        mean: Over folds.
        deviation: Standard deviation over folds (with n - 1).
        pooled: Over all images, each as scored out of its fold.
        interval: 95 % interval of ``pooled``, by bootstrap over patients.
    """

    mean: float
    deviation: float
    pooled: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What a cross-validation comes to.

    Attributes:
        metrics: By name, at a threshold of 0.5 where they depend on one.
        threshold: The threshold chosen on the images out of fold.
        interval: Where 95 % of the thresholds are that resampled patients would have chosen.
        rule: How it was chosen.
        ensemble: The test result of the ensemble, where it was registered.
    """

    metrics: Mapping[str, Pooled]
    threshold: float
    interval: Interval
    rule: str
    ensemble: TrainingResult | None


def log_cross_validation(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    pool: Images,
    test_images: Images,
    folds: Sequence[Fold],
    said: Sequence[Measured],
) -> CrossValidation:
    """Log what the folds come to, and the ensemble of their networks if it is to be registered.

    The parent has, for each metric, ``cv/auc_mean``, ``cv/auc_sd``, ``cv/auc_pooled`` and the
    latter's interval, ``cv/auc_low`` and ``cv/auc_high``. The mean is also its ``best/auc``, so
    that one column ranks all runs.

    The best epoch of a fold is chosen on the fold itself, so each fold's figure is optimistic by
    as much as choosing among its epochs gains; ``epochs`` alike for all keeps it small.

    Args:
        run: The parent.
        run_config: Its settings.
        data: The data.
        pool: The images of all folds.
        test_images: The test images, which only the ensemble is scored on.
        folds: The folds.
        said: What the network of each says of the images held out.
    """
    settings = run_config.experiment.training
    measured = _out_of_fold(pool, folds, said)
    title = f"out of fold ({len(pool):,} images)"
    members = len(folds)
    uncalibrated = ModelConfig.uncalibrated(settings, data.settings.class_names, members)
    calibrated = log_operating_point(run, uncalibrated, measured, settings.threshold, title)
    point = calibrated.point
    metrics = _log_metrics(run, measured, folds)
    _log_predictions(run, data, pool, measured, calibrated.config, folds, title)
    result = None
    if run_config.register_winner:
        candidate = _ensemble(run_config, data, pool, measured, folds, calibrated)
        result = log_candidate(run, data, test_images, settings, candidate, register_winner=True)
    _describe(run, data, metrics, point, result, members)
    return CrossValidation(metrics, point.threshold, point.interval, point.rule, result)


def _out_of_fold(pool: Images, folds: Sequence[Fold], said: Sequence[Measured]) -> Measured:
    """What was said of each image by the network that did not see its patient."""
    clean = np.full(len(pool), np.nan)
    for fold, of_fold in zip(folds, said, strict=True):
        clean[fold.held_out] = of_fold.clean
    return Measured(
        pool.labels.cpu().numpy(),
        [file.patient.key for file in pool.files],
        clean,
        StressTest.joined([of_fold.stress for of_fold in said]),
    )


def _log_metrics(run: Run, measured: Measured, folds: Sequence[Fold]) -> dict[str, Pooled]:
    truth, probability = measured.truth, measured.clean
    intervals = bootstrap_intervals(truth, probability, measured.patients, 0.5)
    metrics = {}
    for key, pooled in classification_metrics(truth, probability).items():
        of_folds = [fold.best.get(key, np.nan) for fold in folds]
        mean, deviation = float(np.mean(of_folds)), float(np.std(of_folds, ddof=1))
        low, high = intervals[key]
        metrics[key] = Pooled(mean, deviation, pooled, (low, high))
        run.log_metrics({f"cv/{key}_mean": mean, f"cv/{key}_sd": deviation, f"best/{key}": mean})
        run.log_metrics({f"cv/{key}_pooled": pooled, f"cv/{key}_low": low, f"cv/{key}_high": high})
    return metrics


def _log_predictions(
    run: Run,
    data: DataSet,
    pool: Images,
    measured: Measured,
    config: ModelConfig,
    folds: Sequence[Fold],
    title: str,
) -> None:
    truth, names = measured.truth, data.settings.class_names
    probability = scaled(measured.clean, config.scaling)
    predicted = decide(probability, config.threshold)
    run.log_figure(confusion_matrices(truth, predicted, names, title=title), "confusion_pooled")
    curves = roc_and_precision_recall(truth, probability, title=title, threshold=config.threshold)
    run.log_figure(curves, "roc_pooled")
    fold_of = np.zeros(len(pool), dtype=np.int64)
    for number, fold in enumerate(folds):
        fold_of[fold.held_out] = number
    table = predictions_of(pool.files, probability, config.threshold, names)
    run.log_text(table.as_csv(fold=fold_of.tolist()), "predictions_out_of_fold.csv")


def _ensemble(
    run_config: RunConfig,
    data: DataSet,
    pool: Images,
    measured: Measured,
    folds: Sequence[Fold],
    calibrated: Calibrated,
) -> Candidate:
    """The ensemble of the folds' networks, with the threshold and temperature out of fold."""
    settings, config = run_config.experiment.training, calibrated.config
    network = Ensemble([fold.network for fold in folds if fold.network is not None]).eval()
    # The gate uses the features of the first member. No image is new to all members, so it is
    # fitted on the images of the first one's fold.
    gate = fitted_gate(network, folds[0].images, config, settings.device)
    probability = scaled(measured.clean, config.scaling)
    validation = classification_metrics(measured.truth, probability, config.threshold)
    return Candidate(
        network,
        calibrated,
        gate,
        validation={**validation, settings.metric: measured.metric(settings.metric)},
        digest=summary.digest(pool.files),
        origin=f"It answers with the mean probability of the networks of {len(folds)} folds. "
        "Threshold, temperature and stress test are those of the single networks on the images out "
        "of their folds.",
        command=[
            *("cross-validate", "--register", "true", "--folds", str(len(folds))),
            *data.settings.options(),
            *settings.options(),
        ],
    )


def _describe(
    run: Run,
    data: DataSet,
    metrics: Mapping[str, Pooled],
    point: OperatingPoint,
    result: TrainingResult | None,
    n_folds: int,
) -> None:
    low, high = point.interval
    warning = "; ".join(filter(None, (data.warning, point.warning)))
    scored = "each image is scored by the network that did not see its patient"
    chosen = f"Threshold {point.threshold:g} ({low:.2f}–{high:.2f}), by the rule `{point.rule}`."
    lines = [
        f"{n_folds} folds, by patient; {scored}. {chosen}",
        "",
        *([f"Ensemble: `{result.model_uri}` ({result.verdict}).", ""] if result else []),
        "| metric | mean ± sd of folds | pooled (95 % interval) |",
        "|---|---|---|",
        *(
            f"| {key} | {row.mean:.4f} ± {row.deviation:.4f} | "
            f"{value_text(row.pooled, row.interval, digits=4)} |"
            for key, row in metrics.items()
        ),
        *(["", f"**Warning**: {warning}."] if warning else []),
    ]
    run.set_description("\n".join(lines) + "\n")
    if warning:
        log.warning("warning: %s", warning)
