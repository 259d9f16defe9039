"""What a finished experiment shows: the winner's metrics, figures, model and story."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pneumonia.config.data import DEMO
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.figures import (
    confusion_matrices,
    learning_curves,
    roc_and_precision_recall,
)
from pneumonia.evaluation.gallery import (
    Example,
    choose_examples,
    explanation_gallery,
    prediction_gallery,
)
from pneumonia.evaluation.grad_cam import grad_cam
from pneumonia.evaluation.metrics import classification_metrics, confidence_intervals
from pneumonia.evaluation.predict import predict_probabilities
from pneumonia.networks.registry import network_named
from pneumonia.tracking.epochs import log_best
from pneumonia.tracking.models import ModelConfig, log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.runs import Run
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import Trained

_SCORED_IN = ("accuracy", "auc", "sensitivity", "specificity")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What the command reports at the end.

    Attributes:
        test: Test metrics.
        intervals: 95 % intervals of some of them.
        model_uri: The registered version's URI, or the logged model's.
        verdict: What became of the champion, or that nothing was registered.
        synthetic: Whether the images were drawn, not taken.
    """

    test: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    model_uri: str
    verdict: str
    synthetic: bool = False

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it, which is all."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainingResult":
        """The result that was kept as JSON."""
        return cls(**content)


def log_result(
    run: Run,
    data: DataSet,
    images: Mapping[str, Images],
    settings: TrainingSettings,
    trained: Trained,
    *,
    register_winner: bool,
) -> TrainingResult:
    """Score the winner once on the test images, and log metrics, figures and model."""
    names = data.settings.class_names
    synthetic = data.settings.data == DEMO
    run.log_figure(learning_curves(trained.history, best_epoch=trained.best_epoch), "curves")
    log_best(run, trained.best)
    log_scores(run, trained.network, images["validation"], "validation", settings, names)
    test, intervals = log_scores(run, trained.network, images["test"], "test", settings, names)
    config = ModelConfig(settings.network, settings.image_size, settings.resize, names)
    example = images["test"].files[0].path.read_bytes()
    uri = log_model(run, trained.network.cpu(), config, step=trained.best_epoch, example=example)
    if not register_winner:
        return TrainingResult(test, intervals, uri, "not registered, as asked", synthetic)
    uri, verdict = register(
        uri,
        run,
        settings.network,
        metric=settings.metric,
        validation=_named(trained.best, "val/"),
        tags={
            "data.digest": data.digest,
            "data.validation": data.role_digest("validation"),
            "data.synthetic": str(synthetic).lower(),
            "data": data.name,
            **{f"test.{key}": f"{test[key]:.4f}" for key in _SCORED_IN},
        },
    )
    return TrainingResult(test, intervals, uri, verdict, synthetic)


def log_scores(
    run: Run,
    network: torch.nn.Module,
    images: Images,
    role: str,
    settings: TrainingSettings,
    names: tuple[str, str],
    threshold: float = 0.5,
) -> tuple[dict[str, float], Mapping[str, tuple[float, float]]]:
    """Score a network on labelled images; log figures, and metrics unless they are validation's.

    Metrics and figures are named after ``role``, as ``test/auc`` and ``roc_test``. Validation
    metrics were logged by epoch already, and a second value would bend their curve.
    """
    # As predict computes: whoever scores the registered model again finds these very numbers.
    engine = choose_engine(settings.device, "fp32")
    network.to(engine.device)
    probability = predict_probabilities(network, images.to(engine.device), engine)
    truth = images.labels.numpy()
    metrics = classification_metrics(truth, probability, threshold)
    intervals = confidence_intervals(truth, probability, threshold)
    title = f"{role} ({len(images):,} images)"
    predicted = decide(probability, threshold)
    run.log_figure(confusion_matrices(truth, predicted, names, title=title), f"confusion_{role}")
    run.log_figure(
        roc_and_precision_recall(truth, probability, title=title, threshold=threshold),
        f"roc_{role}",
    )
    if role != "validation":
        run.log_metrics({f"{role}/{key}": value for key, value in metrics.items()})
        for figure, count, heats in (("gallery", 16, False), ("grad_cam", 8, True)):
            chosen = choose_examples(truth, probability, count=count, threshold=threshold)
            examples = _examples(images, chosen, probability, names, threshold)
            if heats:
                examples = _explained(network, settings, images, chosen, examples)
                run.log_figure(explanation_gallery(examples, title="Grad-CAM, " + title), figure)
            else:
                run.log_figure(prediction_gallery(examples, title=title), figure)
    return metrics, intervals


def description(
    settings: TrainingSettings,
    data: DataSet,
    trained: Trained,
    result: TrainingResult,
    search: str = "",
) -> str:
    """The run's description in Markdown; what is most worth knowing first, since UIs fold it.

    Args:
        settings: The winner's.
        data: The data.
        trained: The winner.
        result: What it came to.
        search: What a search adds to the result.
    """
    value = trained.best[f"val/{settings.metric}"]
    return (
        f"**{settings.network}** on {data.name}: validation {settings.metric} **{value:.4f}** at "
        f"epoch {trained.best_epoch} of {len(trained.history)}.\n\n{search}"
        f"Test, scored once: {summary(result)} (95 % Wilson intervals).\n\n"
        f"Model: `{result.model_uri}` ({result.verdict}).\n"
    )


def summary(result: TrainingResult) -> str:
    """The test result in one line, with 95 % intervals where they are known."""
    parts = []
    for key in _SCORED_IN:
        low_high = result.intervals.get(key)
        interval = f" ({low_high[0]:.3f}–{low_high[1]:.3f})" if low_high else ""
        parts.append(f"{key} {result.test[key]:.3f}{interval}")
    return ", ".join(parts)


def _examples(
    images: Images,
    chosen: list[int],
    probability: NDArray[np.float64],
    names: tuple[str, str],
    threshold: float,
) -> list[Example]:
    grey, labels = images.batch(torch.tensor(chosen))
    return [
        Example(
            image=grey[place].numpy(),
            truth=names[int(labels[place])],
            predicted=names[decide(float(probability[position]), threshold)],
            probability=float(probability[position]),
            name=images.files[position].path.name,
        )
        for place, position in enumerate(chosen)
    ]


def _explained(
    network: torch.nn.Module,
    settings: TrainingSettings,
    images: Images,
    chosen: list[int],
    examples: list[Example],
) -> list[Example]:
    device = next(network.parameters()).device
    grey, _ = images.batch(torch.tensor(chosen))
    layer = network_named(settings.network).cam_layer
    heats = grad_cam(network, layer, grey.to(device))
    return [
        Example(e.image, e.truth, e.predicted, e.probability, e.name, heat)
        for e, heat in zip(examples, heats, strict=True)
    ]


def _named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The metrics of one role, without its prefix."""
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
