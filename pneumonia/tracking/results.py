"""What a finished experiment shows: the winner's metrics, figures, model and story."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.evaluation.document import as_html, as_markdown
from pneumonia.evaluation.figures import learning_curves
from pneumonia.evaluation.intervals import Interval
from pneumonia.tracking.epochs import log_best
from pneumonia.tracking.input_gate import fitted_gate, log_gate_rates
from pneumonia.tracking.model_card import model_card
from pneumonia.tracking.models import ModelConfig, log_model
from pneumonia.tracking.operating_point import log_operating_point
from pneumonia.tracking.registry import register
from pneumonia.tracking.runs import Run
from pneumonia.tracking.scores import log_scores
from pneumonia.training.loop import Trained

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
    synthetic = data.is_synthetic
    run.log_figure(learning_curves(trained.history, best_epoch=trained.best_epoch), "curves")
    log_best(run, trained.best)
    uncalibrated = ModelConfig(settings.network, settings.image_size, settings.resize, names)
    config, point, stressed = log_operating_point(
        run, trained.network, uncalibrated, images["validation"], settings
    )
    gate = fitted_gate(trained.network, images, settings)
    scored = {
        role: log_scores(run, trained.network, config, images[role], role, settings.device)
        for role in ("validation", "test")
    }
    test = scored["test"]
    rejected = log_gate_rates(run, trained.network, gate, images["test"], "test", settings.device)
    stress = stressed.summary(point.threshold)
    example = images["test"].files[0].path.read_bytes()
    uri = log_model(
        run, trained.network.cpu(), config, gate, step=trained.best_epoch, example=example
    )
    chosen_by = trained.best[f"val/{settings.metric}"]
    warning = "; ".join(filter(None, (data.warning, point.warning)))
    card = model_card(
        run.id, data, settings, trained, config, point, stressed, test, rejected, warning
    )
    title = f"{settings.network} on {data.name}"
    run.log_text(as_html(title, card, run.figures), "report.html")
    shared = (synthetic, warning, point.threshold, point.rule, stress, test.times_scored)
    if not register_winner:
        verdict = "not registered, as asked"
        return TrainingResult(test.metrics, test.intervals, uri, verdict, *shared)
    uri, verdict = register(
        uri,
        run,
        settings.network,
        metric=settings.metric,
        # At the model's own threshold, but for the value that the epoch was chosen by.
        validation={**scored["validation"].metrics, settings.metric: chosen_by},
        description=as_markdown(card),
        tags={
            "data.digest": data.digest,
            "data.validation": data.role_digest("validation"),
            "data.synthetic": str(synthetic).lower(),
            "data": data.name,
            **{f"test.{key}": f"{test.metrics[key]:.4f}" for key in _SCORED_IN},
            **{f"stress.{key}": f"{value:.4f}" for key, value in stress.items()},
            "threshold": f"{point.threshold:g}",
            "threshold_rule": point.rule,
        },
    )
    return TrainingResult(test.metrics, test.intervals, uri, verdict, *shared)


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
        f"Test: {summary(result)} (chosen by the rule `{result.threshold_rule}`), "
        "with 95 % intervals by bootstrap over patients.\n\n"
        f"Stress test: {stress_summary(result)}.\n\n"
        f"Model: `{result.model_uri}` ({result.verdict}).\n"
        + (f"\n**Warning**: {result.warning}.\n" if result.warning else "")
    )


def summary(result: TrainingResult) -> str:
    """The test result in one line, with 95 % intervals where they are known."""
    parts = []
    for key in _SCORED_IN:
        low_high = result.intervals.get(key)
        interval = f" ({low_high[0]:.3f}–{low_high[1]:.3f})" if low_high else ""
        parts.append(f"{key} {result.test[key]:.3f}{interval}")
    return f"{', '.join(parts)}, at threshold {result.threshold:g}"


def stress_summary(result: TrainingResult) -> str:
    """The stress test in one line."""
    worst, mean = (result.stress[f"auc_{which}"] for which in ("worst", "mean"))
    balanced = result.stress["balanced_accuracy_mean"]
    return (
        f"AUC of changed validation images {mean:.3f}, at worst {worst:.3f}; "
        f"balanced accuracy {balanced:.3f}"
    )
