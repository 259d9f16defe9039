"""Grad-CAM: where in an image the evidence for a class lies (Selvaraju et al. 2017)."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pneumonia.data.decode import network_input


def grad_cam(
    network: nn.Module, layers: Sequence[str], grey: torch.Tensor, *, target: int = 1
) -> NDArray[np.float32]:
    """Maps of the evidence for one class.

    Args:
        network: The network, in evaluation mode.
        layers: Name of the layer whose activations are weighted; of an ensemble, that of each
            member, whose maps are added.
        grey: Grey levels 0–255, uint8 (B, H, W).
        target: The class asked about: 1 is the positive one.

    Returns:
        float32 (B, H, W), 0 where nothing speaks for the class, 1 where most does; all 0 for an
        image in which nothing does.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(network.get_submodule(layer).register_forward_hook(keep).remove)
        hooks.callback(network.zero_grad, set_to_none=True)
        with torch.enable_grad():
            pixels = network_input(grey).requires_grad_()  # (B, 3, H, W)
            logits = network(pixels)  # (B, 2)
            # Against the other class: adding a constant to both logits changes no decision.
            (logits[:, target] - logits[:, 1 - target]).sum().backward()
    heat = functional.relu(torch.stack([_weighted(of) for of in kept]).sum(dim=0))  # (B, 1, h, w)
    heat = functional.interpolate(heat, grey.shape[1:], mode="bilinear", align_corners=False)
    highest = heat.amax(dim=(2, 3), keepdim=True)
    scaled = torch.where(highest > 0, heat / highest.clamp_min(1e-12), 0.0)
    return scaled.squeeze(1).detach().float().cpu().numpy()


def _weighted(activations: torch.Tensor) -> torch.Tensor:
    """Activations (B, C, h, w), weighted by the mean gradient of each channel, (B, 1, h, w)."""
    assert activations.grad is not None
    weights = activations.grad.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    return (weights * activations).sum(dim=1, keepdim=True)
