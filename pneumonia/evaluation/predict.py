"""The forward pass: from grey levels to the probability of the positive class.

Validation, scoring, batch prediction and explanation all call this one.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pneumonia.data.dataset import Images
from pneumonia.data.decode import network_input
from pneumonia.evaluation.gate import Gate, layer_features
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.training.device import Engine

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From grey levels (B, H, W) to logits (B, 2) and the mean activations of the gate's layer (B, D).

The latter are empty where there is no gate.
"""

UNSCALED = LogitScaling()

RECOMPUTE_MARGIN = 0.05
"""Distance from the threshold within which a probability is computed again in fp32.

It is also the share of a gate's bound within which a distance is. No label changes unless a faster
precision moves a probability by more. On real X-rays bf16 moves none by a tenth of it (see
``benchmarks/README.md``).
"""

INT8_MARGIN = 0.1
"""The same for integers of 8 bits, which move probabilities of real X-rays by up to 0.04."""


@torch.inference_mode()
def probabilities(
    network: nn.Module, grey: torch.Tensor, engine: Engine, scaling: LogitScaling = UNSCALED
) -> torch.Tensor:
    """Compute the probability of the positive class.

    Args:
        network: The network, in evaluation mode and on the engine's device.
        grey: Grey levels 0–255, uint8 or floating point (B, H, W), on that device.
        engine: The device and precision.
        scaling: How its logits become probabilities.

    Returns:
        float64 (B,), 0–1, on that device.
    """
    with engine.autocast():
        logits: torch.Tensor = network(network_input(grey))  # (B, 2)
    return scaling.probabilities(logits.double())


def predict_probabilities(
    network: nn.Module,
    images: Images,
    engine: Engine,
    scaling: LogitScaling = UNSCALED,
    batch_size: int = 128,
) -> NDArray[np.float64]:
    """Probability of the positive class for each image, float64 (n,).

    Puts the network into evaluation mode.
    """
    network.eval()
    return np.concatenate(
        [
            probabilities(network, images.batch(positions)[0], engine, scaling).cpu().numpy()
            for positions in _batches(images, batch_size)
        ]
    )


def _batches(images: Images, batch_size: int) -> Iterator[torch.Tensor]:
    yield from torch.split(torch.arange(len(images), device=images.rows.device), batch_size)


class Predictor:
    """A network made ready for one device and precision, whose decisions are those of fp32.

    Args:
        network: The network, in evaluation mode.
        threshold: Lowest probability called positive.
        engine: The device and precision.
        scaling: How its logits become probabilities.
        gate: The input gate, where images are to pass one.
        int8: The network in integers of 8 bits, which computes instead of it all but what is
            computed again in fp32.
    """

    def __init__(
        self,
        network: nn.Module,
        threshold: float,
        engine: Engine,
        scaling: LogitScaling = UNSCALED,
        gate: Gate | None = None,
        int8: Forward | None = None,
    ) -> None:
        self.engine = engine
        self.network = network.to(engine.device).to(memory_format=torch.channels_last)
        self.threshold, self.scaling, self.gate = threshold, scaling, gate
        self.exact: Forward = partial(self._forward, Engine(engine.device, "fp32"))
        self.fast = int8 or partial(self._forward, engine)
        self.margin = INT8_MARGIN if int8 else RECOMPUTE_MARGIN if engine.precision != "fp32" else 0

    @torch.inference_mode()
    def score(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute probabilities, and how far images are from those of the training.

        Args:
            grey: Grey levels, uint8 (B, H, W).

        Returns:
            Probability of the positive class, float64 (B,), and the gate's distance, float32 (B,),
            which is 0 without a gate.
        """
        grey = grey.to(self.engine.device)
        probability, distance = self._measure(grey, self.fast)
        if self.margin:
            # A temperature below 1 enlarges the errors of a faster precision.
            margin = self.margin * max(1, 1 / self.scaling.temperature)
            close = (probability - self.threshold).abs() < margin
            for bound in (self.gate.unusual, self.gate.unlike) if self.gate else ():
                close |= (distance / bound - 1).abs() < self.margin  # no bound is infinite
            if close.any():
                again = grey[close.to(grey.device)]
                probability[close], distance[close] = self._measure(again, self.exact)
        return probability, distance

    def _measure(self, grey: torch.Tensor, forward: Forward) -> tuple[torch.Tensor, torch.Tensor]:
        logits, features = forward(grey)
        probability = self.scaling.probabilities(logits.double()).cpu()
        return probability, self.gate.distance(features) if self.gate else torch.zeros(len(grey))

    def _forward(self, engine: Engine, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with engine.autocast():
            if self.gate is None:
                return self.network(network_input(grey)), torch.empty(0)
            with layer_features(self.network, self.gate.layer) as features:
                return self.network(network_input(grey)), features[0]
