"""What a finished experiment shows: the winner's metrics, figures, model and story."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.errors import TrackingError
from pneumonia.evaluation.batch_figure import augmented_batch
from pneumonia.evaluation.document import as_html, as_markdown
from pneumonia.evaluation.figures import learning_curves
from pneumonia.evaluation.intervals import Interval, value_text
from pneumonia.tracking.candidate import Candidate, validated
from pneumonia.tracking.input_gate import log_gate_rates
from pneumonia.tracking.model_card import model_card
from pneumonia.tracking.models import log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.runs import Run, read_text
from pneumonia.tracking.scores import log_scores
from pneumonia.training.loop import Trained, augmentation_of

_FILE = "result.json"
_SCORED_IN = ("accuracy", "auc", "sensitivity", "specificity")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What the command reports at the end.

    Attributes:
        test: Test metrics.
        intervals: 95 % intervals, by bootstrap over patients.
        model_uri: The registered version's URI, or the logged model's.
        verdict: What became of the champion, or that nothing was registered.
        synthetic: Whether the images were drawn, not taken.
        warning: What makes the results doubtful; empty where nothing is known to.
        threshold: Lowest probability called positive, in these results and by the model.
        threshold_rule: How it was chosen.
        stress: Worst and mean AUC and balanced accuracy of changed validation images.
        times_scored: How many runs of the tracking store scored these test images.
    """

    test: Mapping[str, float]
    intervals: Mapping[str, Interval]
    model_uri: str
    verdict: str
    synthetic: bool = False
    warning: str = ""
    threshold: float = 0.5
    threshold_rule: str = "0.5"
    stress: Mapping[str, float] = field(default_factory=dict)
    times_scored: int = 1

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it, which is all."""
        return asdict(self)

    def log(self, run: Run) -> None:
        """Log it to a run, as ``result.json``."""
        run.log_text(json.dumps(self.as_json(), indent=1), _FILE)

    @classmethod
    def read(cls, run_id: str) -> "TrainingResult":
        """Read what ``log`` has logged to a run.

        Raises:
            TrackingError: There is nothing.
        """
        text = read_text(run_id, _FILE)
        if text is None:
            raise TrackingError(f"run {run_id} has no {_FILE}: it was removed, or never logged")
        return cls.from_json(json.loads(text))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainingResult":
        """Make a result of what ``as_json`` gave."""
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
    """Log the curves of a training, some of its images, and what ``log_candidate`` logs."""
    run.log_figure(learning_curves(trained.history, best_epoch=trained.best_epoch), "curves")
    seen = f"{data.name}: training images, and augmented"
    augmented = augmented_batch(
        images["train"], augmentation_of(settings), data.settings.class_names, title=seen
    )
    run.log_figure(augmented, "augmented")
    origin = (
        f"Epoch {trained.best_epoch} of {len(trained.history)} was the best by validation "
        f"{settings.metric}."
    )
    candidate = validated(
        run,
        data,
        images,
        settings,
        trained.network,
        origin=origin,
        command=["train", *data.settings.options(), *settings.options()],
        chosen_by=trained.best[f"val/{settings.metric}"],
        step=trained.best_epoch,
    )
    return log_candidate(
        run, data, images["test"], settings, candidate, register_winner=register_winner
    )


def log_candidate(
    run: Run,
    data: DataSet,
    test_images: Images,
    settings: TrainingSettings,
    candidate: Candidate,
    *,
    register_winner: bool,
) -> TrainingResult:
    """Score a network once on the test images, and log its metrics, figures, model and report.

    Args:
        run: The run to log to.
        data: The data.
        test_images: The test images.
        settings: How the network was trained.
        candidate: The network.
        register_winner: Whether to register it.
    """
    config, point = candidate.calibrated.config, candidate.calibrated.point
    test = log_scores(run, candidate.network, config, test_images, "test", settings.device)
    rejected = log_gate_rates(
        run, candidate.network, candidate.gate, test_images, "test", settings.device
    )
    stress = candidate.calibrated.stress.summary(point.threshold)
    example = test_images.files[0].path.read_bytes()
    uri = log_model(
        run,
        candidate.network.cpu(),
        config,
        candidate.gate,
        step=candidate.step,
        example=example,
    )
    warning = "; ".join(filter(None, (data.warning, point.warning)))
    card = model_card(run.id, data, candidate, test, rejected, warning)
    run.log_text(as_html(f"{config.title} on {data.name}", card, run.figures), "report.html")
    verdict = "not registered, as asked"
    if register_winner:
        uri, verdict = register(
            uri,
            run,
            config.network,
            metric=settings.metric,
            validation=candidate.validation,
            description=as_markdown(card),
            tags={
                "data.digest": data.digest,
                "data.validation": candidate.digest,
                "data.synthetic": str(data.is_synthetic).lower(),
                "data": data.name,
                **{f"test.{key}": f"{test.metrics[key]:.4f}" for key in _SCORED_IN},
                **{f"stress.{key}": f"{value:.4f}" for key, value in stress.items()},
                "threshold": f"{point.threshold:g}",
                "threshold_rule": point.rule,
                "members": str(config.members),
            },
        )
    return TrainingResult(
        test=test.metrics,
        intervals=test.intervals,
        model_uri=uri,
        verdict=verdict,
        synthetic=data.is_synthetic,
        warning=warning,
        threshold=point.threshold,
        threshold_rule=point.rule,
        stress=stress,
        times_scored=test.times_scored,
    )


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
        f"{result_text(result)}\n**{settings.network}** on {data.name}: "
        f"validation {settings.metric} {value:.4f} "
        f"at epoch {trained.best_epoch} of {len(trained.history)}. {search}\n"
    )


def result_text(result: TrainingResult) -> str:
    """Test, model, warning and stress test, in Markdown."""
    return (
        f"**Test**: {summary(result)} (by the rule `{result.threshold_rule}`; 95 % intervals by "
        "bootstrap over patients).\n\n"
        f"Model: `{result.model_uri}` ({result.verdict}).\n\n"
        + (f"**Warning**: {result.warning}.\n\n" if result.warning else "")
        + f"Stress test: {stress_summary(result)}.\n"
    )


def summary(result: TrainingResult) -> str:
    """The test result in one line, with 95 % intervals."""
    return f"{metrics_summary(result.test, result.intervals)}, at threshold {result.threshold:g}"


def metrics_summary(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """The metrics that are asked for first, with their intervals; not those that are NaN."""
    return ", ".join(
        f"{key} {value_text(metrics[key], intervals[key])}"
        for key in _SCORED_IN
        if math.isfinite(metrics[key])  # images of one class have no AUC
    )


def stress_summary(result: TrainingResult) -> str:
    """The stress test in one line."""
    worst, mean = (result.stress[f"auc_{which}"] for which in ("worst", "mean"))
    balanced = result.stress["balanced_accuracy_mean"]
    return (
        f"AUC of changed validation images {mean:.3f}, at worst {worst:.3f}; "
        f"balanced accuracy {balanced:.3f}"
    )
