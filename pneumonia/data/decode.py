"""From an image file's bytes to what a network sees: the one definition, stored with each model.

Training, evaluation, prediction and serving all come through here. The module imports only what
travels with every logged model, as its source does (see ``tracking.model_source``).
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pneumonia.data.dicom import decode_dicom, is_dicom
from pneumonia.data.input_checks import unusual_colour, unusual_levels, unusual_shape
from pneumonia.data.limits import UnreadableImageError, check_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel statistics the official ImageNet weights were trained with (torchvision's presets)."""

# Pillow warns of large images, which we refuse, and of damaged metadata, which we do not need.
warnings.filterwarnings("ignore", module=r"PIL\.")

_BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits a pixel that detectors deliver."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by EXIF orientation; 1 is upright."""

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
_MIN_IS_WHITE, _PHOTOMETRIC_TAG = 0, 0x0106

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


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
    """Decode a JPEG, PNG, TIFF, BMP, WebP or DICOM file's bytes to a square greyscale image.

    DICOM is decoded as ``decode_dicom`` says; the rest of this is about the others. Orientation is
    taken from EXIF, and transparency is laid over black. A JPEG much larger than needed is scaled
    down by its own decoder first. Damaged metadata is ignored.

    A 16-bit greyscale file is scaled by the bits that it uses: those that its header gives (PNG's
    sBIT chunk) if no value needs more, else the least of 8, 10, 12, 14 and 16 bits that holds
    its largest value. Of these bits the upper eight are kept. A TIFF file whose zero is white is
    inverted.

    Returns:
        Grey levels, uint8 (image_size, image_size), 0 black to 255 white.

    Raises:
        DecoderMissingError: A library for this DICOM file is not installed.
        UnreadableImageError: The bytes are no such file, are cut short, hold several images or
            floating-point pixels, or have a size that no radiograph has. No bytes raise anything
            else.
    """
    return _decode(encoded, preprocessing, check=False)[0]


def decode_checked(encoded: bytes, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], str]:
    """Decode as ``decode`` does, and say why it can be no chest X-ray: empty where it may be.

    Raises:
        DecoderMissingError: As ``decode``.
        UnreadableImageError: As ``decode``.
    """
    return _decode(encoded, preprocessing, check=True)


def _decode(
    encoded: bytes, preprocessing: Preprocessing, *, check: bool
) -> tuple[NDArray[np.uint8], str]:
    side = preprocessing.image_size
    if is_dicom(encoded):  # it says itself what it shows
        grey, reason = decode_dicom(encoded), ""
    else:
        grey, reason = _decode_file(encoded, side, check)
    if check:
        reason = reason or unusual_shape(*grey.size)
    if preprocessing.resize == "pad":
        grey = ImageOps.pad(grey, (side, side), Image.Resampling.BILINEAR)
    elif grey.size != (side, side):
        grey = grey.resize((side, side), Image.Resampling.BILINEAR)
    levels = np.asarray(grey, dtype=np.uint8)
    return levels, reason or (unusual_levels(levels) if check else "")


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
    with torch.inference_mode(mode=False):  # training cannot use inference tensors
        std = torch.tensor(IMAGENET_STD, device=device)
        return -torch.tensor(IMAGENET_MEAN, device=device) / std, 1 / (255 * std)


def _decode_file(encoded: bytes, side: int, check: bool) -> tuple[Image.Image, str]:
    """Decode to greyscale, without the metadata where they are damaged."""
    try:
        return _decode_grey(encoded, side, check)
    except UnreadableImageError:
        needed = _without_metadata(encoded)
        if needed == encoded:
            raise
        return _decode_grey(needed, side, check)


def _decode_grey(encoded: bytes, side: int, check: bool) -> tuple[Image.Image, str]:
    """Decode to greyscale, upright, at least twice as large as needed where the file is.

    The second value is what speaks against the image's colours, if they are to be looked at.
    """
    reason = ""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            check_size(*image.size)
            _check_kind(image)
            if check and image.format in ("JPEG", "MPO"):  # of which only the grey is decoded below
                with Image.open(io.BytesIO(encoded)) as coloured:
                    reason = unusual_colour(coloured)
            image.draft("L", _at_least_twice(image.size, side))
            image.load()
            if check:
                reason = reason or unusual_colour(image)
            grey = _grey(image, _significant_bits(encoded))
            if image.mode.startswith("I") and _zero_is_white(image):
                grey = ImageOps.invert(grey)
            turn = _TURNS.get(_orientation(image))
    except UnidentifiedImageError:
        reason = (
            "the file is empty"
            if not encoded
            else "not a JPEG, PNG, TIFF, BMP, WebP or DICOM image"
        )
        raise UnreadableImageError(reason) from None
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many types on damaged files
        raise UnreadableImageError(f"damaged image: {error}") from None
    return (grey if turn is None else grey.transpose(turn)), reason


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, or 1 (upright) where it is missing or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged metadata must not make an image unreadable
        return 1
    return orientation if isinstance(orientation, int) else 1


def _without_metadata(encoded: bytes) -> bytes:
    """Leave out the parts of a JPEG or PNG file that its pixels do not need."""
    if encoded.startswith(_PNG_SIGNATURE):
        kept = [encoded[a:b] for kind, a, b in _png_chunks(encoded) if kind in _PNG_NEEDED]
        return _PNG_SIGNATURE + b"".join(kept)
    if not encoded.startswith(b"\xff\xd8"):
        return encoded
    kept, start = [encoded[:2]], 2
    # Segments up to the image data: 0xFF, a marker, and a length that counts itself.
    while encoded[start : start + 1] == b"\xff" and encoded[start + 1 : start + 2] != b"\xda":
        marker = encoded[start + 1 : start + 2]
        end = start + 2 + int.from_bytes(encoded[start + 2 : start + 4], "big")
        # APP0 (JFIF) and APP14 (Adobe) give the colour space; APP1 to APP13 and comments do not.
        if not b"\xe1" <= marker <= b"\xed" and marker != b"\xfe":
            kept.append(encoded[start:end])
        start = end
    return b"".join([*kept, encoded[start:]])


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, start and end of each chunk of a PNG file."""
    start = len(_PNG_SIGNATURE)
    while start + 8 <= len(encoded):
        end = start + 12 + int.from_bytes(encoded[start : start + 4], "big")
        yield encoded[start + 4 : start + 8], start, end
        start = end


def _significant_bits(encoded: bytes) -> int:
    """Bits of a sample that the original had, by a PNG file's sBIT chunk; 16 without one."""
    if encoded.startswith(_PNG_SIGNATURE):
        for kind, start, end in _png_chunks(encoded):
            if kind == b"sBIT" and start + 12 < end <= len(encoded):
                return encoded[start + 8]
            if kind == b"IDAT":
                break
    return 16


def _check_kind(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    # A JPEG with several pictures holds one X-ray and its previews.
    if frames > 1 and image.format not in ("JPEG", "MPO"):
        raise UnreadableImageError(f"holds {frames} images, not one: save each as a file")
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels, of which black and white are unknown")


def _zero_is_white(image: Image.Image) -> bool:
    """Whether a TIFF file says so; Pillow inverts 8 bits itself, but not 16."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC_TAG, 1) == _MIN_IS_WHITE)


def _at_least_twice(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size to ask the JPEG decoder for: half of it is still left to the antialiasing resize."""
    scale = min(1.0, 2 * side / min(size))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _grey(image: Image.Image, header_bits: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip
        levels = np.asarray(image)
        if np.issubdtype(levels.dtype, np.signedinteger):
            levels = levels.clip(0)
        largest = int(levels.max())
        depths = (*_BIT_DEPTHS, largest.bit_length())  # "I" may hold up to 32 bits
        bits = next(depth for depth in depths if largest < 2**depth)
        if 8 <= header_bits < 16 and largest < 2**header_bits:
            bits = header_bits
        return Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "black")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("L")
    return image.convert("L")
