"""The figure of a batch's probabilities beside those of the validation images."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from pneumonia.evaluation.drift import ScoreDrift
from pneumonia.evaluation.figures import (
    BLUE,
    ORANGE,
    SMALL_SIZE,
    blank_figure,
    legend_below,
    tidy,
)


def drift_figure(drift: ScoreDrift, *, title: str) -> Figure:
    """Draw the share of a batch's images, and of the validation images, in each bin.

    Args:
        drift: With at least one image.
        title: Stands above.
    """
    figure = blank_figure(9, 4.6, title)
    axes = figure.subplots()
    positions = np.arange(len(drift.expected))
    observed = drift.counts / drift.counts.sum()
    axes.bar(positions - 0.2, drift.expected, 0.38, color=BLUE, label="validation images")
    n_images = int(drift.counts.sum())
    axes.bar(
        positions + 0.2, observed, 0.38, color=ORANGE, label=f"this batch ({n_images:,} images)"
    )
    for position, share in zip(positions, observed, strict=True):
        axes.annotate(
            f"{share:.0%}", (position + 0.2, share), ha="center", va="bottom", fontsize=SMALL_SIZE
        )
    axes.set_xticks(positions, _names(drift.edges.tolist()))
    axes.set(xlabel="probability", ylabel="share of the images")
    tidy(axes)
    legend_below(axes)
    return figure


def _names(edges: Sequence[float]) -> list[str]:
    shown = ["0", *(f"{edge:.4g}" for edge in edges), "1"]
    return [f"{low}–\n{high}" for low, high in pairwise(shown)]
