"""Drift: how a batch's probabilities are distributed, compared with the validation images'."""

import numpy as np
from scipy.special import chdtri

from pneumonia.evaluation.arrays import Probabilities
from pneumonia.evaluation.conformal import KEPT_DIGITS, Calibration

LARGEST_INDEX = 0.25
"""The index past which a population is taken to have shifted (Siddiqi 2006, Credit Risk
Scorecards, ch. 8)."""

_N_BINS = 10
_CHANCE = 0.01
"""How rarely chance alone takes the index of a batch without drift past the bound."""


class ScoreDrift:
    """Counts a batch's probabilities in the tenths of the validation images' probabilities."""

    def __init__(self, calibration: Calibration, prevalence: float) -> None:
        """Take the validation images as the reference.

        Args:
            calibration: Their probabilities, as ``calibration_of`` gives them; both classes there.
            prevalence: Share of positive images that is expected of the batch, 0–1.
        """
        negative, positive = (np.array(of_class) for of_class in calibration)
        scores = np.concatenate([1 - negative, positive]).round(KEPT_DIGITS)  # (n,)
        weights = np.concatenate(
            [
                np.full(len(negative), (1 - prevalence) / len(negative)),
                np.full(len(positive), prevalence / len(positive)),
            ]
        )
        order = scores.argsort(kind="stable")
        indices = np.searchsorted(weights[order].cumsum(), np.arange(1, _N_BINS) / _N_BINS)
        # A model that is often certain gives many images one probability: fewer bins, then.
        self.edges = np.unique(scores[order][indices])  # (k - 1,)
        self._n_reference = len(scores)
        n_bins = len(self.edges) + 1
        self.expected = np.bincount(self._bins(scores), weights, n_bins)  # (k,)
        self.counts = np.zeros(n_bins, dtype=np.int64)

    def add(self, probability: Probabilities) -> None:
        """Count images by the model's own probability, float64 (n,)."""
        bins = self._bins(probability.round(KEPT_DIGITS))
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def _bins(self, probability: Probabilities) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        return np.searchsorted(self.edges, probability, side="right")

    @property
    def index(self) -> float:
        """The population stability index (Siddiqi 2006): 0 without drift; NaN without images.

        Half an image is added to each bin, since an empty one would make it infinite.
        """
        if not self.counts.any():
            return float("nan")
        observed = (self.counts + 0.5) / (self.counts + 0.5).sum()
        expected = (self.expected * self._n_reference + 0.5) / (
            self._n_reference + 0.5 * len(self.counts)
        )
        return float(((observed - expected) * np.log(observed / expected)).sum())

    @property
    def bound(self) -> float:
        """The index past which the batch has drifted: 0.25, or what chance reaches in 1 %.

        Without drift, the index of n images against m is that of a chi-squared variable times
        1/n + 1/m (Yurdakul & Naranjo 2020, Statistical properties of the population stability
        index), so that of a small batch is large by chance.
        """
        n_images = max(int(self.counts.sum()), 1)
        spread = 1 / n_images + 1 / self._n_reference
        return max(LARGEST_INDEX, float(chdtri(len(self.edges), _CHANCE)) * spread)
