"""How good predictions are, on plain arrays."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from pneumonia.evaluation.decide import decide

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def classification_metrics(
    truth: Labels, probability: Probabilities, threshold: float = 0.5
) -> dict[str, float]:
    """Score predictions of the positive class.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, 0–1 (n,).
        threshold: Least probability called positive (the operating point).

    Returns:
        ``loss`` (cross-entropy in nats), ``accuracy``, ``balanced_accuracy``, ``sensitivity``,
        ``specificity``, ``precision``, ``f1``, ``auc`` and ``average_precision``; NaN where the
        images cannot tell, such as the AUC of one class.

    Raises:
        ValueError: There are no predictions, or one is not a number.
    """
    if len(truth) == 0 or not np.isfinite(probability).all():
        raise ValueError("metrics need at least one prediction, and finite probabilities")
    positive, called = truth == 1, decide(probability, threshold) == 1
    hits, alarms = int((positive & called).sum()), int((~positive & called).sum())
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    sensitivity = _share(hits, n_positive)
    specificity = _share(n_negative - alarms, n_negative)
    both = n_positive > 0 and n_negative > 0
    likelihood = np.where(positive, probability, 1 - probability)
    return {
        "loss": float(-np.log(np.clip(likelihood, 1e-12, None)).mean()),
        "accuracy": (hits + n_negative - alarms) / len(truth),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _share(hits, hits + alarms),
        "f1": _share(2 * hits, n_positive + hits + alarms),
        "auc": float(sklearn_metrics.roc_auc_score(truth, probability)) if both else np.nan,
        "average_precision": (
            float(sklearn_metrics.average_precision_score(truth, probability)) if both else np.nan
        ),
    }


def confidence_intervals(
    truth: Labels, probability: Probabilities, threshold: float = 0.5
) -> Mapping[str, tuple[float, float]]:
    """95 % Wilson intervals of accuracy, sensitivity and specificity (Wilson 1927).

    Arguments as for ``classification_metrics``; shares of nothing are left out.
    """
    right = decide(probability, threshold) == truth
    groups = {
        "accuracy": right,
        "sensitivity": right[truth == 1],
        "specificity": right[truth == 0],
    }
    return {
        name: tuple(binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson"))
        for name, hits in groups.items()
        if len(hits)
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
