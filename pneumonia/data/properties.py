"""What a file tells without its anatomy: sizes, compression and exposure."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from pneumonia.data.dataset import Images
from pneumonia.data.folders import ImageFile

PROPERTIES = (
    "file size",
    "width",
    "height",
    "aspect ratio",
    "JPEG quantisation",
    "brightness",
    "contrast",
    "border brightness",
    "saturated share",
)
"""Bytes; pixels; width by height; mean of the first quantisation table, 0 of other formats; mean
and standard deviation of the grey levels; mean of the outer tenth; share of levels 0 and 255."""


def file_properties(images: Images) -> NDArray[np.float64]:
    """Measure each image, float64 (n, len(PROPERTIES)), in the order of ``PROPERTIES``."""
    levels = [_levels(images.pixels[rows]) for rows in images.rows.split(1024)]
    return np.concatenate(
        [header_properties(images.files), torch.cat(levels).double().numpy()], axis=1
    )


def header_properties(files: Sequence[ImageFile]) -> NDArray[np.float64]:
    """Measure what the files' headers tell, float64 (n, 5): the first five of ``PROPERTIES``.

    NaN where a file cannot be opened any more, and, but for its size, where it is DICOM.
    """
    return np.array([_header(file) for file in files])


def image_sizes(files: Sequence[ImageFile]) -> NDArray[np.float64]:
    """Megapixels of each image, float64 (n,); NaN where the header does not tell."""
    header = header_properties(files)
    sizes: NDArray[np.float64] = header[:, 1] * header[:, 2] / 1e6
    return sizes


def _header(file: ImageFile) -> tuple[float, float, float, float, float]:
    try:
        with Image.open(file.path) as image:
            width, height = image.size
            tables = image.quantization if isinstance(image, JpegImageFile) else {}
        size = file.path.stat().st_size
    except UnidentifiedImageError:  # DICOM, whose files say nothing of this kind
        return file.path.stat().st_size, np.nan, np.nan, np.nan, np.nan
    except OSError:  # gone since it was decoded: its pixels are in the cache
        return np.nan, np.nan, np.nan, np.nan, np.nan
    quantisation = float(np.mean(tables[0])) if tables.get(0) else 0.0
    return size, width, height, width / height, quantisation


def _levels(grey: torch.Tensor) -> torch.Tensor:
    """From uint8 (B, H, W) to the four properties of the grey levels, (B, 4)."""
    flat = grey.flatten(1).float()
    width = max(1, grey.shape[1] // 10)
    border = torch.ones(grey.shape[1:], dtype=torch.bool)
    border[width:-width, width:-width] = False
    saturated = ((flat == 0) | (flat == 255)).float()
    outer = flat[:, border.flatten()]
    return torch.stack([flat.mean(1), flat.std(1), outer.mean(1), saturated.mean(1)], dim=1)
