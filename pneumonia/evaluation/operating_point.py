"""The operating point: the threshold of a model, chosen by a named rule on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumonia.config.training import THRESHOLD_RULES, least_share
from pneumonia.evaluation.arrays import Labels
from pneumonia.evaluation.intervals import Interval, percentile_interval, resampled_weights

_TRIED = np.arange(1, 1000) / 1000
_RESAMPLES = 200

WIDE = 0.3
"""An interval of the threshold wider than this is worth a warning."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A chosen threshold.

    Attributes:
        threshold: Lowest probability called positive, 0–1.
        rule: How it was chosen.
        interval: Where 95 % of the thresholds are that resampled patients would have chosen; a
            single value where the rule is a number.
    """

    threshold: float
    rule: str
    interval: Interval

    @property
    def chosen(self) -> bool:
        """Whether a rule chose it, and not a number that was given."""
        return not _is_number(self.rule)

    @property
    def metrics(self) -> dict[str, float]:
        """The threshold and its interval, as they are logged."""
        low, high = self.interval
        return {"threshold": self.threshold, "threshold_low": low, "threshold_high": high}

    def origin(self, images: str) -> str:
        """How the threshold was chosen on images, such as ``validation images``, in a sentence."""
        if not self.chosen:
            return "This threshold was given."
        low, high = self.interval
        return (
            f"The rule {self.rule!r} chose this threshold on {images}; other patients of the same "
            f"kind would have given {low:.3f} to {high:.3f}."
        )

    @property
    def warning(self) -> str:
        """That the threshold is uncertain; empty where it is not."""
        low, high = self.interval
        if high - low <= WIDE:
            return ""
        return (
            f"the threshold {self.threshold:g} is uncertain: other patients of the same kind would "
            f"have given {low:.2f} to {high:.2f}; more validation images would settle it"
        )


def choose_operating_point(
    rule: str, truth: Labels, probabilities: NDArray[np.float64], patients: Sequence[str]
) -> OperatingPoint:
    """Choose the threshold by a rule.

    ``stress`` and ``youden`` take the best balanced accuracy (Youden 1950), ``accuracy`` the best
    accuracy, and ``sensitivity>=S`` the best specificity among the thresholds whose sensitivity is
    at least S (and the reverse). Of several equally good thresholds, the middle one is taken.

    Args:
        rule: One of ``THRESHOLD_RULES``, ``sensitivity>=S``, ``specificity>=S``, or a threshold.
        truth: 0 negative, 1 positive, int (n,), both there.
        probabilities: Probability of the positive class, float64 (k, n): of the images under k
            changes, over which the rule's figure is averaged, or k = 1 of the images as they are.
        patients: Whom each image shows (n).
    """
    if _is_number(rule):
        return OperatingPoint(float(rule), rule, (float(rule), float(rule)))
    whole = np.ones((1, len(truth)))
    (threshold,) = _best_thresholds(rule, truth, probabilities, whole)
    resampled = [
        _best_thresholds(rule, truth, probabilities, weights)
        for weights in resampled_weights(patients, _RESAMPLES, seed=0)
    ]
    interval = percentile_interval(np.concatenate(resampled))
    return OperatingPoint(float(threshold), rule, interval)


def _is_number(rule: str) -> bool:
    return rule not in THRESHOLD_RULES and not least_share(rule)


def _best_thresholds(
    rule: str, truth: Labels, probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rule's threshold for each weighting of the images, weights (R, n); returns (R,)."""
    positive = weights * (truth == 1)  # (R, n)
    negative = weights * (truth == 0)
    n_positive = positive.sum(axis=1, keepdims=True)  # (R, 1)
    n_negative = negative.sum(axis=1, keepdims=True)
    sensitivity = np.zeros((len(weights), len(_TRIED)))
    specificity = np.zeros_like(sensitivity)
    for probability in probabilities:
        called = (probability[:, np.newaxis] >= _TRIED).astype(np.float64)  # (n, T)
        sensitivity += positive @ called / np.maximum(n_positive, 1)
        specificity += 1 - negative @ called / np.maximum(n_negative, 1)
    sensitivity /= len(probabilities)
    specificity /= len(probabilities)
    if least := least_share(rule):
        which, share = least
        kept, other = (
            (sensitivity, specificity) if which == "sensitivity" else (specificity, sensitivity)
        )
        # Where no threshold keeps the share, the one that comes nearest to it.
        score = np.where(kept >= share, 1 + other, kept)
    elif rule == "accuracy":
        score = (sensitivity * n_positive + specificity * n_negative) / weights.sum(
            axis=1, keepdims=True
        )
    else:
        score = (sensitivity + specificity) / 2
    best = score >= score.max(axis=1, keepdims=True) - 1e-9  # (R, T)
    return np.array([_middle(_TRIED[row]) for row in best])


def _middle(values: NDArray[np.float64]) -> float:
    """The median that is one of the values: between two equally good thresholds may lie worse."""
    return float(values[(len(values) - 1) // 2])
