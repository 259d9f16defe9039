"""Random changes to training images, a whole batch at once, on the device they are on."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

# At strength 1. Chest films differ by about this much between two exposures of one patient.
_ZOOM = 0.15
_ROTATION_DEGREES = 10.0
_SHIFT = 0.06

_LARGEST_ASPECT = 4 / 3
"""Width by height of a crop, or height by width, as in torchvision's RandomResizedCrop."""

_N_CHANGES = 22
_SEEDS = 2**24
"""As many as a float32 between 0 and 1 tells apart."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much training images are changed.

    Attributes:
        strength: Factor on zoom (±15 %), rotation (±10°), shift (±6 % of the side), brightness,
            contrast and gamma; 0 leaves all but crops and flips out.
        crop: Smallest share of the area that a random crop keeps, 0–1; 1 does not crop.
        brightness: Largest change of the brightness, as a share of the range.
        contrast: Largest change of the contrast, as a share of it.
        gamma: Largest change of the logarithm of gamma.
        flip: Share of the images mirrored left to right, 0–1.
        blur: Largest standard deviation of a Gaussian blur, as a share of the side; every other
            image is blurred.
        noise: Largest standard deviation of Gaussian noise, as a share of the range; every other
            image has some.
        border: Largest width of a border, as a share of the side; every other side has one.
        border_grey: Share of the images whose border has a random grey level and not 0, 0–1.
        shading: Largest change of the brightness from the middle of the image to one side, as a
            share of it, 0–1; every other image is shaded, in a random direction.
    """

    strength: float = 1.0
    crop: float = 1.0
    brightness: float = 0.15
    contrast: float = 0.20
    gamma: float = 0.0
    flip: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    border: float = 0.0
    border_grey: float = 0.0
    shading: float = 0.0

    @property
    def changes_nothing(self) -> bool:
        """Whether images stay as they are."""
        others = (self.strength, self.flip, self.shading, self.blur, self.noise, self.border)
        return self.crop == 1 and not any(others)


def draw_changes(n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw what ``augment`` does to each of ``n`` images, uniform in 0–1, float32 (22, n)."""
    return torch.rand(_N_CHANGES, n, generator=generator)


def augment(grey: torch.Tensor, changes: torch.Tensor, how: Augmentation) -> torch.Tensor:
    """Crop, move, flip, change exposure and shading, blur, and add noise and borders, as drawn.

    Each image has its own changes. A crop keeps a share of the area drawn from ``crop``–1, at an
    aspect ratio drawn from 3/4–4/3 by its logarithm, anywhere in the image, and is stretched to
    the square, like torchvision's RandomResizedCrop (Szegedy et al. 2015).

    Args:
        grey: Grey levels 0–255, uint8 (B, H, W).
        changes: What ``draw_changes`` drew for these images, float32 (22, B), on any device.
        how: How much to change.

    Returns:
        Grey levels 0–255, float32 (B, H, W).
    """
    levels = grey.to(torch.float32)
    if how.changes_nothing:
        return levels
    # One transfer however many parameters there are.
    drawn = changes.to(grey.device, non_blocking=True)
    levels = _exposed(_moved(levels, drawn[:9], how), drawn[9:12], how)
    if how.shading:
        levels = _shaded(levels, _every_other(drawn[19]) * how.shading, drawn[20])
    if how.blur:
        levels = _blurred(levels, _every_other(drawn[12]) * how.blur)
    if how.noise:
        levels = _noisy(levels, _every_other(drawn[13]) * how.noise, drawn[14])
    if how.border:
        grey = (drawn[21] - 1 + how.border_grey).clamp(min=0) / max(how.border_grey, 1e-6)
        levels = _with_border(levels, _every_other(drawn[15:19]) * how.border, grey * 255)
    return levels


def _moved(levels: torch.Tensor, drawn: torch.Tensor, how: Augmentation) -> torch.Tensor:
    """Resample images (B, H, W) by one affine map each."""
    zoom, turn, right, down, flip, area, aspect, across_at, along_at = drawn
    strength = how.strength
    scale = 1 + _signed(zoom) * _ZOOM * strength  # (B,)
    angle = torch.deg2rad(_signed(turn) * _ROTATION_DEGREES * strength)
    mirror = torch.where(flip < how.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid's coordinates run from -1 to 1, so a shift by a share of the side is twice that.
    across = torch.stack([cos * mirror, -sin, 2 * _signed(right) * _SHIFT * strength], dim=1)
    along = torch.stack([sin * mirror, cos, 2 * _signed(down) * _SHIFT * strength], dim=1)
    if how.crop < 1:
        side = torch.sqrt(how.crop + area * (1 - how.crop))
        stretch = torch.exp(_signed(aspect) * math.log(_LARGEST_ASPECT) / 2)
        for row, extent, at in (
            (across, (side * stretch).clamp(max=1), across_at),
            (along, (side / stretch).clamp(max=1), along_at),
        ):
            row.mul_(extent.unsqueeze(1))
            row[:, 2] += (1 - extent) * _signed(at)
    affine = torch.stack([across, along], dim=1)  # (B, 2, 3)
    size = [len(levels), 1, *levels.shape[1:]]
    grid = functional.affine_grid(affine, size, align_corners=False)  # (B, H, W, 2)
    sampled = functional.grid_sample(levels.unsqueeze(1), grid, align_corners=False)
    return sampled.squeeze(1)  # (B, H, W)


def _exposed(levels: torch.Tensor, drawn: torch.Tensor, how: Augmentation) -> torch.Tensor:
    """Change the grey levels of images (B, H, W)."""
    brighter, steeper, darker = (_signed(row).view(-1, 1, 1) * how.strength for row in drawn)
    if how.gamma:
        levels = levels.div(255).pow(torch.exp(darker * how.gamma)).mul(255)
    contrast = 1 + steeper * how.contrast
    brightness = brighter * how.brightness * 255
    mean = levels.mean(dim=(1, 2), keepdim=True)
    # (levels - mean) * contrast + mean + brightness, in one pass over the images
    return torch.addcmul(mean * (1 - contrast) + brightness, levels, contrast).clamp_(0, 255)


def _shaded(levels: torch.Tensor, slopes: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Make images (B, H, W) lighter towards one side and darker towards the opposite one.

    X-ray tubes do so (the heel effect), and so does a patient who stands askew.

    Args:
        levels: Grey levels 0–255, float32 (B, H, W).
        slopes: Change of the brightness from the middle to that side, as a share of it, (B,).
        directions: Direction of that side, as a share of the full turn, (B,).
    """
    across, down = (torch.linspace(-1, 1, n, device=levels.device) for n in levels.shape[1:])
    angle = (2 * math.pi * directions).view(-1, 1, 1)  # (B, 1, 1)
    height = torch.cos(angle) * across + torch.sin(angle) * down.unsqueeze(1)  # (B, H, W)
    return (levels * (1 + slopes.view(-1, 1, 1) * height)).clamp_(0, 255)


def _blurred(levels: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Blur images (B, H, W), each with its standard deviation (B,) as a share of the side."""
    n, side = len(levels), levels.shape[-1]
    pixels = (sigmas * side).clamp(min=1e-3).unsqueeze(1)  # (B, 1)
    reach = max(1, math.ceil(3 * float(pixels.max())))
    at = torch.arange(-reach, reach + 1, device=levels.device)
    kernels = torch.exp(-((at / pixels) ** 2) / 2)  # (B, 2 reach + 1)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).unsqueeze(1)
    # One group an image, since each has its own kernel.
    padded = functional.pad(levels.unsqueeze(0), [reach] * 4, mode="replicate")
    across = functional.conv2d(padded, kernels.unsqueeze(2), groups=n)
    return functional.conv2d(across, kernels.unsqueeze(3), groups=n).squeeze(0)  # (B, H, W)


def _noisy(levels: torch.Tensor, deviations: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Add noise to images (B, H, W), of deviations (B,) as shares of the range."""
    fields = [
        torch.randn(levels.shape[1:], generator=torch.Generator().manual_seed(seed))
        for seed in (seeds * _SEEDS).long().tolist()
    ]
    scale = (deviations * 255).view(-1, 1, 1)
    return (levels + torch.stack(fields).to(levels.device) * scale).clamp_(0, 255)


def _with_border(levels: torch.Tensor, widths: torch.Tensor, border: torch.Tensor) -> torch.Tensor:
    """Give images (B, H, W) borders of widths (4, B), as shares of the side, and levels (B,)."""
    top, bottom, left, right = widths.unsqueeze(2)  # (B, 1) each
    rows, columns = ((torch.arange(n, device=levels.device) + 0.5) / n for n in levels.shape[1:])
    kept_rows = (rows > top) & (rows < 1 - bottom)  # (B, H)
    kept_columns = (columns > left) & (columns < 1 - right)  # (B, W)
    kept = kept_rows.unsqueeze(2) & kept_columns.unsqueeze(1)  # (B, H, W)
    return torch.where(kept, levels, border.view(-1, 1, 1))


def _every_other(uniform: torch.Tensor) -> torch.Tensor:
    """Spread draws from 0.5–1 over 0–1, and make the others 0."""
    return (uniform * 2 - 1).clamp(min=0)


def _signed(uniform: torch.Tensor) -> torch.Tensor:
    """Spread draws from 0–1 over -1–1."""
    return uniform * 2 - 1
