"""Batch scoring: decoding runs ahead of the forward pass, and memory stays flat."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from pneumonia import __version__
from pneumonia.cores import shared_cores
from pneumonia.data.decode_ahead import DecodedFile, File, decode_ahead
from pneumonia.errors import UsageError
from pneumonia.evaluation.calibration import at_prevalence
from pneumonia.evaluation.conformal import possible_classes
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.drift import ScoreDrift
from pneumonia.evaluation.predict import Forward, Predictor
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.training.device import Engine, choose_engine, out_of_memory_as_error

Row = dict[str, Any]
COLUMNS = (
    "path",
    "label",
    "probability",
    "threshold",
    "gate",
    "coverage",
    "status",
    "reason",
    "model",
    "run",
    "temperature",
    "intercept",
    "sha256",
    "version",
)
"""What a row holds.

``status`` is ``ok``, ``warning`` (unusual, and scored), ``undecided`` (no label at the stated
coverage), ``rejected`` (by the gate, without a probability) or ``error`` (unreadable), and
``reason`` says why. ``gate`` is whether images had to pass it, ``on`` or ``off``; ``run`` the
MLflow run that trained the model, ``sha256`` the digest of the file, and ``version`` that of this
package.
"""

SCORED = ("ok", "warning", "undecided")
"""Where there is a probability."""


@dataclass(slots=True)
class PredictionCounts:
    """What became of the files.

    Attributes:
        results: Images by label; those without one as ``undecided``, ``rejected`` or ``error``.
        skipped: Files in folders that are no images, by kind.
        warnings: How many of those with a label are unusual.
        drift: Where it is wanted, counts the model's own probabilities.
    """

    results: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: int = 0
    drift: ScoreDrift | None = None

    def add(self, label: str, status: str, count: int = 1) -> None:
        """Count images of a label and status."""
        self.results[label or status] += count
        if status == "warning":
            self.warnings += count


def score(
    model: LoadedModel,
    files: Iterable[File],
    *,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    threshold: float | None = None,
    gate: bool = True,
    prevalence: float | None = None,
    coverage: float | None = None,
) -> Iterator[list[Row]]:
    """Score images batch by batch, in order.

    Args:
        model: The model.
        files: Image files; looked at only as far ahead as decoding runs.
        batch_size: Images a forward pass.
        device: Where to compute.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``; labels are those of fp32.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        gate: Whether images that look like no chest X-ray, or unlike those that the model was
            trained on, get no probability.
        prevalence: Share of positive images where the model is used, 0–1: probabilities and
            threshold are re-weighted for it, as ``at_prevalence`` does, and labels stay.
        coverage: Share of images whose class is to be among the possible ones, 0–1: an image whose
            label is not the only possible class gets none, as ``possible_classes`` says.

    Yields:
        Rows with the keys ``COLUMNS``.

    Raises:
        DeviceError: The device is out of memory.
        ModelError: ``int8`` changes what the model says.
        UsageError: This machine has no such device or precision, or the threshold is not 0–1.
    """
    least = model.threshold(threshold)
    if coverage is not None and not 0 < coverage < 1:
        raise UsageError(f"coverage = {coverage} is out of range: give more than 0, less than 1")
    reweighted = partial(reweight, model, prevalence=prevalence)
    int8 = precision == "int8"
    engine = choose_engine(device, "fp32" if int8 else precision)
    if int8 and engine.device.type != "cpu":
        raise UsageError("precision 'int8' is computed by the processor: add --device cpu")
    remedy = f"try --batch-size {max(1, batch_size // 2)}, not {batch_size}"
    with (
        shared_cores(engine.device) as adapt_threads,
        out_of_memory_as_error(engine.device, remedy),
    ):
        forward = _int8_forward(model) if int8 else None
        scorer = _Scorer(model, engine, forward, least, reweighted, gate=gate, coverage=coverage)
        # While one batch is in the forward pass, the next two are decoded.
        decoded = decode_ahead(files, model.config.preprocessing, window=2 * batch_size, check=True)
        while batch := list(islice(decoded, batch_size)):
            yield scorer.rows(batch)
            adapt_threads()


def _int8_forward(model: LoadedModel) -> Forward:
    from pneumonia.prediction.int8 import int8_forward  # its imports take a second

    return int8_forward(model)


def reweight(model: LoadedModel, probability: float, *, prevalence: float | None) -> float:
    """A probability of a model, or its threshold, at a stated prevalence; None changes nothing.

    Raises:
        UsageError: The prevalence is not between 0 and 1.
    """
    if prevalence is None:
        return probability
    if not 0 < prevalence < 1:
        raise UsageError(
            f"prevalence = {prevalence} is out of range: give more than 0, less than 1"
        )
    if probability in (0, 1):  # a threshold that all images pass, or none
        return probability
    fitted_at = model.config.prevalence
    return float(at_prevalence(np.array(probability), fitted_at, prevalence))


def gate_column(*, gate: bool) -> str:
    """What the column ``gate`` says."""
    return "on" if gate else "off"


class _Scorer:
    """From decoded files to their rows."""

    def __init__(
        self,
        model: LoadedModel,
        engine: Engine,
        int8: Forward | None,
        threshold: float,
        reweighted: Callable[[float], float],
        *,
        gate: bool,
        coverage: float | None,
    ) -> None:
        self.reweighted = reweighted
        self.coverage = coverage
        self.calibration = model.config.calibration
        self.gate = model.gate if gate else None
        self.checked = gate
        self.threshold = threshold
        self.class_names = model.config.class_names
        self.predictor = Predictor(
            model.network, threshold, engine, model.config.scaling, self.gate, int8
        )
        self.constant = {
            "label": "",
            "probability": None,
            "threshold": reweighted(threshold),
            "gate": gate_column(gate=gate),
            "coverage": coverage,
            "status": "ok",
            "reason": "",
            "model": model.uri,
            "run": model.run_id or "",
            "temperature": model.config.temperature,
            "intercept": model.config.intercept,
            "version": __version__,
        }

    def rows(self, batch: Sequence[DecodedFile]) -> list[Row]:
        """The rows of files, in order."""
        rows = [self._row(file) for file in batch]
        images = [file.grey for file in batch if file.grey is not None]
        if not images:
            return rows
        grey = torch.from_numpy(np.stack(images))  # (B, H, W)
        probabilities, distance = self.predictor.score(grey)
        nothing = [""] * len(images)
        rejected, warned = self.gate.reasons(grey, distance) if self.gate else (nothing, nothing)
        found = zip(probabilities.tolist(), rejected, warned, strict=True)
        for row in (row for row in rows if row["status"] != "error"):
            probability, against, warning = next(found)
            if row["status"] == "rejected" or against:
                row |= {"status": "rejected", "reason": row["reason"] or against}
                continue
            label = decide(probability, self.threshold)
            row |= {"probability": self.reweighted(probability), "label": self.class_names[label]}
            if not self._decided(probability, label):
                reason = f"no one class at coverage {self.coverage:g}"
                row |= {"label": "", "status": "undecided", "reason": reason}
            elif warning:
                row |= {"status": "warning", "reason": warning}
        return rows

    def _decided(self, probability: float, label: int) -> bool:
        """Whether the label is the only class that the image may have."""
        if self.coverage is None:
            return True
        (possible,) = possible_classes(np.array([probability]), self.calibration, self.coverage)
        return bool(possible[label] and not possible[1 - label])

    def _row(self, file: DecodedFile) -> Row:
        values = {name: self.constant.get(name) for name in COLUMNS}
        row = values | {"path": str(file.file), "sha256": file.sha256}
        if file.grey is None:
            return row | {"status": "error", "reason": file.failure}
        if self.checked and file.reason:
            return row | {"status": "rejected", "reason": file.reason}
        return row
