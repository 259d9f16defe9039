"""The forward pass of prediction: as fast as the machine can, without changing a decision."""

import torch

from pneumonia.data.preprocessing import network_input
from pneumonia.tracking.models import LoadedModel
from pneumonia.training.device import Engine, choose_engine

CLOSE = 0.05
"""How near the threshold a probability is computed again in fp32, so that no label changes unless a
faster precision moves a probability by more. On real X-rays bf16 moves none by a tenth of it (see
``benchmarks/README.md``).
"""


class Classifier:
    """Probabilities from images, by a model made ready for one device and precision.

    Args:
        model: The model.
        threshold: Least probability called positive.
        device: Where to compute; ``auto`` for the best there is.
        precision: ``auto`` for bf16 where the device is made for it, else fp32; or one of
            ``fp32``, ``bf16`` and ``fp16``.

    Raises:
        UsageError: This machine has no such device, or the device no such precision.
    """

    def __init__(self, model: LoadedModel, threshold: float, device: str, precision: str) -> None:
        self.engine = choose_engine(device, precision)
        self.exact = Engine(self.engine.device, "fp32")
        self.threshold = threshold
        self.network = model.network.to(self.engine.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def probabilities(self, grey: torch.Tensor) -> torch.Tensor:
        """Probability of the positive class, float64 (B,), from grey levels, uint8 (B, H, W)."""
        grey = grey.to(self.engine.device)
        probability = self._computed_in(self.engine, grey)
        if self.engine.precision != self.exact.precision:
            close = (probability - self.threshold).abs() < CLOSE
            if close.any():
                probability[close] = self._computed_in(self.exact, grey[close])
        return probability.cpu()

    def _computed_in(self, engine: Engine, grey: torch.Tensor) -> torch.Tensor:
        with engine.autocast():
            logits: torch.Tensor = self.network(network_input(grey))  # (B, 2)
        return logits.double().softmax(dim=1)[:, 1]
