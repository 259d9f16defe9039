"""How logits become probabilities that mean what they say.

This module's source travels with every logged model: it imports nothing of this package.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """The logit of the positive class is divided by a temperature, and an intercept is added.

    Without an intercept this is temperature scaling (Guo et al. 2017), with one Platt scaling
    (Platt 1999). It keeps the order of images.

    Attributes:
        temperature: More than 1 moves probabilities towards 0.5, less than 1 away from it.
        intercept: More than 0 makes the positive class more probable.
    """

    temperature: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probability of the positive class (B,), 0–1, from the logits of both classes (B, 2)."""
        logit = logits[:, 1] - logits[:, 0]  # (B,)
        return (logit / self.temperature + self.intercept).sigmoid()
