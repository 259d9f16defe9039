"""The networks by name. Adding one is one function and one line here."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from pneumonia.errors import UsageError, nearest
from pneumonia.networks.resnet34 import resnet34
from pneumonia.networks.simple_cnn import simple_cnn


class Build(Protocol):
    """Builds a network."""

    def __call__(self, image_size: int, dropout: float, standardise: bool = False) -> nn.Module:
        """Build it for images of a side in pixels, with a dropout probability and first layer."""


@dataclass(frozen=True, slots=True)
class Network:
    """What the rest of the package needs to know of a network.

    Attributes:
        build: Builds it with random weights.
        head: Prefix of the last layer's parameters, replaced when weights have other classes.
        cam_layer: Name of the layer whose activations Grad-CAM explains.
        gate_layer: Name of the layer whose activations the input gate compares.
        official: Name of torchvision's weights, where there are any.
    """

    build: Build
    head: str
    cam_layer: str
    gate_layer: str
    official: str | None = None


NETWORKS = {
    "simple_cnn": Network(
        simple_cnn, head="classifier.7.", cam_layer="features.10", gate_layer="features.7"
    ),
    # Of its four layers layer2 points best at the demo set's opacities and into the lungs of real
    # X-rays (benchmarks/README.md): at 80 pixels layer4 has but 3×3 positions.
    "resnet34": Network(resnet34, "fc.", "layer2", "layer2", "ResNet34_Weights.IMAGENET1K_V1"),
}


def network_named(name: str) -> Network:
    """Look a network up.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: {nearest(name, NETWORKS)}")
    return NETWORKS[name]
