"""An ensemble: networks of one kind that answer together, as one network.

This module's source travels with every logged model: it imports nothing of this package.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """Answers with the mean probability of its members (Lakshminarayanan et al. 2017)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logarithms of the mean probabilities, which are logits of these, (B, 2)."""
        each = torch.stack([member(pixels).float().log_softmax(dim=1) for member in self.members])
        mean: torch.Tensor = each.logsumexp(dim=0) - math.log(len(self.members))
        return mean


def trained_network(
    build: Callable[[int, float, bool], nn.Module],
    image_size: int,
    standardise: bool,
    members: int,
    weights: Mapping[str, torch.Tensor],
) -> nn.Module:
    """Build one network, or an ensemble of several, with given weights, in evaluation mode."""
    with torch.device("meta"):  # drawing weights that are replaced at once takes long
        networks = [build(image_size, 0.0, standardise) for _ in range(members)]
    network = networks[0] if members == 1 else Ensemble(networks)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def member_layers(layer: str, members: int) -> list[str]:
    """The name of a network's layer, or its names in each member of an ensemble."""
    if members == 1:
        return [layer]
    return [f"members.{number}.{layer}" for number in range(members)]
