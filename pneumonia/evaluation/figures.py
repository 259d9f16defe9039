"""Figures of training and evaluation, and the one palette and style that all figures share.

Every figure is a free-standing ``matplotlib.figure.Figure``: without pyplot there is no global
state, so they may be drawn in any thread and without a display.
"""

import functools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pneumonia.evaluation.decide import decide

Labels = NDArray[np.integer[Any]]
Probabilities = NDArray[np.floating[Any]]

# Okabe and Ito's colours, which people with any common colour blindness tell apart; the red is
# darkened until it reads as text on white.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
RED = "#C62828"
GREY = "#767676"
INK = "#222222"
CELLS = colormaps["Blues"]

TITLE_SIZE = 13
TEXT_SIZE = 10.5
SMALL_SIZE = 9.5

_MISSING = "□"
_MARKED_EPOCHS = 30
_PANELS = {
    "Loss": (("train/loss", "training", BLUE), ("val/loss", "validation", ORANGE)),
    "Accuracy and AUC": (
        ("train/accuracy", "training", BLUE),
        ("val/accuracy", "validation", ORANGE),
        ("val/auc", "validation AUC", GREEN),
    ),
}


def learning_curves(history: Sequence[Mapping[str, float]], *, best_epoch: int) -> Figure:
    """Draw loss, and accuracy with AUC, by epoch.

    Args:
        history: One item an epoch, with ``epoch``, ``train/loss``, ``val/loss``,
            ``train/accuracy``, ``val/accuracy`` (both 0..1) and ``val/auc`` (0..1, or NaN where
            it is not defined).
        best_epoch: The epoch whose weights were kept, as numbered in ``history``.

    Returns:
        Two panels.
    """
    if not history:
        return sentence_figure("No epoch was finished, so there are no learning curves.")
    figure = blank_figure(10, 4.6)
    panels = zip(_PANELS.items(), figure.subplots(1, 2), strict=True)
    for (title, curves), axes in panels:
        for key, name, colour in curves:
            _curve(axes, history, key, name=name, colour=colour, best_epoch=best_epoch)
        tidy(axes)
        axes.set_title(title, loc="left", fontsize=TITLE_SIZE, pad=20)
        axes.set(xlabel="epoch", xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        axes.axvline(best_epoch, color=GREY, linestyle="--", linewidth=1, zorder=1)
        top = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text(best_epoch, 1.015, f"best epoch {best_epoch}", top, color=GREY)
        legend_below(axes, title="at the best epoch")
    return figure


def confusion_matrices(
    truth: Labels, predicted: Labels, class_names: tuple[str, str], *, title: str
) -> Figure:
    """Draw the confusion matrix in counts and in percent of each true class.

    Args:
        truth: (N,), 0 for the negative class and 1 for the positive class.
        predicted: (N,), likewise.
        class_names: Names of the negative and the positive class.
        title: Stands above both panels.

    Returns:
        Two panels; rows are the truth, columns the prediction. The row of a class that never
        occurs says so in the right panel.
    """
    pairs = 2 * truth.astype(np.int64) + predicted.astype(np.int64)
    counts = np.bincount(pairs, minlength=4).reshape(2, 2)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    rates = (("specificity", "false positive rate"), ("false negative rate", "sensitivity"))
    percentages = [
        [f"{shares[row, column]:.1%}\n{rates[row][column]}" for column in (0, 1)]
        if totals[row, 0]
        else ["no images"] * 2
        for row in (0, 1)
    ]
    figure = blank_figure(10, 4.9, title)
    left, right = figure.subplots(1, 2)
    _cells(left, counts / max(counts.max(), 1), [[f"{n:,}" for n in row] for row in counts])
    _cells(right, shares, percentages)
    names = [shorten(name, 24) for name in class_names]
    for axes, what in ((left, "Images"), (right, "Share of each true class")):
        axes.set(title=what, xlabel="predicted class", ylabel="true class")
        axes.set_xticks([0, 1], names, fontsize=TEXT_SIZE)
        axes.set_yticks([0, 1], names, fontsize=TEXT_SIZE, rotation=90, va="center")
        axes.tick_params(length=0)
    return figure


def roc_and_precision_recall(
    truth: Labels, probability: Probabilities, *, title: str, threshold: float = 0.5
) -> Figure:
    """Draw the ROC curve and the precision-recall curve, with the operating point on both.

    Args:
        truth: (N,), 0 for the negative class and 1 for the positive class.
        probability: (N,), 0..1, of the positive class.
        title: Stands above both panels.
        threshold: Probability from which an image is predicted to be positive.

    Returns:
        Two panels, or the reason in words where ``truth`` does not hold both classes.
    """
    if len(np.unique(truth)) < 2:
        held = "only images of one class" if len(truth) else "no images"
        need = "A ROC curve and a precision-recall curve need images of both classes."
        return sentence_figure(f"There are {held} here. {need}", title)
    positive = truth == 1
    called = decide(probability, threshold) == 1
    true_positives = int((called & positive).sum())
    sensitivity = true_positives / int(positive.sum())
    false_positive_rate = int((called & ~positive).sum()) / int((~positive).sum())
    base_rate = float(positive.mean())

    figure = blank_figure(10, 5.1, title)
    roc, tradeoff = figure.subplots(1, 2)
    fpr, tpr, _ = roc_curve(truth, probability)
    roc.plot(fpr, tpr, color=BLUE, linewidth=2, clip_on=False)
    roc.fill_between(fpr, tpr, color=BLUE, alpha=0.08, linewidth=0)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    rates = f"sensitivity {sensitivity:.1%}, specificity {1 - false_positive_rate:.1%}"
    _operating_point(roc, false_positive_rate, sensitivity, f"threshold {threshold:.3g}: {rates}")
    area = roc_auc_score(truth, probability)
    roc.set(title=f"ROC, AUC {area:.3f}", xlabel="false positive rate (1 − specificity)")
    roc.set(ylabel="sensitivity")

    precision, recall, _ = precision_recall_curve(truth, probability)
    # Average precision is the area under these steps; sloping lines would promise more.
    tradeoff.step(recall, precision, where="post", color=BLUE, linewidth=2, clip_on=False)
    tradeoff.fill_between(recall, precision, color=BLUE, alpha=0.08, step="post", linewidth=0)
    tradeoff.axhline(
        base_rate, color=GREY, linestyle="--", linewidth=1, label=f"base rate {base_rate:.1%}"
    )
    if called.any():
        reached = true_positives / int(called.sum())
        rates = f"recall {sensitivity:.1%}, precision {reached:.1%}"
        _operating_point(tradeoff, sensitivity, reached, f"threshold {threshold:.3g}: {rates}")
    average = average_precision_score(truth, probability)
    tradeoff.set(title=f"Precision and recall, average precision {average:.3f}")
    tradeoff.set(xlabel="recall (sensitivity)", ylabel="precision")
    for axes in (roc, tradeoff):
        tidy(axes)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        legend_below(axes, columns=1)
    return figure


def blank_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure in inches at 100 dpi, with a title that may hold any characters."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")
    if title:
        figure.suptitle(shorten(title, 90), fontsize=TITLE_SIZE, color=INK)
    return figure


def sentence_figure(sentence: str, title: str = "") -> Figure:
    """A figure that says in words why there is nothing to draw."""
    figure = blank_figure(9, 2.6, title)
    lines = "\n".join(textwrap.wrap(plain(sentence), 70, break_on_hyphens=False))
    figure.text(0.5, 0.45, lines, ha="center", va="center", fontsize=TEXT_SIZE + 1, color=INK)
    return figure


def plain(text: str) -> str:
    """Make any text drawable: one line, no mathematics, and only characters the font has."""
    return "".join(map(_drawable, text)).replace("$", r"\$")


def shorten(text: str, limit: int) -> str:
    """Make any text drawable (see ``plain``) in at most ``limit`` characters, cut in its middle."""
    if len(text) > limit:
        end = (limit - 1) // 2
        text = f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"
    return plain(text)


def tidy(axes: Axes) -> None:
    """Give the axes the common look: a light grid, and lines at the left and below only."""
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=SMALL_SIZE, color=GREY)


def legend_below(axes: Axes, *, title: str | None = None, columns: int = 3) -> None:
    """Put the legend under the axes, where it hides no data."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=columns,
        frameon=False,
        fontsize=SMALL_SIZE,
        title=title,
        title_fontproperties={"size": SMALL_SIZE},
        columnspacing=1.4,
    )


def _curve(
    axes: Axes,
    history: Sequence[Mapping[str, float]],
    key: str,
    *,
    name: str,
    colour: str,
    best_epoch: int,
) -> None:
    values = [item[key] for item in history]
    if not any(map(math.isfinite, values)):
        return
    epochs = [item["epoch"] for item in history]
    best = next((item[key] for item in history if item["epoch"] == best_epoch), math.nan)
    label = f"{name} {best:.3f}" if math.isfinite(best) else name
    # A value between two undefined ones has no line to show it.
    gaps = not all(map(math.isfinite, values))
    marker = "o" if gaps or len(history) <= _MARKED_EPOCHS else ""
    axes.plot(epochs, values, color=colour, linewidth=2, marker=marker, markersize=5, label=label)


def _cells(axes: Axes, shades: NDArray[np.float64], texts: Sequence[Sequence[str]]) -> None:
    """Draw (2, 2) cells, shaded 0..1, with a text in each."""
    axes.imshow(shades, cmap=CELLS, vmin=0, vmax=1.15)
    for row, column in np.ndindex(2, 2):
        red, green, blue, _ = CELLS(shades[row, column] / 1.15)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        number, _, words = texts[row][column].partition("\n")
        style: dict[str, Any] = {"ha": "center", "color": "white" if dark else INK}
        is_number = number[0].isdigit()
        axes.text(column, row, number, va="center", fontsize=19 if is_number else 11, **style)
        axes.text(column, row + 0.2, words, va="center", fontsize=SMALL_SIZE, **style)
    axes.spines[:].set_visible(False)


def _operating_point(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker="o",
        markersize=9,
        color=ORANGE,
        markeredgecolor="white",
        clip_on=False,
        zorder=5,
        label=label,
    )


@functools.cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())


def _drawable(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() and ord(character) in _glyphs() else _MISSING
