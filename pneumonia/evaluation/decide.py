"""The decision: a probability at or above the threshold is positive.

This module's source travels with every logged model: it imports nothing of this package.
"""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@overload
def decide(probability: float, threshold: float) -> int: ...
@overload
def decide(
    probability: NDArray[np.floating[Any]], threshold: float | NDArray[np.floating[Any]]
) -> NDArray[np.int64]: ...
def decide(
    probability: float | NDArray[np.floating[Any]], threshold: float | NDArray[np.floating[Any]]
) -> int | NDArray[np.int64]:
    """Decide the class of each image.

    Args:
        probability: Probability of the positive class, 0–1, a number or (n,).
        threshold: Lowest probability called positive, 0–1 (the operating point), or one for each
            image (n,).

    Returns:
        0 negative or 1 positive, of the shape of ``probability``.
    """
    if isinstance(probability, np.ndarray):
        return (probability >= threshold).astype(np.int64)
    return int(probability >= threshold)
