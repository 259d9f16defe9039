"""Batch scoring: decoding runs ahead of the forward pass, and memory stays flat."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from pneumonia.data.decode_ahead import Decoded, decode_ahead
from pneumonia.data.folders import walk_images
from pneumonia.errors import DataError
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.predict import Predictor
from pneumonia.tracking.models import LoadedModel

Row = dict[str, Any]
COLUMNS = ("path", "label", "probability", "status", "error", "model")


def find_paths(arguments: Iterable[str], stdin: TextIO) -> Iterator[Path]:
    """Yield image files: those named, those in folders named, and for ``-`` those in ``stdin``.

    Raises:
        DataError: Something named on the command line does not exist.
    """
    arguments = list(arguments)
    for argument in arguments:
        if argument != "-" and not Path(argument).exists():
            raise DataError(f"no file or folder {argument!r}: check the path")
    return _paths(arguments, stdin)


def score(
    model: LoadedModel,
    files: Iterable[Path],
    *,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    threshold: float | None = None,
) -> Iterator[list[Row]]:
    """Score images batch by batch, in order.

    Args:
        model: The model.
        files: Image files; looked at only as far ahead as decoding runs.
        batch_size: Images a forward pass.
        device: Where to compute.
        precision: As ``Predictor`` takes it; labels are those of fp32.
        threshold: Least probability called positive; the model's own by default.

    Yields:
        Rows with the keys ``COLUMNS``.
    """
    least = model.config.threshold if threshold is None else threshold
    predictor = Predictor(model.network, least, device, precision)
    # While one batch is in the forward pass, the next two are decoded.
    decoded = decode_ahead(files, model.config.preprocessing, window=2 * batch_size)
    while batch := list(islice(decoded, batch_size)):
        rows = [_row(path, image, model.uri) for path, image in batch]
        images = [image for _, image in batch if not isinstance(image, str)]
        if images:
            grey = torch.from_numpy(np.stack(images))  # (B, H, W)
            probabilities = iter(predictor.probabilities(grey).tolist())
            for row in rows:
                if row["status"] == "ok":
                    row["probability"] = next(probabilities)
                    row["label"] = model.config.class_names[decide(row["probability"], least)]
        yield rows


def _paths(arguments: list[str], stdin: TextIO) -> Iterator[Path]:
    for argument in arguments:
        if argument == "-":
            yield from (Path(line.rstrip("\n")) for line in stdin if line.strip())
        elif Path(argument).is_dir():
            yield from walk_images(Path(argument))
        else:
            yield Path(argument)


def _row(path: Path, image: Decoded, uri: str) -> Row:
    failed = isinstance(image, str)
    return {
        "path": str(path),
        "label": "",
        "probability": None,
        "status": "error" if failed else "ok",
        "error": image if failed else "",
        "model": uri,
    }
