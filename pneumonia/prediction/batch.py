"""Batch scoring: decoding runs ahead of the forward pass, and memory stays flat."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pneumonia.cores import shared_cores
from pneumonia.data.decode_ahead import Decoded, decode_ahead
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.predict import Predictor
from pneumonia.tracking.models import LoadedModel
from pneumonia.training.device import Engine, choose_engine, out_of_memory_as_error

Row = dict[str, Any]
COLUMNS = ("path", "label", "probability", "threshold", "status", "error", "model")


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
        threshold: Lowest probability called positive, 0–1; the model's own by default.

    Yields:
        Rows with the keys ``COLUMNS``.

    Raises:
        DeviceError: The device is out of memory.
        UsageError: This machine has no such device or precision, or the threshold is not 0–1.
    """
    least = model.threshold(threshold)
    engine = choose_engine(device, precision)
    remedy = f"try --batch-size {max(1, batch_size // 2)}, not {batch_size}"
    with (
        shared_cores(engine.device) as adapt_threads,
        out_of_memory_as_error(engine.device, remedy),
    ):
        yield from _score(model, files, batch_size, engine, least, adapt_threads)


def _score(
    model: LoadedModel,
    files: Iterable[Path],
    batch_size: int,
    engine: Engine,
    least: float,
    adapt_threads: Callable[[], None],
) -> Iterator[list[Row]]:
    predictor = Predictor(model.network, least, engine, model.config.temperature)
    # While one batch is in the forward pass, the next two are decoded.
    decoded = decode_ahead(files, model.config.preprocessing, window=2 * batch_size)
    while batch := list(islice(decoded, batch_size)):
        rows = [_row(path, image, least, model.uri) for path, image in batch]
        images = [image for _, image in batch if not isinstance(image, str)]
        if images:
            grey = torch.from_numpy(np.stack(images))  # (B, H, W)
            probabilities = iter(predictor.probabilities(grey).tolist())
            for row in rows:
                if row["status"] == "ok":
                    row["probability"] = next(probabilities)
                    row["label"] = model.config.class_names[decide(row["probability"], least)]
        yield rows
        adapt_threads()


def _row(path: Path, image: Decoded, threshold: float, uri: str) -> Row:
    failed = isinstance(image, str)
    return {
        "path": str(path),
        "label": "",
        "probability": None,
        "threshold": threshold,
        "status": "error" if failed else "ok",
        "error": image if failed else "",
        "model": uri,
    }
