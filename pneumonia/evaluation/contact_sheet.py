"""Pairs of images side by side, for a person to judge whether they are one picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.evaluation.figures import (
    GREY,
    INK,
    RED,
    SMALL_SIZE,
    blank_figure,
    sentence_figure,
    shorten,
)

_COLUMNS = 2
_WIDTH = 10.0
_ROW_HEIGHT = 2.9


@dataclass(frozen=True, slots=True)
class SheetPair:
    """Two images and what is known of each.

    Attributes:
        images: Grey levels, uint8 (H, W) each.
        names: Their files.
        groups: Role and class of each, such as ``train, NORMAL``.
        correlation: Of their thumbnails, 0–1; 1 for identical files.
        wrong: Whether the pair makes results wrong, since role or class differ.
    """

    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    names: tuple[str, str]
    groups: tuple[str, str]
    correlation: float
    wrong: bool


def contact_sheet(pairs: Sequence[SheetPair], *, title: str) -> Figure:
    """Draw pairs of images; those that make results wrong in red.

    Args:
        pairs: The pairs.
        title: What they are of.
    """
    if not pairs:
        return sentence_figure("No two files show one picture.", title)
    rows = math.ceil(len(pairs) / _COLUMNS)
    figure = blank_figure(_WIDTH, 0.6 + rows * _ROW_HEIGHT, title)
    grid = figure.subplots(rows, 2 * _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, pair in enumerate(pairs):
        row, column = divmod(number, _COLUMNS)
        for side in (0, 1):
            axes = grid[row, 2 * column + side]
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=pair.wrong, color=RED, linewidth=2)
            axes.imshow(pair.images[side], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                shorten(pair.groups[side], 30),
                fontsize=SMALL_SIZE,
                color=RED if pair.wrong else INK,
            )
            known = "identical" if pair.correlation == 1 else f"correlation {pair.correlation:.3f}"
            below = f"{shorten(pair.names[side], 32)}\n{known if side == 0 else ''}"
            axes.set_xlabel(below, fontsize=SMALL_SIZE - 1.5, color=GREY)
    return figure
