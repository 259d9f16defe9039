"""Random changes to training images, a whole batch at once, on the device they are on."""

import torch
from torch.nn import functional

# At strength 1. Chest films differ by about this much between two exposures of one patient.
_ZOOM = 0.15
_ROTATION_DEGREES = 10.0
_SHIFT = 0.06
_BRIGHTNESS = 0.15
_CONTRAST = 0.20


_N_CHANGES = 7


def draw_changes(n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw what ``augment`` does to each of ``n`` images, uniform in 0–1, float32 (7, n)."""
    return torch.rand(_N_CHANGES, n, generator=generator)


def augment(
    grey: torch.Tensor,
    changes: torch.Tensor,
    *,
    strength: float,
    flip_probability: float = 0.0,
) -> torch.Tensor:
    """Resize and crop, rotate, shift, flip, and change brightness and contrast, as drawn.

    Each image has its own changes: resizing by up to ±15 %, rotation by ±10°, shifts by ±6 % of
    the side, brightness by ±15 % of the range and contrast by ±20 %, all times ``strength``.

    Args:
        grey: Grey levels 0–255, uint8 (B, H, W).
        changes: What ``draw_changes`` drew for these images, float32 (7, B), on any device.
        strength: 0 leaves images as they are (but for flips); 1 is a usual amount.
        flip_probability: Share of images mirrored left to right, 0–1.

    Returns:
        Grey levels 0–255, float32 (B, H, W).
    """
    levels = grey.to(torch.float32)
    if strength == 0 and flip_probability == 0:
        return levels
    n = len(grey)
    # One transfer however many parameters there are.
    zoom, turn, right, down, brighter, steeper, flip = changes.to(grey.device, non_blocking=True)
    scale = 1 + _signed(zoom) * _ZOOM * strength  # (B,)
    angle = torch.deg2rad(_signed(turn) * _ROTATION_DEGREES * strength)
    mirror = torch.where(flip < flip_probability, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid's coordinates run from -1 to 1, so a shift by a share of the side is twice that.
    across = torch.stack([cos * mirror, -sin, 2 * _signed(right) * _SHIFT * strength], dim=1)
    along = torch.stack([sin * mirror, cos, 2 * _signed(down) * _SHIFT * strength], dim=1)
    affine = torch.stack([across, along], dim=1)  # (B, 2, 3)
    size = [n, 1, *grey.shape[1:]]
    grid = functional.affine_grid(affine, size, align_corners=False)  # (B, H, W, 2)
    moved = functional.grid_sample(levels.unsqueeze(1), grid, align_corners=False).squeeze(1)
    contrast = (1 + _signed(steeper) * _CONTRAST * strength).view(n, 1, 1)
    brightness = (_signed(brighter) * _BRIGHTNESS * strength * 255).view(n, 1, 1)
    mean = moved.mean(dim=(1, 2), keepdim=True)
    # (moved - mean) * contrast + mean + brightness, in one pass over the images
    return torch.addcmul(mean * (1 - contrast) + brightness, moved, contrast).clamp_(0, 255)


def _signed(uniform: torch.Tensor) -> torch.Tensor:
    """Spread draws from 0–1 over -1–1."""
    return uniform * 2 - 1
