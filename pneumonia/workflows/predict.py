"""``pneumonia predict``: a model on image files."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumonia.prediction.batch import Row, find_paths, score
from pneumonia.tracking.models import LoadedModel


def predict(
    model: LoadedModel,
    images: Iterable[str | Path],
    *,
    threshold: float | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Row]:
    """Classify image files.

    Args:
        model: The model, as ``load_model`` returns it.
        images: Files, and folders to search for images.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        batch_size: Images a forward pass.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; the labels are those of fp32.

    Yields:
        One mapping an image, in order: ``path``, ``label``, ``probability`` of the positive class
        (None for an unreadable file), ``status``, ``error`` and ``model``.

    Raises:
        DataError: A file or folder does not exist.
        UsageError: This machine has no such device or precision.
    """
    files = find_paths([str(image) for image in images], io.StringIO())
    for rows in score(
        model,
        files,
        batch_size=batch_size,
        device=device,
        precision=precision,
        threshold=threshold,
    ):
        yield from rows
