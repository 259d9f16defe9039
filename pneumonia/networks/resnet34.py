"""ResNet34 (He et al. 2015), as torchvision builds it, with two classes."""

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

# This module's source travels with every logged model: it imports nothing of this package.


class DropoutLinear(nn.Linear):
    """A fully connected layer that drops inputs first, under the parameter names of a plain one."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, in_features) to logits (B, out_features)."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


def resnet34(image_size: int, dropout: float) -> nn.Module:
    """Build ResNet34 with a two-class head: 21,285,698 parameters.

    Args:
        image_size: Not needed, since the network pools over all positions; at least 32 makes sense.
        dropout: Probability of dropping a feature before the head, 0–1.

    Returns:
        A network from float (B, 3, H, W) to logits (B, 2).
    """
    del image_size
    network = models.resnet34(weights=None)
    network.fc = DropoutLinear(network.fc.in_features, 2, dropout)
    assert isinstance(network, nn.Module)
    return network
