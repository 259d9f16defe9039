"""The input gate: an image unlike those a network was trained on gets no probability.

This module's source travels with every logged model: it imports nothing of this package.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

UNUSUAL, UNLIKE = "unusual", "unlike the training images"
_TURNED = ("turned by 90° to the left", "upside down", "turned by 90° to the right")
INVERTED = "inverted: bright where an X-ray is dark"


@dataclass(frozen=True, slots=True)
class Gate:
    """What the training images of a network look like, to the eye and to the network.

    An image is compared with the mean training image, as it is, turned, and inverted. Its features
    are the mean activations of a layer; their Mahalanobis distance from the nearer class mean says
    how far they are from the training images (Lee et al. 2018, arXiv:1807.03888).

    Attributes:
        layer: Name of the layer.
        mean_image: Mean of the training images, float32 (H, W).
        class_means: Mean features of each class, float32 (2, D).
        precision: Inverse of the features' covariance within a class, float32 (D, D).
        unusual: Distance from which an image is worth a warning.
        unlike: Distance from which it is rejected.
        turned: How much more an image may resemble the mean image turned or inverted than as it
            is, as a difference of correlations.
        alike: Correlation with the mean image from which an image looks like an X-ray in that pose.
    """

    layer: str
    mean_image: torch.Tensor
    class_means: torch.Tensor
    precision: torch.Tensor
    unusual: float
    unlike: float
    turned: float
    alike: float

    def as_dict(self) -> dict[str, Any]:
        """What ``torch.save`` stores of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Gate":
        """The gate that was stored."""
        return cls(**stored)

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Distance of features, (B, D), from the nearer class mean, float32 (B,)."""
        features = features.cpu().float()
        apart = features.unsqueeze(1) - self.class_means  # (B, 2, D)
        squared = ((apart @ self.precision) * apart).sum(dim=2)  # (B, 2)
        return squared.amin(dim=1).clamp(min=0).sqrt()

    def pose(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """How well images fit the mean image as they are, and turned or inverted.

        Args:
            grey: Grey levels, uint8 (B, H, W).

        Returns:
            Correlation as they are, float32 (B,), the largest of the other poses, float32 (B,), and
            which pose that is, int64 (B,): one of three turns, or 3 and more for an inverted image.
        """
        images = _standardised(grey.cpu().float())
        mean = self.mean_image.unsqueeze(0)  # (1, H, W)
        poses = torch.stack(
            [_standardised(torch.rot90(mean, k, (1, 2)))[0] for k in range(4)]
        )  # (4, H·W)
        fits = images @ poses.T  # (B, 4)
        others = torch.cat([fits[:, 1:], -fits], dim=1)  # (B, 7)
        best = others.max(dim=1)
        return fits[:, 0], best.values, best.indices

    def reasons(self, grey: torch.Tensor, distance: torch.Tensor) -> tuple[list[str], list[str]]:
        """Why images are rejected, and why others deserve a warning; empty strings where neither.

        Args:
            grey: Grey levels, uint8 (B, H, W).
            distance: Of their features, (B,).
        """
        rejected, warned = [], []
        poses = zip(*(values.tolist() for values in self.pose(grey)), strict=True)
        for far, (upright, other, which) in zip(distance.tolist(), poses, strict=True):
            against = ""
            if other - upright > self.turned:
                in_pose = _TURNED[which] if which < len(_TURNED) else INVERTED
                against = in_pose if other >= self.alike else UNLIKE
            elif not far <= self.unlike:
                against = UNLIKE
            rejected.append(against)
            warned.append(UNUSUAL if not against and far > self.unusual else "")
        return rejected, warned


@contextmanager
def layer_features(network: nn.Module, layer: str) -> Iterator[list[torch.Tensor]]:
    """Collect the mean activations of a layer in each forward pass of the block, float32 (B, D)."""
    seen: list[torch.Tensor] = []

    def keep(_layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        seen.append(output.mean(dim=(2, 3), dtype=torch.float32))

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _standardised(images: torch.Tensor) -> torch.Tensor:
    """Grey levels with mean 0 and length 1, from (B, H, W) to (B, H·W)."""
    flat = images.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    length: torch.Tensor = flat.norm(dim=1, keepdim=True)
    return flat / length.clamp(min=1e-6)
