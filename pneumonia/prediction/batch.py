"""Batch scoring: decoding runs ahead of the forward pass, and memory stays flat."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from pneumonia.data.folders import walk_images
from pneumonia.data.preprocessing import Preprocessing, UnreadableImageError, decode
from pneumonia.errors import DataError
from pneumonia.prediction.forward import Classifier
from pneumonia.tracking.models import LoadedModel

Row = dict[str, Any]
COLUMNS = ("path", "label", "probability", "status", "error", "model")
Decoded = NDArray[np.uint8] | str


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
        precision: In what, as ``Classifier`` takes it; labels do not depend on it.
        threshold: Least probability called positive; the model's own by default.

    Yields:
        Rows with the keys ``COLUMNS``.
    """
    least = model.config.threshold if threshold is None else threshold
    classifier = Classifier(model, least, device, precision)
    for batch in _decoded_ahead(files, model.config.preprocessing, batch_size):
        rows = [_row(path, image, model.uri) for path, image in batch]
        images = [image for _, image in batch if not isinstance(image, str)]
        if images:
            grey = torch.from_numpy(np.stack(images))  # (B, H, W)
            probabilities = iter(classifier.probabilities(grey).tolist())
            for row in rows:
                if row["status"] == "ok":
                    row["probability"] = next(probabilities)
                    row["label"] = model.config.class_names[row["probability"] >= least]
        yield rows


def _paths(arguments: list[str], stdin: TextIO) -> Iterator[Path]:
    for argument in arguments:
        if argument == "-":
            yield from (Path(line.rstrip("\n")) for line in stdin if line.strip())
        elif Path(argument).is_dir():
            yield from walk_images(Path(argument))
        else:
            yield Path(argument)


def _decoded_ahead(
    files: Iterable[Path], preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[tuple[Path, Decoded]]]:
    """Decode in threads, two batches ahead of the one in use."""
    threads = ThreadPoolExecutor(max_workers=os.cpu_count())
    pending: deque[list[tuple[Path, Future[Decoded]]]] = deque()
    batches = _in_batches(files, batch_size)
    try:
        while True:
            for paths in islice(batches, 3 - len(pending)):
                pending.append(
                    [(path, threads.submit(_decode, path, preprocessing)) for path in paths]
                )
            if not pending:
                return
            yield [(path, future.result()) for path, future in pending.popleft()]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _in_batches(files: Iterable[Path], size: int) -> Iterator[list[Path]]:
    files = iter(files)
    while batch := list(islice(files, size)):
        yield batch


def _decode(path: Path, preprocessing: Preprocessing) -> Decoded:
    try:
        return decode(path.read_bytes(), preprocessing)
    except UnreadableImageError as error:
        return str(error)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a path
        return getattr(error, "strerror", None) or str(error)


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
