"""Two models on the same images: how they differ, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

from pneumonia.errors import DataError
from pneumonia.evaluation.intervals import (
    RESAMPLES,
    UNKNOWN,
    AucComparison,
    Interval,
    compare_aucs,
    interval_of_constant,
    percentile_interval,
    resampled_weights,
)
from pneumonia.evaluation.metrics import classification_metrics, weighted_metrics
from pneumonia.evaluation.predictions import Predictions

LOWER_IS_BETTER = frozenset({"loss", "brier", "ece"})
_SHARES = frozenset({"auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"})
"""The mean of what independent pairs of patients score."""
_OF_THE_ORDER = frozenset({"auc", "average_precision"})
"""The same for two models that rank all images alike."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models on the same images.

    Attributes:
        first: Of the first model.
        second: Of the second model.
        interval: 95 % interval of first minus second, by bootstrap over patients; NaN where
            resamples do not tell.
    """

    first: float
    second: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images, each at its own threshold.

    Attributes:
        n_images: How many images.
        n_patients: Of how many patients.
        differences: By name of the metric.
        auc: DeLong's test of the two AUCs; None where the images are of one class.
        only_first_right: Images that the first model alone calls by their class.
        only_second_right: Images that the second model alone calls by their class.
        mcnemar_p: Of the exact two-sided test that both numbers are equally likely (McNemar 1947).
        disagreements: Positions of the images that are called differently, int64 (m,).
    """

    n_images: int
    n_patients: int
    differences: Mapping[str, Difference]
    auc: AucComparison | None
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    disagreements: NDArray[np.int64]

    def verdict(self, metric: str, margin: float) -> str:
        """Say what the interval of a metric's difference shows of the first model.

        Returns:
            ``better`` or ``worse`` where the interval leaves out 0, else ``non-inferior`` where the
            first is not worse by more than the margin, else ``undecided``.
        """
        low, high = self.differences[metric].interval
        if metric in LOWER_IS_BETTER:
            low, high = -high, -low
        if low > 0:
            return "better"
        if high < 0:
            return "worse"
        return "non-inferior" if low > -margin else "undecided"


def compare_predictions(first: Predictions, second: Predictions, *, seed: int = 0) -> Comparison:
    """Compare two models on the same images, which ``aligned`` has put into one order.

    The bootstrap is paired: both models are measured on each resample of the patients. A difference
    that is the same in all of them, as between two models without an error, has the interval of
    ``interval_of_constant``, or none.
    """
    truth = first.truth
    first_right, second_right = first.decisions == truth, second.decisions == truth
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    discordant = only_first + only_second
    both_classes = 0 < truth.sum() < len(truth)
    return Comparison(
        len(truth),
        len(set(first.patients)),
        _differences(first, second, seed),
        compare_aucs(truth, first.probability, second.probability) if both_classes else None,
        only_first,
        only_second,
        float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        np.flatnonzero(first.decisions != second.decisions),
    )


def _differences(first: Predictions, second: Predictions, seed: int) -> dict[str, Difference]:
    truth = first.truth
    chunks = [
        (
            weighted_metrics(truth, first.probability, weights, first.threshold),
            weighted_metrics(truth, second.probability, weights, second.threshold),
        )
        for weights in resampled_weights(first.patients, RESAMPLES, seed)
    ]
    of_first = classification_metrics(truth, first.probability, first.threshold)
    of_second = classification_metrics(truth, second.probability, second.threshold)
    both_classes = 0 < truth.sum() < len(truth)
    same_order = np.array_equal(rankdata(first.probability), rankdata(second.probability))
    same = np.array_equal(first.probability, second.probability) and np.array_equal(
        first.decisions, second.decisions
    )
    differences = {}
    for name, value in of_first.items():
        resampled = np.concatenate([one[name] - other[name] for one, other in chunks])
        interval = percentile_interval(resampled)
        known = same or (same_order and name in _OF_THE_ORDER)
        if interval[0] == interval[1] and not known:
            exact = name in _SHARES and both_classes
            difference = value - of_second[name]
            interval = interval_of_constant(difference, truth, first.patients) if exact else UNKNOWN
        differences[name] = Difference(value, of_second[name], interval)
    return differences


def aligned(
    first: Predictions, second: Predictions, names: tuple[str, str]
) -> tuple[Predictions, Predictions]:
    """Put two tables of the same images into one order, by the images' content.

    Args:
        first: One model's table.
        second: Another's.
        names: What to call them in errors.

    Raises:
        DataError: They are of different images, or name different classes for one.
    """
    first, second = (
        table.part(sorted(range(len(table)), key=lambda i: (table.digests[i], table.paths[i])))
        for table in (first, second)
    )
    if list(first.digests) != list(second.digests):
        shared = len(set(first.digests) & set(second.digests))
        raise DataError(
            f"{names[0]} is of {len(first):,} images and {names[1]} of {len(second):,}, of which "
            f"{shared:,} are the same: score both on one data set, by 'pneumonia evaluate "
            "--model-uri …', and compare these runs"
        )
    if (first.truth != second.truth).any():
        where = int(np.flatnonzero(first.truth != second.truth)[0])
        raise DataError(
            f"{names[0]} and {names[1]} name different classes for {first.paths[where]!r}"
        )
    return first, second
