"""From an image file's bytes to what a network sees: the one definition, stored with each model.

Training, evaluation, prediction and serving all come through here. The module imports nothing of
this package, because its source travels with every logged model.
"""

import io
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST_PIXELS = 64_000_000
"""Pixels of the largest image we decode; the largest radiographs have about 20 million."""

SMALLEST_SIDE = 16
"""Pixels of the shortest side we accept: less is a placeholder, not a radiograph."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel statistics the official ImageNet weights were trained with (torchvision's presets)."""

# We refuse large images ourselves, and earlier than Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(ValueError):
    """The bytes are not an image we can use; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes a square of grey levels.

    Attributes:
        image_size: Side of the square, in pixels.
        resize: ``stretch`` to the square, or ``pad`` with black to keep the aspect ratio. It alone
            tells the published classes apart (AUC 0.89), and stretching hides it.
    """

    image_size: int
    resize: str = "stretch"


def decode(encoded: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file's bytes to a square greyscale image.

    Orientation is taken from EXIF, transparency is laid over black, and 16-bit images keep their
    upper eight bits. A JPEG much larger than needed is scaled down by its own decoder first.

    Returns:
        Grey levels, uint8 (image_size, image_size), 0 black to 255 white.

    Raises:
        UnreadableImageError: The bytes are no JPEG or PNG, are cut short, or have a size that no
            radiograph has.
    """
    side = preprocessing.image_size
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            _check_size(image)
            image.draft("L", _at_least_twice(image.size, side))
            grey = _grey(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        reason = "the file is empty" if not encoded else "not a JPEG or PNG image"
        raise UnreadableImageError(reason) from None
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises on damage
        raise UnreadableImageError(f"damaged image: {error}") from None
    if preprocessing.resize == "pad":
        grey = ImageOps.pad(grey, (side, side), Image.Resampling.BILINEAR)
    elif grey.size != (side, side):
        grey = grey.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(grey, dtype=np.uint8)


def network_input(grey: torch.Tensor) -> torch.Tensor:
    """Normalise grey levels and repeat them over three channels.

    Args:
        grey: Grey levels 0–255, uint8 or floating point (B, H, W).

    Returns:
        float32 (B, 3, H, W) in channels_last memory order.
    """
    offset, scale = _normalisation(grey.device)
    # One pass over memory, with the channels last from the start.
    spread = torch.addcmul(offset, grey.unsqueeze(3).to(torch.float32), scale)  # (B, H, W, 3)
    return spread.permute(0, 3, 1, 2)  # (B, 3, H, W)


@cache
def _normalisation(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to and multiplied with grey levels, each (3,); made once, for a GPU waits."""
    with torch.inference_mode(mode=False):  # lest training get what prediction made first
        std = torch.tensor(IMAGENET_STD, device=device)
        return -torch.tensor(IMAGENET_MEAN, device=device) / std, 1 / (255 * std)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        raise UnreadableImageError(
            f"{width}×{height} pixels, over the limit of {LARGEST_PIXELS // 10**6} million"
        )
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImageError(f"{width}×{height} pixels, too small for a radiograph")


def _at_least_twice(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size to ask the JPEG decoder for: half of it is still left to the antialiasing resize."""
    scale = min(1.0, 2 * side / min(size))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip
        levels = np.asarray(image).astype(np.int64)
        return Image.fromarray((levels.clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "black")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("L")
    return image.convert("L")
