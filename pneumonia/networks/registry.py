"""The networks by name. Adding one is one function and one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pneumonia.errors import UsageError, nearest
from pneumonia.networks.resnet34 import resnet34
from pneumonia.networks.simple_cnn import simple_cnn


@dataclass(frozen=True, slots=True)
class Network:
    """What the rest of the package needs to know of a network.

    Attributes:
        build: From the image size in pixels and the dropout probability to the network.
        head: Prefix of the last layer's parameters, replaced when weights have other classes.
        cam_layer: Name of the layer whose activations Grad-CAM explains.
        gate_layer: Name of the layer whose activations the input gate compares.
        official: Name of torchvision's weights, where there are any.
    """

    build: Callable[[int, float], nn.Module]
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
