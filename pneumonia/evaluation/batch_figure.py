"""Training images as they are and as augmentation changes them."""

import numpy as np
import torch
from matplotlib.figure import Figure

from pneumonia.data.augment import Augmentation, augment, draw_changes
from pneumonia.data.dataset import Images
from pneumonia.evaluation.figures import GREY, INK, SMALL_SIZE, blank_figure, shorten

_SHOWN = 6
_TIMES = 3


def augmented_batch(
    images: Images, how: Augmentation, class_names: tuple[str, str], *, title: str
) -> Figure:
    """Draw a few training images, and below each what augmentation may make of it.

    Args:
        images: The training images.
        how: How they are changed.
        class_names: The negative and the positive class.
        title: What the images are of.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    grey, labels = images.batch(order[:_SHOWN].to(images.rows.device))  # (B, H, W), (B,)
    changes = draw_changes(len(grey) * _TIMES, torch.Generator().manual_seed(0))
    repeated = grey.repeat(_TIMES, 1, 1)  # (3 B, H, W)
    changed = augment(repeated, changes, how).round().clamp(0, 255).cpu()
    rows = np.concatenate([grey.cpu().float().numpy()[np.newaxis], _in_rows(changed, len(grey))])
    figure = blank_figure(10, 7.2, title)
    grid = figure.subplots(1 + _TIMES, len(grey), squeeze=False)
    for row, levels_of_row in zip(grid, rows, strict=True):
        for axes, levels in zip(row, levels_of_row, strict=True):
            axes.imshow(levels, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, label in zip(grid[0], labels.tolist(), strict=True):
        axes.set_title(shorten(class_names[label], 16), fontsize=SMALL_SIZE, color=INK)
    for axes, text in zip(grid[:, 0], ["as it is", *["augmented"] * _TIMES], strict=True):
        axes.set_ylabel(text, fontsize=SMALL_SIZE, color=GREY)
    return figure


def _in_rows(levels: torch.Tensor, columns: int) -> np.ndarray:
    """From (R * C, H, W) to (R, C, H, W)."""
    in_rows: np.ndarray = levels.view(_TIMES, columns, *levels.shape[1:]).numpy()
    return in_rows
