"""Grad-CAM overlays of image files."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pneumonia.data.decode import decode
from pneumonia.data.decode_ahead import File
from pneumonia.data.dicom import is_dicom
from pneumonia.data.file_types import OVERLAY_MARK
from pneumonia.data.limits import UnreadableImageError
from pneumonia.errors import DataError
from pneumonia.evaluation.gallery import overlay
from pneumonia.evaluation.grad_cam import grad_cam
from pneumonia.files import atomic_write
from pneumonia.prediction.batch import SCORED, Row, score
from pneumonia.prediction.dicom_report import check_installed, write_dicom_results
from pneumonia.prediction.paths import file_named
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.training.device import out_of_memory_as_error

_LEAST_SIDE = 512
"""Pixels a side of what is drawn, or those of the network's input where it has more."""


def heat_map(model: LoadedModel, encoded: bytes) -> NDArray[np.uint8]:
    """Draw an X-ray with the Grad-CAM heat of the positive class over it.

    Args:
        model: The model.
        encoded: The image file's bytes.

    Returns:
        uint8 (H, W, 3), square as the network's input is.

    Raises:
        DeviceError: The device is out of memory.
        UnreadableImageError: It cannot be decoded.
    """
    preprocessing = model.config.preprocessing
    device = next(model.network.parameters()).device
    grey = torch.from_numpy(decode(encoded, preprocessing).copy()).unsqueeze(0)  # (1, H, W)
    with out_of_memory_as_error(device, "free its memory"):
        heat = grad_cam(model.network, model.config.cam_layers, grey.to(device))[0]  # (H, W)
    shown = replace(preprocessing, image_size=max(_LEAST_SIDE, preprocessing.image_size))
    return overlay(decode(encoded, shown), heat)


def explain_images(
    model: LoadedModel, files: Iterable[File], output: Path, *, dicom: bool = False
) -> Iterator[Row]:
    """Write an overlay a file, and yield its row as soon as it is written.

    Args:
        model: The model.
        files: Image files.
        output: Folder for the overlays, named ``00001-NAME.png`` in the order of the files.
        dicom: Whether to write those of DICOM files as DICOM objects instead, as
            ``write_dicom_results`` does.

    Yields:
        Rows as ``score`` yields them, with ``overlay``, the path written or empty.

    Raises:
        DataError: The folder cannot be written to.
        DeviceError: The device is out of memory.
        UsageError: highdicom is wanted and not installed.
    """
    if dicom:
        check_installed()
    try:
        output.mkdir(parents=True, exist_ok=True)
        number = 0
        for rows in score(model, files, batch_size=16):
            for row in rows:
                number += 1
                row["overlay"] = ""
                if row["status"] in SCORED:
                    stem = PurePosixPath(row["path"].partition("::")[0]).stem
                    target = output / f"{number:05}-{stem[:100]}"
                    try:
                        row["overlay"] = str(_write(model, row, target, dicom=dicom))
                    except UnreadableImageError as error:  # changed since it was scored
                        row |= {"status": "error", "reason": str(error)}
                yield row
    except OSError as error:
        raise DataError(f"cannot write to {str(output)!r}: {error.strerror}") from None


def _write(model: LoadedModel, row: Row, target: Path, *, dicom: bool) -> Path:
    """Write the overlay of a row, and return its path."""
    try:
        encoded = file_named(row["path"]).read_bytes()
    except OSError as error:
        raise UnreadableImageError(str(error)) from None
    drawn = heat_map(model, encoded)
    if dicom and is_dicom(encoded):
        return write_dicom_results(model, encoded, row, drawn, target)[0]
    mark = PngInfo()
    mark.add_text(*OVERLAY_MARK)  # so that no folder scan takes it for an X-ray
    path = target.with_name(f"{target.name}.png")
    with atomic_write(path) as unfinished:
        Image.fromarray(drawn).save(unfinished, "PNG", pnginfo=mark)
    return path
