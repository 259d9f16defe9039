"""Scored, labelled images as a CSV table, from which every metric can be computed again."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pneumonia.data.folders import ImageFile
from pneumonia.errors import DataError
from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.decide import decide

COLUMNS = ("path", "patient", "digest", "truth", "label", "probability", "threshold", "decision")
"""``label`` is 1 for the positive class; ``truth`` and ``decision`` are names of classes."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model said of labelled images.

    Attributes:
        paths: Where each image was (n).
        patients: Whom it shows (n).
        digests: Its content (n); equal for the same image in two tables.
        truth: 0 negative, 1 positive, int64 (n,).
        probability: Of the positive class, 0–1, float64 (n,).
        threshold: Lowest probability that was called positive.
        class_names: The negative and the positive class.
    """

    paths: Sequence[str]
    patients: Sequence[str]
    digests: Sequence[str]
    truth: Labels
    probability: Probabilities
    threshold: float
    class_names: tuple[str, str]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.paths)

    @property
    def decisions(self) -> Labels:
        """0 negative, 1 positive, int64 (n,)."""
        return decide(self.probability, self.threshold)

    def part(self, positions: Sequence[int]) -> "Predictions":
        """Some of the images, in the order of their positions."""
        return Predictions(
            [self.paths[i] for i in positions],
            [self.patients[i] for i in positions],
            [self.digests[i] for i in positions],
            self.truth[positions],
            self.probability[positions],
            self.threshold,
            self.class_names,
        )

    def rows(self) -> Iterator[list[str | int | float]]:
        """The values of ``COLUMNS``, an image at a time."""
        for position, decision in enumerate(self.decisions):
            label = int(self.truth[position])
            yield [
                self.paths[position],
                self.patients[position],
                self.digests[position],
                self.class_names[label],
                label,
                float(self.probability[position]),
                self.threshold,
                self.class_names[decision],
            ]

    def as_csv(self, **more: Sequence[str | int | float]) -> str:
        """The table, a row an image; ``more`` are columns at its end (n)."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *more])
        writer.writerows(
            [*row, *values] for row, *values in zip(self.rows(), *more.values(), strict=True)
        )
        return text.getvalue()


def predictions_of(
    files: Sequence[ImageFile],
    probability: Probabilities,
    threshold: float,
    class_names: tuple[str, str],
) -> Predictions:
    """Put labelled files and their probabilities (n,) together."""
    return Predictions(
        [str(file.path) for file in files],
        [file.patient.name for file in files],
        [file.digest for file in files],
        np.array([file.label for file in files], dtype=np.int64),
        probability,
        threshold,
        class_names,
    )


def read_predictions(text: str, where: str) -> Predictions:
    """Read a table as ``as_csv`` writes it.

    Args:
        text: The table.
        where: What to call it in errors.

    Raises:
        DataError: It is no such table.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise DataError(
            f"{where} is no table of predictions: it needs rows, and the columns "
            f"{', '.join(COLUMNS)}, as predictions_test.csv of a run has them"
        )
    try:
        labels = np.array([int(row["label"]) for row in rows], dtype=np.int64)
        probability = np.array([float(row["probability"]) for row in rows])
        threshold = {float(row["threshold"]) for row in rows}
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} has a value that is no number: {error}") from None
    if not ((probability >= 0) & (probability <= 1) & np.isin(labels, (0, 1))).all():
        raise DataError(f"{where} has a probability outside 0 to 1, or a label that is not 0 or 1")
    if len(threshold) > 1:
        raise DataError(f"{where} has several thresholds: it is of more than one model")
    named = {int(row["label"]): row["truth"] for row in rows}
    return Predictions(
        [row["path"] for row in rows],
        [row["patient"] for row in rows],
        [row["digest"] for row in rows],
        labels,
        probability,
        threshold.pop(),
        (named.get(0, "NEGATIVE"), named.get(1, "POSITIVE")),
    )
