"""Calibration: scaling of logits, fitted so that probabilities mean what they say."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.scaling import LogitScaling

TEMPERATURES = (0.05, 20.0)
"""Temperatures that are tried."""

SMALLEST = 1e-12
"""Probabilities are kept this far from 0 and 1, where the logit is infinite."""


def scaled(probability: NDArray[np.float64], scaling: LogitScaling) -> NDArray[np.float64]:
    """Scale the logit of a probability, of any shape."""
    clipped = np.clip(probability, SMALLEST, 1 - SMALLEST)
    result: NDArray[np.float64] = expit(logit(clipped) / scaling.temperature + scaling.intercept)
    return result


def fit_temperature(
    truth: Labels, probabilities: NDArray[np.float64], share_positive: float
) -> float:
    """The temperature that makes the log loss least.

    Args:
        truth: 0 negative, 1 positive, int (n,), both there.
        probabilities: Probability of the positive class, float64 (k, n), of the images under k
            changes.
        share_positive: Share of positive images where the model is used, 0–1; the images are
            weighted to have it.
    """
    from scipy.optimize import minimize_scalar

    positive = truth == 1
    weights = np.where(
        positive, share_positive / positive.mean(), (1 - share_positive) / (~positive).mean()
    )
    logits = logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST))  # (k, n)
    signed = np.where(positive, logits, -logits)

    def loss(log_temperature: float) -> float:
        losses = np.logaddexp(0, -signed / np.exp(log_temperature))
        return float((losses * weights).mean())

    bounds = (float(np.log(TEMPERATURES[0])), float(np.log(TEMPERATURES[1])))
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def at_prevalence(
    probability: NDArray[np.float64], fitted_at: float, stated: float
) -> NDArray[np.float64]:
    """Re-weight calibrated probabilities for another prevalence (Saerens et al. 2002, eq. 4).

    It assumes that ill and healthy people look there as they do in the validation images, and only
    their shares differ. Another scanner, age group or pathogen breaks that. The order of images
    does not change.

    Args:
        probability: Probability of the positive class, float64, any shape, 0–1.
        fitted_at: Share of positive images that the probabilities were calibrated for, 0–1.
        stated: Share of positive images where the model is used, 0–1; neither is 0 or 1.
    """
    clipped = np.clip(probability, SMALLEST, 1 - SMALLEST)
    shift = logit(stated) - logit(fitted_at)
    result: NDArray[np.float64] = expit(logit(clipped) + shift)
    return result


def reliability(
    truth: Labels, probability: Probabilities, n_bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean probability, share of positives, and number of images of each bin that has images."""
    bins = np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
    return [
        (float(probability[here].mean()), float(truth[here].mean()), int(here.sum()))
        for number in range(n_bins)
        if (here := bins == number).any()
    ]
