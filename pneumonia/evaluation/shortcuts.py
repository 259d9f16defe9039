"""How well something other than the anatomy tells the classes apart (Geirhos et al. 2020)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from pneumonia.evaluation.arrays import Labels
from pneumonia.evaluation.intervals import (
    Interval,
    auc_interval,
    exact_by_pairs,
    percentile_interval,
    resampled_weights,
)
from pneumonia.evaluation.metrics import weighted_metrics

_FOLDS = 5
_RESAMPLES = 200


STRONG = 0.7
"""A property is a shortcut to warn of where the interval of its AUC lies above this."""


def ranking_auc(values: NDArray[np.float64], truth: Labels) -> tuple[float, Interval]:
    """AUC of ranking images by one value, upwards or downwards, whichever is better.

    Takes milliseconds; ``predictive_auc`` finds relations that do not rise or fall as well.

    Args:
        values: One an image, float64 (n,), all known.
        truth: 0 or 1, int (n,), both there.

    Returns:
        The AUC, 0.5–1, and its 95 % interval by DeLong's variance, 0–1.
    """
    auc = float(roc_auc_score(truth, values))
    low, high = auc_interval(truth, values)
    return (auc, (low, high)) if auc >= 0.5 else (1 - auc, (1 - high, 1 - low))


def predictive_auc(
    values: NDArray[np.float64], truth: Labels, patients: Sequence[str]
) -> tuple[float, Interval]:
    """AUC out of fold of boosted trees that see only these values.

    Trees find any relation, and not only one that rises or falls.

    Args:
        values: What the trees see, float64 (n, k), 0 or more; NaN where it is not known.
        truth: 0 or 1, int (n,), both of at least two patients.
        patients: Whom each image shows (n); no patient is in two folds.

    Returns:
        The AUC, 0.5 where the values tell nothing, and its 95 % interval by bootstrap over
        patients.
    """
    trees = HistGradientBoostingClassifier(
        max_depth=3, max_iter=50, min_samples_leaf=5, random_state=0
    )
    n_folds = min(_FOLDS, *(len(set(np.asarray(patients)[truth == label])) for label in (0, 1)))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(
        trees,
        np.nan_to_num(values, nan=-1),
        truth,
        groups=np.asarray(patients),
        cv=folds,
        method="predict_proba",
    )[:, 1]
    whole = weighted_metrics(truth, predicted, np.ones((1, len(truth))))["auc"]
    resampled = [
        weighted_metrics(truth, predicted, weights)["auc"]
        for weights in resampled_weights(patients, _RESAMPLES, seed=0)
    ]
    auc = float(whole[0])
    if auc in (0, 1):
        return auc, exact_by_pairs(auc, truth, patients)
    return auc, percentile_interval(np.concatenate(resampled))
