"""``pneumonia predict``: a model on image files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia.errors import UsageError
from pneumonia.evaluation.calibration import at_prevalence
from pneumonia.evaluation.drift import ScoreDrift
from pneumonia.prediction.batch import (
    SCORED,
    PredictionCounts,
    Row,
    gate_column,
    reweight,
    score,
)
from pneumonia.prediction.paths import find_paths
from pneumonia.prediction.resume import kept_rows, partial_file, shard
from pneumonia.prediction.rows import format_of, open_writer
from pneumonia.tracking.model_files import LoadedModel


def predict(
    model: LoadedModel,
    images: Iterable[str | Path],
    *,
    threshold: float | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    gate: bool = True,
    prevalence: float | None = None,
    coverage: float | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[Row]:
    """Classify image files.

    Args:
        model: The model, as ``load_model`` returns it.
        images: Files, and folders to search for images.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        batch_size: Images a forward pass.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``; labels are those of fp32.
        gate: Whether images that look like no chest X-ray, or unlike those that the model was
            trained on, get no probability.
        prevalence: Share of positive images where the model is used, 0–1: probabilities and
            threshold are re-weighted for it, and labels stay.
        coverage: Share of images whose class is to be among the possible ones, 0–1: an image whose
            label is not the only possible class gets none.
        skipped: Counts by kind of the files in folders that are no images, added to.

    Yields:
        One mapping an image, in order, with the keys of ``prediction.batch.COLUMNS``: ``path``,
        ``label``, ``probability`` of the positive class (None where there is none), ``status``,
        ``reason`` and others.

    Raises:
        DataError: A file or folder does not exist.
        DeviceError: The device is out of memory.
        UsageError: This machine has no such device or precision, or the threshold is not 0–1.
    """
    for rows in score(
        model,
        find_paths(images, skipped=skipped),
        batch_size=batch_size,
        device=device,
        precision=precision,
        threshold=threshold,
        gate=gate,
        prevalence=prevalence,
        coverage=coverage,
    ):
        yield from rows


def predict_to_file(
    model: LoadedModel,
    images: Iterable[str | Path],
    output: Path | None,
    *,
    stdin: Iterable[str] = (),
    file_format: str | None = None,
    threshold: float | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    gate: bool = True,
    prevalence: float | None = None,
    coverage: float | None = None,
    resume: bool = False,
    part: str = "",
    on_batch: Callable[[int], None] = lambda _n_images: None,
) -> PredictionCounts:
    """Classify image files, and write a row an image.

    Args:
        model: The model, as ``load_model`` returns it.
        images: Files, folders to search for images, or ``-`` for paths in ``stdin``.
        output: The file to write; None is standard output.
        stdin: Lines of paths.
        file_format: ``csv``, ``jsonl``, ``parquet`` or ``html``; by default the file's ending
            decides.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        batch_size: Images a forward pass.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``; labels are those of fp32.
        gate: As ``predict`` takes it.
        prevalence: As ``predict`` takes it.
        coverage: As ``predict`` takes it.
        resume: Whether to keep the rows that a stopped job left, and classify the others only.
        part: ``K/N`` for every N-th file from the K-th on; empty for all.
        on_batch: Called with the number of images classified so far.

    Raises:
        DataError: A file or folder does not exist, or ``output`` cannot be written.
        DeviceError: The device is out of memory.
        UsageError: This machine has no such device or precision, the threshold is not 0–1, or the
            format contradicts the file's ending.
    """
    scored_by = {
        "model": model.uri,
        "threshold": reweight(model, model.threshold(threshold), prevalence=prevalence),
        "gate": gate_column(gate=gate),
        "coverage": coverage,
    }
    counts = PredictionCounts(drift=_drift_from_validation(model, prevalence))
    kept = _kept_rows(output, file_format, scored_by) if resume else []
    done = {row["path"] for row in kept}
    files = shard(find_paths(images, stdin, counts.skipped), part)
    scored = score(
        model,
        (file for file in files if str(file) not in done),
        batch_size=batch_size,
        device=device,
        precision=precision,
        threshold=threshold,
        gate=gate,
        prevalence=prevalence,
        coverage=coverage,
    )
    with open_writer(output, file_format, positive=model.config.class_names[1]) as write:
        if kept:
            write(kept)
            counts.results["there already"] = len(kept)
            _count_scores(kept, counts, model, prevalence)
        for rows in scored:
            write(rows)
            for row in rows:
                counts.add(row["label"], row["status"])
            _count_scores(rows, counts, model, prevalence)
            on_batch(counts.results.total())
    if resume and output is not None:
        partial_file(output).unlink(missing_ok=True)
    return counts


def _kept_rows(
    output: Path | None, file_format: str | None, scored_by: Mapping[str, Any]
) -> list[Row]:
    if output is None:
        raise UsageError("--resume needs --output FILE")
    rows_format = format_of(output, file_format)
    if rows_format == "html":
        raise UsageError("--resume cannot read a worklist: use csv, jsonl or parquet")
    return kept_rows(output, rows_format, scored_by)


def _drift_from_validation(model: LoadedModel, prevalence: float | None) -> ScoreDrift | None:
    calibration, validated_at = model.config.calibration, model.config.prevalence
    if not all(calibration):
        return None  # a model of an earlier version of this package
    return ScoreDrift(calibration, validated_at if prevalence is None else prevalence)


def _count_scores(
    rows: Iterable[Row], counts: PredictionCounts, model: LoadedModel, prevalence: float | None
) -> None:
    """Count the model's own probabilities, before they were re-weighted."""
    if counts.drift is None:
        return
    scores = np.array([float(row["probability"]) for row in rows if row["status"] in SCORED])
    if prevalence is not None:
        scores = at_prevalence(scores, prevalence, model.config.prevalence)
    counts.drift.add(scores)
