"""How sure metrics are: bootstrap over patients, and DeLong's variance of the AUC."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata

from pneumonia.evaluation.arrays import Labels, Probabilities, Threshold
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.metrics import weighted_metrics

Interval = tuple[float, float]

RESAMPLES = 2000
UNKNOWN = (float("nan"), float("nan"))
_CHUNK = 4_000_000
"""Weights held in memory at once; 32 MB."""


def bootstrap_intervals(
    truth: Labels,
    probability: Probabilities,
    patients: Sequence[str],
    threshold: Threshold = 0.5,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Mapping[str, Interval]:
    """95 % intervals of all metrics by the percentile bootstrap (Efron & Tibshirani 1993).

    Patients are drawn, not images: images of one patient resemble each other, and drawing them one
    by one would make the intervals too narrow. The expected calibration error of a sample is larger
    than that of what it was drawn from (Kumar et al. 2019), so its interval is centred on the
    value. Where there is no error every resample gives the same value, which is not certain for
    that: a share of 0 or 1 has the interval of Clopper & Pearson (1934) for as many patients, an
    AUC or balanced accuracy that of ``exact_by_pairs``, and other metrics have none.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, 0–1 (n,).
        patients: Whom each image shows (n).
        threshold: Lowest probability called positive, of all or of each (n,).
        resamples: How many times the patients are drawn.
        seed: Seed of the draws; the same one gives the same intervals.

    Returns:
        Lower and upper end by name of the metric; NaN where resamples do not tell.
    """
    chunks = [
        weighted_metrics(truth, probability, weights, threshold)
        for weights in resampled_weights(patients, resamples, seed)
    ]
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    whole = np.ones((1, len(truth)))
    calibration_error = weighted_metrics(truth, probability, whole, threshold)["ece"][0]
    # A resample repeats images, which adds to the error of every bin.
    centred = resampled["ece"] - resampled["ece"].mean() + calibration_error
    resampled["ece"] = np.maximum(centred, 0)
    intervals = {name: percentile_interval(values) for name, values in resampled.items()}
    unknown = {name: UNKNOWN for name, (low, high) in intervals.items() if low == high}
    exact = _exact_shares(truth, probability, patients, threshold)
    for name in ("auc", "balanced_accuracy"):
        if intervals[name] in ((0, 0), (1, 1)):
            exact[name] = exact_by_pairs(intervals[name][0], truth, patients)
    return intervals | unknown | exact


def exact_interval(count: int, n_patients: int) -> Interval:
    """95 % interval of a share, as Clopper & Pearson (1934).

    Args:
        count: For how many patients something is so.
        n_patients: Of how many.
    """
    interval = binomtest(count, n_patients).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def value_text(value: float, interval: Interval | None, digits: int = 3) -> str:
    """A value with its interval, if that is known, as ``0.912 (0.890–0.934)``."""
    text = f"{value:.{digits}f}"
    if interval is None or np.isnan(interval).any():
        return text
    low, high = interval
    return f"{text} ({low:.{digits}f}–{high:.{digits}f})"


def exact_by_pairs(value: float, truth: Labels, patients: Sequence[object]) -> Interval:
    """95 % interval of an AUC or balanced accuracy that is 0 or 1.

    Pair each patient of the smaller class with one of the larger. The pairs are independent, and
    each scores between 0 and 1, with the metric as the mean. So a pair scores 1 with a probability
    of at most the metric, and where all pairs do, the interval of that share is one of the metric:
    too wide rather than too narrow.

    Args:
        value: The metric, 0 or 1.
        truth: 0 negative, 1 positive, int (n,), both there.
        patients: Whom each image shows (n).
    """
    patient = np.asarray(patients)
    n_pairs = min(len(np.unique(patient[truth == label])) for label in (0, 1))
    return exact_interval(n_pairs * int(value), n_pairs)


def interval_of_constant(difference: float, truth: Labels, patients: Sequence[object]) -> Interval:
    """95 % interval of a difference of AUCs or shares that is the same in every resample.

    Pairs as in ``exact_by_pairs`` score between -1 and 1, with the difference as the mean. Where
    all of them score the same, the share of pairs that would not is small but not 0: its interval
    says how far the mean may lie from what they score.

    Args:
        difference: Of two models on the same images, -1–1.
        truth: 0 negative, 1 positive, int (n,), both there.
        patients: Whom each image shows (n).
    """
    others = 1 - exact_by_pairs(1, truth, patients)[0]
    return difference - others * (1 + difference), difference + others * (1 - difference)


def _exact_shares(
    truth: Labels, probability: Probabilities, patients: Sequence[str], threshold: Threshold
) -> dict[str, Interval]:
    """The intervals of those metrics that are shares, and are 0 or 1."""
    called, patient = decide(probability, threshold), np.asarray(patients)
    right = called == truth
    members = {
        "accuracy": np.ones(len(truth), dtype=bool),
        "sensitivity": truth == 1,
        "specificity": truth == 0,
        "precision": called == 1,
        "npv": called == 0,
    }
    intervals = {}
    for name, here in members.items():
        if here.any() and right[here].all() == right[here].any():
            n_patients = len(np.unique(patient[here]))
            intervals[name] = exact_interval(n_patients * int(right[here].all()), n_patients)
    return intervals


def resampled_weights(
    patients: Sequence[str], resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn when patients are drawn with replacement.

    Yields:
        float64 (r, n), for some of the resamples at a time: all at once may not fit into memory.
    """
    _, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(patient_of.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(patients))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        counts = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=size)
        yield counts[:, patient_of].astype(np.float64)


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """The 2.5th and 97.5th percentile of the values that are numbers; NaN where none is."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return UNKNOWN
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class AucComparison:
    """Two AUCs on the same images.

    Attributes:
        difference: First minus second.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Of the two-sided test that they are equal; NaN where they do not vary.
    """

    difference: float
    low: float
    high: float
    p_value: float


def auc_interval(truth: Labels, probability: Probabilities) -> Interval:
    """95 % interval of the AUC by DeLong's variance (DeLong et al. 1988), cut to 0–1.

    An AUC of 0 or 1 has no variance: its interval is that of ``exact_by_pairs``.

    Args:
        truth: 0 negative, 1 positive, int (n,), both there.
        probability: Probability of the positive class (n,).
    """
    (auc,), covariance = _delong(truth, probability[np.newaxis])
    if auc in (0, 1):
        return exact_by_pairs(auc, truth, range(len(truth)))
    half = norm.ppf(0.975) * np.sqrt(covariance[0, 0])
    return max(0.0, float(auc - half)), min(1.0, float(auc + half))


def compare_aucs(truth: Labels, first: Probabilities, second: Probabilities) -> AucComparison:
    """Compare two correlated AUCs by DeLong's test (DeLong et al. 1988).

    Args:
        truth: 0 negative, 1 positive, int (n,), both there.
        first: Probabilities of one model (n,).
        second: Those of another on the same images (n,).
    """
    aucs, covariance = _delong(truth, np.stack([first, second]))
    difference = float(aucs[0] - aucs[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    deviation = float(np.sqrt(max(0.0, variance)))
    if deviation == 0:
        same = np.array_equal(rankdata(first), rankdata(second))
        images = range(len(truth))
        low, high = (0.0, 0.0) if same else interval_of_constant(difference, truth, images)
        return AucComparison(difference, low, high, float("nan"))
    half = float(norm.ppf(0.975)) * deviation
    p_value = float(2 * norm.sf(abs(difference) / deviation))
    return AucComparison(difference, difference - half, difference + half, p_value)


def _delong(
    truth: Labels, probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUCs (k,) and their covariance (k, k) from probabilities (k, n), by Sun & Xu (2014)."""
    positives, negatives = probabilities[:, truth == 1], probabilities[:, truth == 0]
    n_positive, n_negative = positives.shape[1], negatives.shape[1]
    joined = rankdata(np.concatenate([positives, negatives], axis=1), axis=1)
    # Share of the negatives below each positive, and of the positives above each negative.
    of_positive = (joined[:, :n_positive] - rankdata(positives, axis=1)) / n_negative
    of_negative = 1 - (joined[:, n_positive:] - rankdata(negatives, axis=1)) / n_positive
    covariance = np.cov(of_positive) / n_positive + np.cov(of_negative) / n_negative
    return of_positive.mean(axis=1), np.atleast_2d(covariance)
