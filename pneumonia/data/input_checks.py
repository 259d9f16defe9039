"""Whether an image may be a chest X-ray at all, by its proportions, colours and grey levels.

This module's source travels with every logged model, as that of ``decode`` does.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDEST = 4.0
"""Largest ratio of the sides: that of 200 published chest X-rays is up to 2.9."""

_MOST_COLOUR = 12.0
"""Largest mean difference between the colours of a pixel, of 255; a coloured mark adds less."""

_LEAST_CONTRAST = 8.0
"""Least standard deviation of the grey levels, of 255: that of published X-rays is at least 25."""

_MOST_SATURATED = 0.9
"""Largest share of pixels that are black or white: that of published X-rays is up to 0.26."""

_GREY_MODES = ("1", "L", "LA", "F")
_SEEN = (64, 64)
"""Size to which an image is reduced to look at its colours."""


def unusual_shape(width: int, height: int) -> str:
    """Why an image of this size is no chest X-ray; empty where it may be one."""
    if max(width, height) > _WIDEST * min(width, height):
        return f"{width}×{height} pixels, proportions that no chest X-ray has"
    return ""


def unusual_colour(image: Image.Image) -> str:
    """Why an image's colours are not those of an X-ray; empty where it is grey, or nearly so."""
    if image.mode in _GREY_MODES or image.mode.startswith("I"):
        return ""
    image.draft("RGB", _SEEN)  # a JPEG that is not decoded yet
    small = image.convert("RGB").resize(_SEEN, Image.Resampling.BOX)
    channels = np.asarray(small, dtype=np.int16)  # (H, W, 3)
    colour = float((channels.max(axis=2) - channels.min(axis=2)).mean())
    return "in colour, as no X-ray is" if colour > _MOST_COLOUR else ""


def unusual_levels(grey: NDArray[np.uint8]) -> str:
    """Why grey levels, uint8 (H, W), show nothing; empty where they may show something."""
    if grey.std() < _LEAST_CONTRAST:
        return "blank"
    if np.isin(grey, (0, 255)).mean() > _MOST_SATURATED:
        return "nothing but black and white"
    return ""
