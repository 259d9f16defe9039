"""Scoring a network on labelled images: its metrics, their intervals, and figures in a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pneumonia.data import summary
from pneumonia.data.dataset import Images
from pneumonia.data.properties import image_sizes
from pneumonia.evaluation.conformal import possible_classes
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.figures import confusion_matrices, roc_and_precision_recall
from pneumonia.evaluation.gallery import (
    Example,
    choose_examples,
    explanation_gallery,
    prediction_gallery,
)
from pneumonia.evaluation.grad_cam import grad_cam
from pneumonia.evaluation.intervals import Interval, bootstrap_intervals
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.evaluation.predictions import COLUMNS, Predictions, predictions_of
from pneumonia.evaluation.score_figure import score_histogram
from pneumonia.evaluation.subgroups import Subgroup, forest_plot, groups_of, subgroups
from pneumonia.tracking.lookup import count_scored
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.runs import Run, mlflow_key
from pneumonia.training.device import choose_engine, out_of_memory_as_error

_COVERAGE = 0.95
_OF_THRESHOLD = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a network scores on labelled images.

    Attributes:
        metrics: As ``classification_metrics`` gives them, at the model's threshold.
        intervals: Their 95 % intervals by bootstrap over patients; none of validation images.
        at_half: The metrics at a threshold of 0.5.
        subgroups: Sensitivity and specificity of all images, of each pathogen, and of groups by
            image size and by what a table of labels says.
        times_scored: How many runs of the tracking store scored these test images, this one
            included; 0 for images of another role.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    at_half: Mapping[str, float] = field(default_factory=dict)
    subgroups: Sequence[Subgroup] = ()
    times_scored: int = 0


def log_scores(
    run: Run,
    network: torch.nn.Module,
    config: ModelConfig,
    images: Images,
    role: str,
    device: str = "auto",
) -> Scores:
    """Score a network on labelled images; log figures, and metrics unless they are validation's.

    Metrics, figures and tables are named after ``role``, as ``test/auc``, ``test/auc_low``,
    ``roc_test`` and ``predictions_test.csv``. Metrics that depend on the threshold are given at 0.5
    too, as ``test/accuracy_at_0.5``. Validation metrics were logged by epoch already, and a second
    value would bend their curve.

    Args:
        run: The run to log to.
        network: The network.
        config: Its classes, threshold and calibration.
        images: The images.
        role: What they are, such as ``test``.
        device: Where to compute, in fp32, as ``predict`` decides: whoever scores the registered
            model again finds these very numbers.

    Raises:
        DeviceError: The device is out of memory.
    """
    engine, names, threshold = choose_engine(device, "fp32"), config.class_names, config.threshold
    with out_of_memory_as_error(engine.device, "use --device cpu"):
        network.to(engine.device)
        probability = predict_probabilities(
            network, images.to(engine.device), engine, config.scaling
        )
        truth = images.labels.cpu().numpy()
        title = f"{role} ({len(images):,} images)"
        metrics = classification_metrics(truth, probability, threshold)
        predicted = decide(probability, threshold)
        table = predictions_of(images.files, probability, threshold, names)
        run.log_text(table.as_csv(), f"predictions_{role}.csv")
        run.log_table(f"predictions_{role}.json", COLUMNS, table.rows())
        confusion = confusion_matrices(truth, predicted, names, title=title)
        run.log_figure(confusion, f"confusion_{role}")
        curves = roc_and_precision_recall(truth, probability, title=title, threshold=threshold)
        run.log_figure(curves, f"roc_{role}")
        scores = score_histogram(truth, probability, names, threshold=threshold, title=title)
        run.log_figure(scores, f"scores_{role}")
        if role == "validation":
            return Scores(metrics)
        patients = [file.patient.key for file in images.files]
        intervals = bootstrap_intervals(truth, probability, patients, threshold)
        run.log_metrics({f"{role}/{key}": value for key, value in metrics.items()})
        at_half = classification_metrics(truth, probability, 0.5)
        run.log_metrics({f"{role}/{key}_at_0.5": at_half[key] for key in _OF_THRESHOLD})
        _log_coverage(run, config, truth, probability, role)
        groups = _log_subgroups(run, table, images, role, title)
        log_intervals(run, role, intervals)
        shown = _examples(images, probability, names, threshold, count=16)
        run.log_figure(prediction_gallery(shown, title=title), "gallery")
        explained = _examples(images, probability, names, threshold, count=8)
        heats = _heats(network, config, explained)
        maps = [replace(e, heat=heat) for e, heat in zip(explained, heats, strict=True)]
        run.log_figure(explanation_gallery(maps, title=f"Grad-CAM, {title}"), "grad_cam")
    times_scored = count_scored(run, summary.digest(images.files)) if role == "test" else 0
    return Scores(metrics, intervals, at_half, groups, times_scored)


def log_intervals(run: Run, role: str, intervals: Mapping[str, Interval]) -> None:
    """Log both ends of each metric's interval, as ``test/auc_low`` and ``test/auc_high``."""
    for end, suffix in enumerate(("low", "high")):
        run.log_metrics({f"{role}/{key}_{suffix}": ends[end] for key, ends in intervals.items()})


def _log_coverage(
    run: Run,
    config: ModelConfig,
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    role: str,
) -> None:
    """Log how often the possible classes hold the true one, and are not one, at 95 %."""
    possible = possible_classes(probability, config.calibration, _COVERAGE)  # (n, 2)
    covered = float(possible[np.arange(len(truth)), truth].mean())
    undecided = float((possible.sum(axis=1) != 1).mean())
    stated = f"{_COVERAGE:g}"
    run.log_metrics(
        {f"{role}/coverage_at_{stated}": covered, f"{role}/undecided_at_{stated}": undecided}
    )


def _log_subgroups(
    run: Run, table: Predictions, images: Images, role: str, title: str
) -> list[Subgroup]:
    pathogens = np.array([image.patient.pathogen or "" for image in images.files])
    groups = {str(name): pathogens == name for name in np.unique(pathogens) if name}
    megapixels = image_sizes(images.files)
    known = [
        {**file.attributes, "megapixels": f"{size:.2f}" if np.isfinite(size) else ""}
        for file, size in zip(images.files, megapixels.tolist(), strict=True)
    ]
    rows = subgroups(table, groups | groups_of(known))
    run.log_figure(forest_plot(rows, title=title), f"subgroups_{role}")
    for row in rows:
        if row.name != "all":
            low, high = row.interval
            key = mlflow_key(f"{role}/{row.metric}_{row.name.replace('–', '-')}")
            run.log_metrics({key: row.value, f"{key}_low": low, f"{key}_high": high})
    return rows


def _examples(
    images: Images,
    probability: NDArray[np.float64],
    class_names: tuple[str, str],
    threshold: float,
    count: int,
) -> list[Example]:
    truth = images.labels.cpu().numpy()
    chosen = choose_examples(truth, probability, count=count, threshold=threshold)
    grey, labels = images.batch(torch.tensor(chosen))
    return [
        Example(
            image=grey[number].numpy(),
            truth=class_names[int(labels[number])],
            predicted=class_names[decide(float(probability[position]), threshold)],
            probability=float(probability[position]),
            name=images.files[position].path.name,
        )
        for number, position in enumerate(chosen)
    ]


def _heats(
    network: torch.nn.Module, config: ModelConfig, examples: list[Example]
) -> NDArray[np.float32]:
    grey = torch.from_numpy(np.stack([example.image for example in examples]))  # (B, H, W)
    device = next(network.parameters()).device
    return grad_cam(network, config.cam_layers, grey.to(device))
