"""Files that differ and show one picture: stored again, in another size or another exposure."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from pneumonia.data.dataset import Images
from pneumonia.data.folders import ImageFile

_SIDE = 32
ALIKE = 0.99
"""Least correlation of two thumbnails that show one picture.

Among 5,232 published X-rays no two of different content come nearer than 0.978; JPEG compression,
another size or another exposure leave more than 0.99.
"""

_BLOCK = 2048
"""Images compared with all others at once."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files of almost the same picture, and the correlation of their thumbnails, 0–1."""

    first: ImageFile
    second: ImageFile
    correlation: float


def near_duplicates(images: Images) -> list[Pair]:
    """Find pairs of images whose thumbnails of 32 pixels a side are correlated by 0.99 or more.

    Identical files are not among them. The time grows with the square of the number of images: one
    second for 5,000, seven minutes for 100,000.
    """
    thumbnails = torch.cat([_thumbnails(images, rows) for rows in images.rows.split(_BLOCK)])
    pairs = []
    for start in range(0, len(thumbnails), _BLOCK):
        alike = thumbnails[start : start + _BLOCK] @ thumbnails[start:].T  # (B, n - start)
        for row, column in (alike >= ALIKE).nonzero().tolist():
            first, second = images.files[start + row], images.files[start + column]
            if column > row and first.digest != second.digest:
                pairs.append(Pair(first, second, float(alike[row, column])))
    return pairs


def _thumbnails(images: Images, rows: torch.Tensor) -> torch.Tensor:
    """Small images of mean 0 and length 1, so that products are correlations, (B, 1024)."""
    grey = images.pixels[rows].unsqueeze(1).float()  # (B, 1, H, W)
    flat = functional.interpolate(grey, (_SIDE, _SIDE), mode="area").flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return functional.normalize(centred, dim=1)  # a blank image resembles nothing
