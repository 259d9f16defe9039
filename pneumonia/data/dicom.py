"""DICOM files: which are radiographs, and from their bytes to grey levels.

pydicom reads the format; what is decided here is how values become black and white.
"""

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.limits import DecoderMissingError, UnreadableImageError, check_size

_INSTALL = "pip install 'pneumonia[dicom]'"
_WITHOUT_PREAMBLE = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x00\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
)
"""First tags of files that lack the preamble of 128 bytes: group lengths, or group 8."""

_RADIOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.1": "computed radiography",
    "1.2.840.10008.5.1.4.1.1.1.1": "digital X-ray, for presentation",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
}
"""Storage classes that are taken for radiographs (DICOM PS3.4, B.5)."""

_ROWS = 256
"""Rows of an image that are windowed at once."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED = 300_000_000
"""Bytes that a deflated file may unpack to; the largest image that is taken has half as many."""

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_CLASS_TAG = b"\x02\x00\x02\x00UI"

WRITER = "PNEUMONIA"
"""Implementation version name of the DICOM files that this package writes."""

_WRITER_TAG = b"\x02\x00\x13\x00SH"


def is_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file, 132 or more, are those of a DICOM file."""
    return start[128:132] == b"DICM" or start[:4] in _WITHOUT_PREAMBLE


def storage_class(start: bytes) -> str:
    """The storage class that the first 512 bytes of a DICOM file name; empty where they do not."""
    offset = start.find(_CLASS_TAG)
    if offset < 0:
        return ""
    length = int.from_bytes(start[offset + 6 : offset + 8], "little")
    return start[offset + 8 : offset + 8 + length].decode("ascii", "replace").strip("\0 ")


def may_be_radiograph(start: bytes) -> bool:
    """Whether the storage class in the first 512 bytes is that of a radiograph, or is not given.

    Directories, reports and slices of a scan, which lie beside radiographs in exports, are not.
    """
    return storage_class(start) in {"", _FOR_PROCESSING, *_RADIOGRAPHS}


def written_here(start: bytes) -> bool:
    """Whether the first 512 bytes of a DICOM file are those of a result of this package."""
    length = len(WRITER) + len(WRITER) % 2  # values are padded to even length
    return _WRITER_TAG + length.to_bytes(2, "little") + WRITER.encode() in start


def decode_dicom(encoded: bytes) -> Image.Image:
    """Decode a radiograph to grey levels, mode ``L``.

    The modality LUT or rescaling is applied, then the VOI LUT or window that the file names first;
    without one, black is the lowest value and white the highest. MONOCHROME1 is inverted, and
    padding is black. Colour captures are turned to grey.

    Raises:
        DecoderMissingError: pydicom, or its decoder for this compression, is not installed.
        UnreadableImageError: The file is damaged, is no radiograph, holds several frames or raw
            detector values, or has a size that no radiograph has.
    """
    try:
        import pydicom
    except ImportError:
        raise DecoderMissingError(f"a DICOM file, which needs pydicom: {_INSTALL}") from None
    # Its warnings quote values, and those may name the patient.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    if written_here(encoded[:512]):
        raise UnreadableImageError("a result of this package, no radiograph")
    try:
        check_inflated(encoded)
        dataset = pydicom.dcmread(io.BytesIO(encoded), force=True)
        _check_dataset(dataset)
        return Image.fromarray(_grey_levels(dataset))
    except UnreadableImageError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises many types on damaged files
        # Its message may quote a value, and that may name the patient.
        raise UnreadableImageError(f"damaged DICOM file ({type(error).__name__})") from None


def check_inflated(encoded: bytes) -> None:
    """Refuse a deflated file that unpacks to more than any image has."""
    if encoded[128:132] != b"DICM" or _DEFLATED not in encoded[:2048]:
        return
    length = int.from_bytes(encoded[140:144], "little")  # of the file meta information after it
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    left, size = encoded[144 + length :], 0
    while left and not inflate.eof:
        size += len(inflate.decompress(left, 2**20))
        left = inflate.unconsumed_tail
        if size > _LARGEST_INFLATED:
            raise UnreadableImageError(
                f"unpacks to more than {_LARGEST_INFLATED // 10**6} MB, over any image's size"
            )


def _check_dataset(dataset: Any) -> None:
    kind = str(dataset.get("SOPClassUID", ""))
    if kind == _FOR_PROCESSING or dataset.get("PresentationIntentType") == "FOR PROCESSING":
        raise UnreadableImageError(
            "raw detector values (FOR PROCESSING): give the image for presentation"
        )
    if kind and kind not in _RADIOGRAPHS:
        from pydicom.uid import UID

        named = UID(kind).name
        known = named if named != kind else "unknown"  # what else stands there may be anything
        raise UnreadableImageError(f"a DICOM file of another kind ({known}), no radiograph")
    if "PixelData" not in dataset:
        raise UnreadableImageError("a DICOM file without pixels")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise UnreadableImageError(f"holds {frames} frames, not one image")
    check_size(int(dataset.Columns), int(dataset.Rows))
    _check_decoder(dataset)


def _check_decoder(dataset: Any) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        return
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise DecoderMissingError(f"compressed as {syntax.name}, which needs a decoder: {_INSTALL}")
    _check_frame(dataset)


def _check_frame(dataset: Any) -> None:
    """Refuse a compressed picture larger than the header says, before it is decoded."""
    from pydicom.encaps import get_frame

    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    try:
        with Image.open(io.BytesIO(frame)) as picture:
            check_size(*picture.size)
            same = picture.size == (int(dataset.Columns), int(dataset.Rows))
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(str(error)) from None
    except Exception:  # noqa: BLE001 - JPEG-LS and others, which Pillow does not know
        return
    if not same:
        raise UnreadableImageError("holds a picture of another size than its header says")


def _grey_levels(dataset: Any) -> NDArray[np.uint8]:
    """From a checked dataset to uint8 (H, W)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    stored = dataset.pixel_array  # (H, W), or (H, W, 3) in colour
    if stored.ndim == 3:
        if stored.dtype != np.uint8:
            raise UnreadableImageError(f"colour of {8 * stored.itemsize} bits a channel")
        return np.asarray(Image.fromarray(stored).convert("L"))
    padding = _padding(dataset, stored)  # (H, W)
    # By rows: what the steps between need is many times as large as the image.
    blocks = [slice(top, top + _ROWS) for top in range(0, len(stored), _ROWS)]
    windowed = dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        black, white = 0.0, float(2**bits - 1)
    elif windowed:
        # What lies far outside the window shows which values are black and white.
        reach = 1e9
        black, white = apply_voi_lut(np.array([[-reach, reach]]), dataset)[0]
    else:
        used = ~padding if not padding.all() else padding
        ranges = [
            (float(values.min()), float(values.max()))
            for block in blocks
            if (values := apply_modality_lut(stored[block], dataset)[used[block]]).size
        ]
        black, white = min(low for low, _ in ranges), max(high for _, high in ranges)
    levels = np.empty(stored.shape, np.uint8)
    for block in blocks:
        shown = apply_modality_lut(stored[block], dataset)
        if dataset.get("VOILUTSequence"):
            shown = apply_voi_lut(shown, dataset)
        elif windowed:
            shown = apply_voi_lut(shown.astype(np.float64), dataset)
        share = (shown.astype(np.float64) - black) / max(white - black, 1e-12)
        levels[block] = (share.clip(0, 1) * 255).round().astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(255, levels, out=levels)
    levels[padding] = 0
    return levels


def _padding(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels only fill the rectangle (DICOM PS3.3, C.7.5.1.1.2), bool (H, W)."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    padding: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padding
