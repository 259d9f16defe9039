"""Which classes an image may have at a stated coverage, by split conformal prediction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.arrays import Labels, Probabilities

KEPT_DIGITS = 6
"""Digits kept of a probability."""

_KEPT = 500
"""Probabilities kept of each class, at most: evenly spread ranks of more say nearly the same."""

Calibration = tuple[tuple[float, ...], tuple[float, ...]]
"""Probabilities that validation images of the negative, and of the positive class, got for it."""


def calibration_of(truth: Labels, probability: Probabilities) -> Calibration:
    """What is kept of the validation images, sorted.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, float64 (n,), 0–1.
    """
    return (_kept(1 - probability[truth == 0]), _kept(probability[truth == 1]))


def possible_classes(
    probability: NDArray[np.float64], calibration: Calibration, coverage: float
) -> NDArray[np.bool_]:
    """Classes that an image may have: its own is among them with probability ``coverage``.

    This holds within each class (Vovk 2012, conditional validity) for images of the validation
    images' kind, and not for those of another source. A class is excluded where the image's
    probability for it is below what all but a share of 1 - coverage of that class had.

    Args:
        probability: Probability of the positive class, float64 (n,), 0–1.
        calibration: As ``calibration_of`` gives it.
        coverage: 0–1, neither 0 nor 1.

    Returns:
        Whether an image may be negative, and positive, bool (n, 2).
    """
    of_class = np.stack([1 - probability, probability], axis=1)  # (n, 2)
    least = [_least(values, coverage) for values in calibration]
    return of_class >= np.array(least)


def _least(values: Sequence[float], coverage: float) -> float:
    """The smallest probability of a class that does not exclude it."""
    rank = int(np.floor((1 - coverage) * (len(values) + 1) + 1e-9))
    return values[rank - 1] if rank else 0.0  # too few images to exclude anything


def _kept(values: Probabilities) -> tuple[float, ...]:
    ordered = np.sort(values)
    if len(ordered) > _KEPT:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _KEPT).round().astype(int)]
    return tuple(float(value) for value in ordered.round(KEPT_DIGITS))
