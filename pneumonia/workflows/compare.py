"""``pneumonia compare``: two models on the same images."""

from pathlib import Path
from typing import get_args

from pneumonia.config.training import Metric
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.limits import UnreadableImageError
from pneumonia.errors import CheckError, DataError, UsageError, nearest
from pneumonia.evaluation.comparison import Comparison, aligned, compare_predictions
from pneumonia.evaluation.gallery import Example, prediction_gallery, save_marked
from pneumonia.evaluation.predictions import Predictions
from pneumonia.tracking.predictions import find_predictions

_REQUIREMENTS = {"better": {"better"}, "non-inferior": {"better", "non-inferior"}}
_SHOWN = 16
_SHOWN_PIXELS = 320


def compare(
    first: str,
    second: str,
    *,
    role: str = "test",
    metric: str = "auc",
    margin: float = 0.01,
    gallery: Path | None = None,
) -> Comparison:
    """Compare two models by what they said of the same images.

    Args:
        first: A file of predictions, the id of a run, or a model's URI.
        second: The one to compare with, given likewise.
        role: Which predictions of a run: ``test``, ``validation``.
        metric: The metric that the verdict is about.
        margin: By how much a non-inferior model may be worse.
        gallery: PNG file to draw the images into that the two call differently.

    Raises:
        DataError: There are no predictions, or they are of different images.
        UsageError: There is no such metric, or the margin is negative.
    """
    if metric not in get_args(Metric) or metric == "stress":
        raise UsageError(f"unknown metric {metric!r}: {nearest(metric, get_args(Metric)[:-1])}")
    if margin < 0:
        raise UsageError(f"margin = {margin}: give 0 or more")
    tables = aligned(find_predictions(first, role), find_predictions(second, role), (first, second))
    comparison = compare_predictions(*tables)
    if gallery is not None:
        _draw_disagreements(gallery, *tables, comparison)
    return comparison


def check_verdict(comparison: Comparison, metric: str, margin: float, required: str) -> None:
    """Raise unless the verdict is what is required.

    Args:
        comparison: The comparison.
        metric: The metric that the verdict is about.
        margin: By how much a non-inferior model may be worse.
        required: ``better`` or ``non-inferior``.

    Raises:
        CheckError: It is not.
    """
    verdict = comparison.verdict(metric, margin)
    if verdict not in _REQUIREMENTS[required]:
        low, high = comparison.differences[metric].interval
        raise CheckError(
            f"the first model is not {required} by {metric}: the verdict is {verdict!r} (95 % "
            f"interval of the difference {low:+.4f} to {high:+.4f})"
        )


def _draw_disagreements(
    target: Path, first: Predictions, second: Predictions, comparison: Comparison
) -> None:
    """Draw what the first model says above each image, and what the second says below it."""
    examples = []
    for position in comparison.disagreements[:_SHOWN]:
        path = Path(first.paths[position])
        try:
            pixels = decode(path.read_bytes(), Preprocessing(_SHOWN_PIXELS, "pad"))
        except (OSError, UnreadableImageError) as error:
            raise DataError(f"cannot draw {str(path)!r}: {error}") from None
        names = first.class_names
        examples.append(
            Example(
                image=pixels,
                truth=names[first.truth[position]],
                predicted=names[first.decisions[position]],
                probability=float(first.probability[position]),
                name=f"second model: {names[second.decisions[position]]} "
                f"{second.probability[position]:.3f}",
            )
        )
    count = len(comparison.disagreements)
    title = f"{min(count, _SHOWN)} of {count:,} images that the two models call differently"
    save_marked(prediction_gallery(examples, title=title), target)
