"""Galleries of images with what was predicted of them and where the network looked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.file_types import OVERLAY_MARK
from pneumonia.errors import DataError
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.figures import (
    GREY,
    INK,
    RED,
    SMALL_SIZE,
    Labels,
    Probabilities,
    blank_figure,
    sentence_figure,
    shorten,
)
from pneumonia.files import atomic_write

# Plasma is perceptually uniform and, unlike viridis or magma, colourful at every level, so that
# no heat is mistaken for the grey of an X-ray.
_HEAT_COLOURS = (colormaps["plasma"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
_HEAT_ALPHA = (np.linspace(0, 1, 256) ** 0.8 * 0.62 * 255).astype(np.uint8)

_SHOWN_PIXELS = 512
_WIDTH = 10.0
_TALLEST = 1.19
"""Height by width at most: MLflow clips what is much taller than wide."""


@dataclass(frozen=True)
class Example:
    """One image and what was predicted of it.

    Attributes:
        image: (H, W) uint8.
        truth: Name of its class, or None where it is not known.
        predicted: Name of the class predicted.
        probability: Of the positive class, 0..1.
        name: File name, of any characters.
        heat: (h, w) float32 in 0..1 from Grad-CAM, of any size, where there is one.
    """

    image: NDArray[np.uint8]
    truth: str | None
    predicted: str
    probability: float
    name: str
    heat: NDArray[np.float32] | None = None

    @property
    def wrong(self) -> bool:
        """Whether the prediction is known to be wrong."""
        return self.truth is not None and self.truth != self.predicted


def prediction_gallery(examples: Sequence[Example], *, columns: int = 4, title: str = "") -> Figure:
    """Draw images, each under its prediction, with the truth in brackets and errors in red.

    Args:
        examples: In the order in which they are shown, row by row.
        columns: Images a row; more where the figure would otherwise be too tall.
        title: Stands above them all.

    Returns:
        One panel an image, after which the last row may hold empty ones.
    """
    if not examples:
        return sentence_figure("There are no images to show.", title)
    tiles = [_shown(example.image) for example in examples]
    return _gallery(examples, tiles, columns=columns, title=title)


def explanation_gallery(examples: Sequence[Example], *, title: str = "") -> Figure:
    """Draw each image beside itself with its Grad-CAM heat laid over it.

    Args:
        examples: With their heat, at most eight; any more are left out. An image without heat
            stands beside a plain copy of itself.
        title: Stands above them all.

    Returns:
        One panel a pair, and a colour bar.
    """
    if not examples:
        return sentence_figure("There are no images to explain.", title)
    examples = examples[:8]
    pairs = [_pair(example) for example in examples]
    examples = [_noted_if_blank(example) for example in examples]
    columns = 2 if len(examples) <= 4 else 3
    figure = _gallery(examples, pairs, columns=columns, title=title, width=_WIDTH - 0.7)
    scale = ScalarMappable(cmap=_heat_on_grey())
    bar = figure.colorbar(scale, ax=figure.axes, shrink=0.6, aspect=30, pad=0.015, ticks=[0, 1])
    bar.ax.set_yticklabels(["none", "most"], fontsize=SMALL_SIZE)
    bar.set_label("evidence (Grad-CAM)", fontsize=SMALL_SIZE, labelpad=-12)
    return figure


def choose_examples(
    truth: Labels, probability: Probabilities, *, count: int, threshold: float = 0.5
) -> list[int]:
    """Choose the images that tell most: the worst errors, and a fair picture of the rest.

    Errors take half of the pictures, more only where too few predictions are correct. The correct
    ones come from both classes in equal numbers, if there are enough, and evenly from the most
    to the least confident.

    Args:
        truth: (N,), 0 for the negative class and 1 for the positive class.
        probability: (N,), 0..1, of the positive class.
        count: How many to choose; fewer are there only if N is less.
        threshold: Probability from which an image is predicted to be positive.

    Returns:
        Indices without repetition: errors from the worst on, then correct ones of alternating
        class. Equal arguments give equal answers.
    """
    distance = np.abs(probability - truth)
    by_distance = np.argsort(distance, kind="stable")
    wrong = decide(probability, threshold) != truth
    worst = np.argsort(-distance, kind="stable")
    errors = [int(index) for index in worst if wrong[index]]
    negative, positive = (
        [int(index) for index in by_distance if not wrong[index] and truth[index] == label]
        for label in (0, 1)
    )
    n_pictures = min(max(count, 0), len(distance))
    taken = errors[: max(math.ceil(n_pictures / 2), n_pictures - len(negative) - len(positive))]
    rest = n_pictures - len(taken)
    of_positive = min(len(positive), max(math.ceil(rest / 2), rest - len(negative)))
    chosen = (_evenly(positive, of_positive), _evenly(negative, rest - of_positive))
    for rank in range(max(map(len, chosen))):
        taken += [indices[rank] for indices in chosen if rank < len(indices)]
    return taken


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay heat over an image in colour, the more opaque the hotter.

    Args:
        image: (H, W) uint8.
        heat: (h, w) float32 in 0..1, stretched over the image whatever its size.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape
    clean = np.nan_to_num(heat.astype(np.float32)).clip(0, 1)
    stretched = Image.fromarray(clean).resize((width, height), Image.Resampling.BICUBIC)
    levels = (np.asarray(stretched).clip(0, 1) * 255).astype(np.uint8)
    colours = Image.fromarray(_HEAT_COLOURS[levels])
    mask = Image.fromarray(_HEAT_ALPHA[levels])
    under = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    return np.asarray(Image.composite(colours, under, mask))


def save_marked(figure: Figure, target: Path) -> None:
    """Write a figure as a PNG file that no folder scan takes for an X-ray.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with atomic_write(target) as unfinished:
            figure.savefig(unfinished, format="png", metadata=dict([OVERLAY_MARK]))
    except OSError as error:
        raise DataError(f"cannot write {str(target)!r}: {error.strerror}") from None


def _gallery(
    examples: Sequence[Example],
    tiles: Sequence[NDArray[np.uint8]],
    *,
    columns: int,
    title: str,
    width: float = _WIDTH,
) -> Figure:
    """Draw each tile, (H, W) or (H, W, 3), with the texts of its example, in inches of width."""
    aspect = float(np.median([tile.shape[0] / tile.shape[1] for tile in tiles]))
    aspect = min(max(aspect, 0.3), 1.3)
    columns = max(1, min(columns, len(examples)))
    while (height := _height(len(examples), columns, width * aspect)) > 1.35 * _WIDTH:
        columns += 1
    rows = math.ceil(len(examples) / columns)
    tallest = _TALLEST if rows > 1 else 0.55
    figure = blank_figure(_WIDTH, min(height, tallest * _WIDTH), title)
    figure.supxlabel(
        "prediction (truth), probability of the positive class; errors in red",
        fontsize=SMALL_SIZE,
        color=GREY,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example, tile in zip(grid.flat, examples, tiles, strict=False):
        axes.set_axis_on()
        axes.imshow(tile, cmap="gray", vmin=0, vmax=255)
        _caption(axes, example, width / columns)
    return figure


def _height(count: int, columns: int, single: float) -> float:
    """The height in inches at which images fill their columns; ``single`` is that of one column."""
    return 0.75 + math.ceil(count / columns) * (0.5 + single / columns)


def _caption(axes: Axes, example: Example, cell: float) -> None:
    """Write the texts of one example around its panel, which has ``cell`` inches of width."""
    size = min(SMALL_SIZE, max(5.0, cell * 3.6))
    colour = RED if example.wrong else INK
    room = max(6, int(cell * 72 / (size * 0.62)))
    words = shorten(example.predicted, room // 2 - 4)
    if example.truth is not None:
        words = f"{words} ({shorten(example.truth, room // 2 - 4)})"
    words = f"{words}  {example.probability:.3f}"
    axes.set_title(words, fontsize=size, color=colour, pad=5)
    axes.set_xlabel(
        shorten(example.name, room), fontsize=max(5, size - 1.5), color=GREY, labelpad=4
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=example.wrong, color=RED, linewidth=2.5)


def _shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink an image to what a gallery can show, since X-rays have millions of pixels."""
    small = Image.fromarray(np.ascontiguousarray(image))
    small.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _pair(example: Example) -> NDArray[np.uint8]:
    """Put an image and its overlay side by side: (H, 2 W and a gap, 3) uint8."""
    image = _shown(example.image)
    heat = np.zeros((1, 1), np.float32) if example.heat is None else example.heat
    gap = np.full((image.shape[0], max(1, image.shape[1] // 50), 3), 255, np.uint8)
    original = np.repeat(image[..., np.newaxis], 3, axis=2)
    return np.concatenate([original, gap, overlay(image, heat)], axis=1)


def _noted_if_blank(example: Example) -> Example:
    """Say below an image without any heat that it has none; its name stands in the table."""
    if example.heat is None or example.heat.max() > 0:
        return example
    return replace(example, name="no evidence for the positive class")


def _heat_on_grey() -> ListedColormap:
    """The colours of heat as they look over the middle grey of an X-ray."""
    grey = np.full((1, 256), 110, np.uint8)
    return ListedColormap(
        overlay(grey, np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis])[0] / 255
    )


def _evenly(indices: Sequence[int], count: int) -> list[int]:
    """Choose ``count`` of the indices at even distances; there must be as many."""
    return [indices[(2 * number + 1) * len(indices) // (2 * count)] for number in range(count)]
