"""The figure of how far apart a network puts the two classes."""

import numpy as np
from matplotlib.figure import Figure

from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.figures import (
    BLUE,
    INK,
    ORANGE,
    blank_figure,
    legend_below,
    shorten,
    tidy,
)

_BINS = 20
_TICKS = (2, 5, *(number * 10**power for power in range(1, 7) for number in (1, 2, 5)))


def score_histogram(
    truth: Labels,
    probability: Probabilities,
    class_names: tuple[str, str],
    *,
    threshold: float,
    title: str,
) -> Figure:
    """Draw how many images of each class have which probability of the positive one.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Of the positive class, 0–1 (n,).
        class_names: The negative and the positive class.
        threshold: Lowest probability called positive.
        title: What the images are.
    """
    figure = blank_figure(9, 4.4, title)
    axes = figure.subplots()
    tidy(axes)
    edges = np.linspace(0, 1, _BINS + 1)
    # Beside each other rather than over each other: what is behind could not be read.
    centres, width = (edges[:-1] + edges[1:]) / 2, 0.44 / _BINS
    for label, side, colour in ((0, -0.5, BLUE), (1, 0.5, ORANGE)):
        scores = np.asarray(probability)[np.asarray(truth) == label]
        counts, _ = np.histogram(scores, edges)
        name = f"{shorten(class_names[label], 24)} ({len(scores):,})"
        axes.bar(centres + side * width, counts, width, color=colour, label=name)
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--")
    axes.annotate(
        f"threshold {threshold:.3g}",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4 if threshold < 0.75 else -4, -4),
        textcoords="offset points",
        ha="left" if threshold < 0.75 else "right",
        va="top",
        color=INK,
    )
    axes.set(
        xlim=(0, 1),
        xlabel="probability of the positive class",
        ylabel="images (logarithmic above 10)",
    )
    # Most images lie at the ends, and the few between them are what matters.
    axes.set_yscale("symlog", linthresh=10)
    most = axes.get_ylim()[1]
    axes.set_yticks([0, *(step for step in _TICKS if step < most)])
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    legend_below(axes)
    return figure
