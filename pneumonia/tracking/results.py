"""What a finished experiment shows: the winner's metrics, figures, model and story."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pneumonia.config.data import DEMO
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.evaluation.figures import learning_curves
from pneumonia.evaluation.intervals import Interval
from pneumonia.tracking.epochs import log_best
from pneumonia.tracking.models import ModelConfig, log_model
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
    """

    test: Mapping[str, float]
    intervals: Mapping[str, Interval]
    model_uri: str
    verdict: str
    synthetic: bool = False
    warning: str = ""

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
    config = ModelConfig(settings.network, settings.image_size, settings.resize, names)
    scored = {
        role: log_scores(
            run, trained.network, settings.network, images[role], role, names, settings.device
        )
        for role in ("validation", "test")
    }
    test, intervals = scored["test"]
    example = images["test"].files[0].path.read_bytes()
    uri = log_model(run, trained.network.cpu(), config, step=trained.best_epoch, example=example)
    if not register_winner:
        verdict = "not registered, as asked"
        return TrainingResult(test, intervals, uri, verdict, synthetic, data.warning)
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
    return TrainingResult(test, intervals, uri, verdict, synthetic, data.warning)


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
        f"Test, scored once: {summary(result)} (95 % intervals by bootstrap over patients).\n\n"
        f"Model: `{result.model_uri}` ({result.verdict}).\n"
        + (f"\n**Warning**: {data.warning}.\n" if data.warning else "")
    )


def summary(result: TrainingResult) -> str:
    """The test result in one line, with 95 % intervals where they are known."""
    parts = []
    for key in _SCORED_IN:
        low_high = result.intervals.get(key)
        interval = f" ({low_high[0]:.3f}–{low_high[1]:.3f})" if low_high else ""
        parts.append(f"{key} {result.test[key]:.3f}{interval}")
    return ", ".join(parts)


def _named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The metrics of one role, without its prefix."""
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
