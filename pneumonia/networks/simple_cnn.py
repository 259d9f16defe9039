"""The report's own network: four convolutions and three fully connected layers."""

from itertools import pairwise

from torch import nn

from pneumonia.networks.standardise import Standardise

# This module's source travels with every logged model, after that of ``standardise``.

_CHANNELS = (3, 64, 128, 256, 512)


def simple_cnn(image_size: int, dropout: float, standardise: bool = False) -> nn.Sequential:
    """Build SimpleCNN: 104,838,274 parameters at 224×224.

    Four 3×3 convolutions with padding 1 to 64, 128, 256 and 512 channels, each with ReLU and 2×2
    max-pooling; then fully connected layers to 1024, 512 and 2, with ReLU and dropout between.

    Args:
        image_size: Side of the input images in pixels, at least 16.
        dropout: Probability of dropping an activation between fully connected layers, 0–1.
        standardise: Whether its first layer is ``Standardise``.

    Returns:
        A network from float (B, 3, image_size, image_size) to logits (B, 2).
    """
    convolutions: list[nn.Module] = []
    for below, above in pairwise(_CHANNELS):
        convolutions += [nn.Conv2d(below, above, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    side = image_size // 16  # halved by each of four poolings
    network = nn.Sequential()
    if standardise:
        network.add_module("standardise", Standardise())
    network.add_module("features", nn.Sequential(*convolutions))
    network.add_module(
        "classifier",
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(_CHANNELS[-1] * side * side, 1024),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 2),
        ),
    )
    for module in network.modules():
        # He et al. 2015, for layers followed by ReLU. On the meta device there is nothing to draw.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
