"""Recalibration: a model's scaling and threshold, fitted anew to images of another source."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logit
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.errors import CheckError, DataError
from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.calibration import SMALLEST, TEMPERATURES, scaled
from pneumonia.evaluation.intervals import auc_interval
from pneumonia.evaluation.operating_point import OperatingPoint, choose_operating_point
from pneumonia.evaluation.scaling import LogitScaling

N_FOLDS = 5

LEAST_PATIENTS = 10
"""Patients of each class that a fit needs: two a fold."""


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A scaling and a threshold, and what they do for images that they were not fitted to.

    Attributes:
        scaling: Fitted to all images.
        point: The threshold, chosen on all images.
        probability: Of each image, by the scaling fitted to the other folds, float64 (n,).
        threshold: For each image, chosen on the other folds, float64 (n,).
        fold: Of each image, int64 (n,).
    """

    scaling: LogitScaling
    point: OperatingPoint
    probability: Probabilities
    threshold: NDArray[np.float64]
    fold: NDArray[np.int64]


def recalibrate(
    truth: Labels, probability: Probabilities, patients: Sequence[str], rule: str
) -> Recalibration:
    """Fit a scaling and a threshold, and cross-fit them in five folds by patient.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        probability: Probability of the positive class, unscaled, float64 (n,), 0–1.
        patients: Whom each image shows (n).
        rule: How to choose the threshold, as ``choose_operating_point`` takes it.

    Raises:
        CheckError: The probabilities do not separate the classes better than chance.
        DataError: There are too few patients of a class.
    """
    patient = np.asarray(patients)
    for label, name in enumerate(("negative", "positive")):
        n_patients = len(set(patient[truth == label]))
        if n_patients < LEAST_PATIENTS:
            raise DataError(
                f"{n_patients} patients with {name} images are too few to calibrate by: label "
                f"images of {LEAST_PATIENTS} or more of each class"
            )
    low, high = auc_interval(truth, probability)
    if low <= 1 / 2:
        raise CheckError(
            f"the model does not separate the classes of these images (AUC {low:.2f} to "
            f"{high:.2f}): check the labels, or train a model on images of this source"
        )
    fold = np.zeros(len(truth), dtype=np.int64)
    cross_fitted, threshold = np.zeros(len(truth)), np.zeros(len(truth))
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=0)
    for number, (others, held_out) in enumerate(folds.split(truth, truth, patient)):
        known = patient[others].tolist()
        scaling, point = _fit(truth[others], probability[others], known, rule)
        fold[held_out] = number
        cross_fitted[held_out] = scaled(probability[held_out], scaling)
        threshold[held_out] = point.threshold
    scaling, point = _fit(truth, probability, patients, rule)
    return Recalibration(scaling, point, cross_fitted, threshold, fold)


def fit_scaling(truth: Labels, probability: Probabilities) -> LogitScaling:
    """Fit temperature and intercept by logistic regression on the logit, as Platt (1999).

    As there, the targets are (N₊ + 1)/(N₊ + 2) for the N₊ positive images and 1/(N₋ + 2) for the N₋
    negative ones, instead of 1 and 0. Else perfectly separated classes would get probabilities of 0
    and 1.

    Args:
        truth: 0 negative, 1 positive, int (n,), both there.
        probability: Probability of the positive class, float64 (n,), 0–1.
    """
    logits = logit(np.clip(probability, SMALLEST, 1 - SMALLEST))
    n_positive = int((truth == 1).sum())
    n_negative = len(truth) - n_positive
    targets = np.where(truth == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))

    def loss(slope_and_intercept: NDArray[np.float64]) -> float:
        slope, intercept = slope_and_intercept
        scaled_logits = slope * logits + intercept
        return float((np.logaddexp(0, scaled_logits) - targets * scaled_logits).mean())

    lowest, highest = TEMPERATURES
    bounds = [(1 / highest, 1 / lowest), (None, None)]
    slope, intercept = minimize(loss, (1.0, 0.0), bounds=bounds, method="L-BFGS-B").x
    return LogitScaling(1 / float(slope), float(intercept))


def _fit(
    truth: Labels, probability: Probabilities, patients: Sequence[str], rule: str
) -> tuple[LogitScaling, OperatingPoint]:
    scaling = fit_scaling(truth, probability)
    calibrated = scaled(probability, scaling)
    return scaling, choose_operating_point(rule, truth, calibrated[np.newaxis], patients)
