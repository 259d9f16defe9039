"""What a recalibration leaves in its run: metrics before and after, figures, the model, a page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pneumonia.data.dataset import Images, Split
from pneumonia.evaluation.arrays import Probabilities, Threshold
from pneumonia.evaluation.conformal import calibration_of
from pneumonia.evaluation.document import Section, as_html, as_markdown
from pneumonia.evaluation.intervals import bootstrap_intervals
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.evaluation.predictions import predictions_of
from pneumonia.evaluation.recalibration import Recalibration
from pneumonia.evaluation.reliability_figures import reliability_diagram
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.evaluation.score_figure import score_histogram
from pneumonia.tracking.model_files import LoadedModel, ModelConfig
from pneumonia.tracking.model_uris import find_version
from pneumonia.tracking.models import log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.runs import Run
from pneumonia.tracking.scores import Scores, log_intervals

ROLE = "recalibration"
"""What the images are called in the names of metrics and files."""


@dataclass(frozen=True, slots=True)
class RecalibrationResult:
    """What the command reports at the end.

    Attributes:
        before: Of the model as it was.
        after: Of the recalibrated model, cross-fitted: each image by a fit without its patient.
        scaling: How its logits become probabilities.
        point: Its threshold.
        rejected: Share of the images that the model's input gate rejects.
        warning: What makes the result doubtful; may be empty.
        model_uri: The registered version's URI, or the logged model's.
        verdict: What became of the champion, or that nothing was registered.
    """

    before: Scores
    after: Scores
    scaling: LogitScaling
    point: OperatingPoint
    rejected: float
    warning: str
    model_uri: str
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        scores = {
            name: {"metrics": found.metrics, "intervals": found.intervals}
            for name, found in (("before", self.before), ("after", self.after))
        }
        return asdict(self) | scores


def recalibrated_config(config: ModelConfig, images: Images, found: Recalibration) -> ModelConfig:
    """A model's configuration with the scaling, the threshold and the images it was fitted to."""
    truth = images.labels.cpu().numpy()
    return replace(
        config,
        **asdict(found.scaling),
        threshold=found.point.threshold,
        threshold_rule=found.point.rule,
        prevalence=float(truth.mean()),
        calibration=calibration_of(truth, found.probability),
    )


def log_before_and_after(
    run: Run, split: Split, config: ModelConfig, before: Probabilities, found: Recalibration
) -> tuple[Scores, Scores]:
    """Log metrics before and after, figures, and a table of predictions.

    Beside the cross-fitted probability, and the decision at the model's threshold, the table has
    the probability before, the fold of each image, and the threshold that the other folds chose.

    Args:
        run: The run to log to.
        split: The images.
        config: The model's as it was.
        before: Probability of the positive class by the model as it was, float64 (n,).
        found: The recalibration.

    Returns:
        The metrics before and after.
    """
    images, after = split.images, found.probability
    truth = images.labels.cpu().numpy()
    scores = (
        _log_scores(run, "before", images, before, config.threshold),
        _log_scores(run, "after", images, after, found.threshold),
    )
    run.log_metrics({**asdict(found.scaling), **found.point.metrics})
    title = f"{split.root.name} ({len(images):,} images)"
    named = ("of the model as it was", "recalibrated, cross-fitted")
    run.log_figure(reliability_diagram(truth, before, after, named, title=title), "reliability")
    threshold, names = found.point.threshold, config.class_names
    histogram = score_histogram(truth, after, names, threshold=threshold, title=title)
    run.log_figure(histogram, "scores")
    table = predictions_of(images.files, after, threshold, names)
    more = {"before": before, "fold": found.fold, "fold_threshold": found.threshold}
    columns = {name: values.tolist() for name, values in more.items()}
    run.log_text(table.as_csv(**columns), f"predictions_{ROLE}.csv")
    return scores


def log_recalibrated(
    run: Run,
    model: LoadedModel,
    config: ModelConfig,
    split: Split,
    card: Sequence[Section],
    *,
    validation: Mapping[str, float],
    synthetic: bool,
    register_model: bool,
) -> tuple[str, str]:
    """Log a model with another configuration, and its page; register it beside the model it was.

    Args:
        run: The run to log to.
        model: The model as it was.
        config: Its new configuration.
        split: The images it was recalibrated on.
        card: What is known of it.
        validation: Its metrics on these images, cross-fitted.
        synthetic: Whether the images were drawn, not taken.
        register_model: Whether to make it a version.

    Returns:
        The version's URI, or the logged model's, and what became of the champion, as a sentence.
    """
    title = f"{config.title}, recalibrated on {split.root.name}"
    run.log_text(as_html(title, card, run.figures), "report.html")
    example = split.images.files[0].path.read_bytes()
    assert model.gate is not None  # every model that was read has one
    uri = log_model(run, model.network.cpu(), config, model.gate, step=0, example=example)
    if not register_model:
        return uri, "not registered, as asked"
    name, tags = _version_of(model)
    synthetic = synthetic or tags.get("data.synthetic") == "true"
    return register(
        uri,
        run,
        name,
        metric="loss",
        validation=validation,
        description=as_markdown(card),
        tags={
            "data": split.root.name,
            "data.validation": split.digest,
            "data.synthetic": str(synthetic).lower(),
            "recalibrated_from": model.uri,
            "threshold": f"{config.threshold:g}",
            "threshold_rule": config.threshold_rule,
            "members": str(config.members),
        },
    )


def _log_scores(
    run: Run, name: str, images: Images, probability: Probabilities, threshold: Threshold
) -> Scores:
    truth = images.labels.cpu().numpy()
    patients = [file.patient.key for file in images.files]
    metrics = classification_metrics(truth, probability, threshold)
    intervals = bootstrap_intervals(truth, probability, patients, threshold)
    run.log_metrics({f"{name}/{key}": value for key, value in metrics.items()})
    log_intervals(run, name, intervals)
    return Scores(metrics, intervals)


def _version_of(model: LoadedModel) -> tuple[str, Mapping[str, str]]:
    """The registered name and the tags of a model's version, else its network's name."""
    match = re.fullmatch(r"models:/([^/]+)/\d+", model.uri)
    return (match[1], find_version(model.uri).tags) if match else (model.config.network, {})
