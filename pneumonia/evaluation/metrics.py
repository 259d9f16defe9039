"""How good predictions are, on plain arrays."""

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from pneumonia.evaluation.arrays import Labels, Probabilities, Threshold
from pneumonia.evaluation.decide import decide

N_BINS = 15
"""Bins of equal width of the expected calibration error, as in Guo et al. (2017)."""


def classification_metrics(
    truth: Labels, probability: Probabilities, threshold: Threshold = 0.5
) -> dict[str, float]:
    """Score predictions of the positive class.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, 0–1 (n,).
        threshold: Lowest probability called positive (the operating point), of all or of each (n,).

    Returns:
        ``loss`` (cross-entropy in nats), ``accuracy``, ``balanced_accuracy``, ``sensitivity``,
        ``specificity``, ``precision`` (the positive predictive value), ``npv`` (the negative
        one), ``f1``, ``mcc`` (Matthews's correlation), ``auc``, ``average_precision``, ``brier``
        and ``ece`` (the expected calibration error); NaN where the images cannot tell, such as
        the AUC of one class.

    Raises:
        ValueError: There are no predictions, or one is not a number.
    """
    if len(truth) == 0 or not np.isfinite(probability).all():
        raise ValueError("metrics need at least one prediction, and finite probabilities")
    both = 0 < truth.sum() < len(truth)
    scores = weighted_metrics(truth, probability, np.ones((1, len(truth))), threshold)
    return {
        **{name: float(value[0]) for name, value in scores.items()},
        "auc": float(sklearn_metrics.roc_auc_score(truth, probability)) if both else np.nan,
        "average_precision": (
            float(sklearn_metrics.average_precision_score(truth, probability)) if both else np.nan
        ),
    }


def weighted_metrics(
    truth: Labels,
    probability: Probabilities,
    weights: NDArray[np.float64],
    threshold: Threshold = 0.5,
) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``classification_metrics`` for many weightings of the images at once.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, 0–1 (n,).
        weights: How often each image counts, float64 (R, n), for R resamples.
        threshold: Lowest probability called positive, of all or of each (n,).

    Returns:
        Metrics by name, float64 (R,).
    """
    positive, called = truth == 1, decide(probability, threshold) == 1
    total = weights.sum(axis=1)  # (R,)
    true_positive = weights @ (positive & called)
    false_positive = weights @ (~positive & called)
    n_positive = weights @ positive
    n_negative = total - n_positive
    true_negative, false_negative = n_negative - false_positive, n_positive - true_positive
    sensitivity = _share(true_positive, n_positive)
    specificity = _share(true_negative, n_negative)
    likelihood = np.clip(np.where(positive, probability, 1 - probability), 1e-12, None)
    predicted_positive = true_positive + false_positive
    predicted_negative = true_negative + false_negative
    correlation = true_positive * true_negative - false_positive * false_negative
    norm = np.sqrt(n_positive * n_negative * predicted_positive * predicted_negative)
    auc, average_precision = _ranking_metrics(positive, probability, weights)
    return {
        "loss": -(weights @ np.log(likelihood)) / total,
        "accuracy": (true_positive + true_negative) / total,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _share(true_positive, predicted_positive),
        "npv": _share(true_negative, predicted_negative),
        "f1": _share(2 * true_positive, n_positive + predicted_positive),
        # scikit-learn's matthews_corrcoef is 0 too where all predictions are of one class
        "mcc": np.where(norm > 0, correlation / np.where(norm > 0, norm, 1), 0.0),
        "auc": auc,
        "average_precision": average_precision,
        "brier": weights @ (probability - truth) ** 2 / total,
        "ece": _calibration_error(truth, probability, weights),
    }


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:
    """Positive and negative predictive value at a prevalence, by Bayes's theorem.

    Sensitivity and specificity are taken to be the same there, as they are where only the share of
    the ill differs, and not how ill they are.

    Args:
        sensitivity: Share of the ill who are called positive, 0–1.
        specificity: Share of the others who are called negative, 0–1.
        prevalence: Share of the ill, 0–1.

    Returns:
        Both, 0–1; NaN where nobody would be called so.
    """
    ill = np.array([sensitivity, 1 - sensitivity]) * prevalence  # called positive, negative
    others = np.array([1 - specificity, specificity]) * (1 - prevalence)
    called = ill + others
    shares = _share(np.array([ill[0], others[1]]), called)
    return float(shares[0]), float(shares[1])


def _ranking_metrics(
    positive: NDArray[np.bool_], probability: Probabilities, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and average precision, each (R,); equal probabilities share one rank."""
    order = np.argsort(-probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=np.inf))  # (U,) distinct values
    ranked = weights[:, order]
    positives = np.add.reduceat(ranked * positive[order], starts, axis=1)  # (R, U), highest first
    negatives = np.add.reduceat(ranked * ~positive[order], starts, axis=1)
    n_positive, n_negative = positives.sum(axis=1), negatives.sum(axis=1)
    positives_so_far, negatives_so_far = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    # A negative counts against the positives above it, and half against those of its own rank.
    below = (negatives * (positives_so_far - positives / 2)).sum(axis=1)
    called = positives_so_far + negatives_so_far
    precision = positives_so_far / np.where(called > 0, called, 1)
    return (
        _share(below, n_positive * n_negative),
        _share((positives * precision).sum(axis=1), np.where(n_negative > 0, n_positive, 0)),
    )


def _calibration_error(
    truth: Labels, probability: Probabilities, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean distance of confidence and truth over bins of the probability, (R,)."""
    bins = np.minimum((probability * N_BINS).astype(np.int64), N_BINS - 1)
    members = np.eye(N_BINS)[bins]  # (n, N_BINS)
    gaps = weights @ (members * (probability - truth)[:, np.newaxis])  # (R, N_BINS)
    error: NDArray[np.float64] = np.abs(gaps).sum(axis=1) / weights.sum(axis=1)
    return error


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part by whole; NaN where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
