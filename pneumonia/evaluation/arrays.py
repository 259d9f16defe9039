"""The arrays that evaluation takes: what is true of images, and what a network says of them."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
"""0 negative, 1 positive (n,)."""

Probabilities = NDArray[np.float64]
"""Of the positive class, 0–1 (n,)."""

Threshold = float | NDArray[np.float64]
"""Lowest probability called positive, 0–1: of all images, or of each (n,)."""
