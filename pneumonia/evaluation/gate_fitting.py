"""Fitting the input gate of a network to its training and validation images."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.covariance import LedoitWolf

from pneumonia.data.dataset import Images
from pneumonia.data.decode import network_input
from pneumonia.evaluation.gate import Gate, layer_features
from pneumonia.training.device import Engine

REJECTED, WARNED = 0.005, 0.05
"""Shares of images of the training images' kind that a gate rejects, or warns of."""

_FITTED_TO = 2_000
"""Training images that a gate is fitted to, at most; more take longer and change little."""

_FEWEST = 50
"""Validation images below which there is no bound on the distance: fewer cannot tell it."""

_BATCH_SIZE = 128


def fit_gate(
    network: torch.nn.Module, layer: str, training: Images, validation: Images, engine: Engine
) -> Gate:
    """Fit the gate: its means and covariance to training images, its bounds to validation images.

    The covariance is shrunk as Ledoit and Wolf (2004) do. A bound is the quantile of the validation
    images' distances, or the prediction limit of a log-normal distance where that is larger, as it
    is where they are few. Fewer than 50 set no bound on the distance.

    Args:
        network: The network, in evaluation mode and on the engine's device.
        layer: Name of the layer whose mean activations are compared.
        training: Labelled images of both classes.
        validation: Images that the network was not trained on.
        engine: The device and precision; fp32, for the bounds to mean the same everywhere.
    """
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    fitted_to = training.part(order[:_FITTED_TO].sort().values)
    labels = fitted_to.labels.cpu()
    features = _features(network, layer, fitted_to, engine)
    means = torch.stack([features[labels == label].mean(dim=0) for label in (0, 1)])
    within = (features - means[labels]).double().numpy()
    precision = LedoitWolf(assume_centered=True).fit(within).precision_
    gate = Gate(
        layer,
        mean_image=fitted_to.pixels[fitted_to.rows].float().mean(dim=0).cpu(),
        class_means=means,
        precision=torch.from_numpy(precision).float(),
        unusual=0,
        unlike=0,
        turned=0,
        alike=0,
    )
    distance = gate.distance(_features(network, layer, validation, engine)).numpy()
    far = np.log(np.maximum(distance, 1e-6))
    bounds = [
        float(np.exp(_upper_limit(far, share))) if len(far) >= _FEWEST else np.inf
        for share in (WARNED, REJECTED)
    ]
    poses = [torch.stack(gate.pose(grey)[:2]) for grey in _batches(validation)]
    upright, other = torch.cat(poses, dim=1).numpy()  # (n,) each
    return replace(
        gate,
        unusual=bounds[0],
        unlike=bounds[1],
        turned=max(0.0, _upper_limit(other - upright, REJECTED)),
        alike=-_upper_limit(-upright, REJECTED),
    )


def gate_rates(
    network: torch.nn.Module, gate: Gate, images: Images, engine: Engine
) -> tuple[float, float]:
    """Shares of images that a gate rejects, and that it warns of.

    Args:
        network: The network, in evaluation mode and on the engine's device.
        gate: Its gate.
        images: The images.
        engine: The device and precision.
    """
    distance = gate.distance(_features(network, gate.layer, images, engine))
    n_rejected = n_warned = 0
    for grey, far in zip(_batches(images), distance.split(_BATCH_SIZE), strict=True):
        rejected, warned = gate.reasons(grey, far)
        n_rejected += sum(map(bool, rejected))
        n_warned += sum(map(bool, warned))
    return n_rejected / len(images), n_warned / len(images)


def _batches(images: Images) -> Iterator[torch.Tensor]:
    for positions in torch.arange(len(images), device=images.rows.device).split(_BATCH_SIZE):
        yield images.batch(positions)[0]


@torch.inference_mode()
def _features(network: torch.nn.Module, layer: str, images: Images, engine: Engine) -> torch.Tensor:
    """Features of images, float32 (n, D)."""
    with layer_features(network, layer) as features, engine.autocast():
        for grey in _batches(images):
            network(network_input(grey.to(engine.device)))
    return torch.cat(features).cpu()


def _upper_limit(values: NDArray[np.floating[Any]], share: float) -> float:
    """A value that a new one exceeds with probability ``share``, from those seen, (n,)."""
    n = len(values)
    if n < 2:
        return np.inf
    margin = stats.t.ppf(1 - share, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(max(np.quantile(values, 1 - share), values.mean() + margin))
