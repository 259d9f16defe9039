"""ResNet34 (He et al. 2015), with torchvision's names of parameters, and two classes."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from pneumonia.networks.standardise import Standardise

# This module's source travels with every logged model, after that of ``standardise``. It does not
# import torchvision, which takes as long as torch itself.

_BLOCKS = (3, 4, 6, 3)
_CHANNELS = (64, 64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, whose output is added to their input."""

    def __init__(self, below: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or below != channels:
            shortcut = nn.Conv2d(below, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, below: torch.Tensor) -> torch.Tensor:
        """Map activations (B, below, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = below if self.downsample is None else self.downsample(below)
        inner = self.relu(self.bn1(self.conv1(below)))
        output: torch.Tensor = self.relu(self.bn2(self.conv2(inner)).add_(shortcut))
        return output


class DropoutLinear(nn.Linear):
    """A fully connected layer that drops inputs first, under the parameter names of a plain one."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, in_features) to logits (B, out_features)."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


class ResNet34(nn.Module):
    """A 7×7 convolution, four layers of 3, 4, 6 and 3 blocks, and a head on their mean."""

    def __init__(self, dropout: float, standardise: bool) -> None:
        super().__init__()
        self.standardise = Standardise() if standardise else nn.Identity()
        self.conv1 = nn.Conv2d(3, _CHANNELS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_CHANNELS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        layers = [
            nn.Sequential(
                BasicBlock(below, channels, 1 if below == channels else 2),
                *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)),
            )
            for (below, channels), blocks in zip(pairwise(_CHANNELS), _BLOCKS, strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = DropoutLinear(_CHANNELS[-1], 2, dropout)
        for module in self.modules():
            # He et al. 2015, as torchvision does. On the meta device there is nothing to draw, and
            # PyTorch would import its compiler for it.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to logits (B, 2)."""
        features = self.relu(self.bn1(self.conv1(self.standardise(images))))  # (B, 64, H/2, W/2)
        features = self.maxpool(features)  # (B, 64, H/4, W/4)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)  # in the end (B, 512, H/32, W/32)
        logits: torch.Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def resnet34(image_size: int, dropout: float, standardise: bool = False) -> nn.Module:
    """Build ResNet34 with a two-class head: 21,285,698 parameters.

    Args:
        image_size: Not needed, since the network pools over all positions; at least 32 makes sense.
        dropout: Probability of dropping a feature before the head, 0–1.
        standardise: Whether its first layer is ``Standardise``.

    Returns:
        A network from float (B, 3, H, W) to logits (B, 2).
    """
    del image_size
    return ResNet34(dropout, standardise)
