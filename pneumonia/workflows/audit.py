"""``pneumonia audit``: what in a data set would make results too good to be true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pneumonia.config.data import DataSettings
from pneumonia.data import summary
from pneumonia.data.cache import Progress, open_cache
from pneumonia.data.dataset import DataSet, images_of, load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.data.folders import ImageFile
from pneumonia.data.near_duplicates import Pair, near_duplicates
from pneumonia.data.properties import PROPERTIES, file_properties
from pneumonia.evaluation.intervals import Interval
from pneumonia.evaluation.shortcuts import predictive_auc

_PREPROCESSING = Preprocessing(80)

STRONG = 0.7
"""A property that tells the classes apart with an AUC of this is a shortcut to warn of."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a property of the files tells, with 95 % intervals by bootstrap over patients.

    Attributes:
        name: The property, or ``all of them``.
        label_auc: AUC of telling the classes apart, out of fold.
        label_interval: Its interval.
        test_auc: AUC of telling test images from training images, out of fold: the shift.
        test_interval: Its interval.
    """

    name: str
    label_auc: float
    label_interval: Interval
    test_auc: float
    test_interval: Interval

    @property
    def strong(self) -> bool:
        """Whether a network could do well by looking at it alone."""
        return self.label_interval[0] >= STRONG


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        report: Counts by role, and remarks.
        problems: What invalidates results, a sentence each.
        shortcuts: A row a property, and one of all together.
    """

    report: str
    problems: Sequence[str]
    shortcuts: Sequence[Shortcut]


def audit(settings: DataSettings, progress: Progress | None = None) -> Audit:
    """Look for what would make results on a data set wrong.

    Args:
        settings: The data, as ``train`` takes it.
        progress: Told what is done, and how many images of how many.

    Raises:
        DataError: There is no data set, or images are unreadable and not to be skipped.
    """
    lenient = settings.model_copy(
        update={"allow_leakage": True, "allow_conflicting_labels": True},
    )
    data = load_data_set(lenient, _PREPROCESSING, progress)
    files = [file for images in data.roles.values() for file in images]
    role_of = np.repeat(list(data.roles), [len(images) for images in data.roles.values()])
    images = images_of(files, open_cache(data.files, _PREPROCESSING))
    values = file_properties(images)
    shortcuts = [
        _shortcut(name, values[:, [column]], files, role_of)
        for column, name in enumerate(PROPERTIES)
    ]
    shortcuts.append(_shortcut("all of them", values, files, role_of))
    roles = {id(file): role for file, role in zip(files, role_of, strict=True)}
    pairs = [
        (pair, str(roles[id(pair.first)]), str(roles[id(pair.second)]))
        for pair in near_duplicates(images)
    ]
    return Audit(data.report(), _problems(data, pairs), shortcuts)


def _problems(data: DataSet, pairs: Sequence[tuple[Pair, str, str]]) -> list[str]:
    files = [file for images in data.roles.values() for file in images]
    found = [str(leakage) for leakage in summary.leakages(data.roles)]
    if conflicting := summary.conflicting_labels(files):
        found.append(f"{len(conflicting)} images are in both class folders with identical content")
    for pair, first_role, second_role in pairs:
        if first_role != second_role or pair.first.label != pair.second.label:
            found.append(
                f"{pair.first.path} ({first_role}) and {pair.second.path} ({second_role}) show "
                f"almost the same picture (correlation {pair.correlation:.3f})"
            )
    return found


def _shortcut(
    name: str, values: np.ndarray, files: Sequence[ImageFile], role_of: np.ndarray
) -> Shortcut:
    truth = np.array([file.label for file in files])
    patients = [file.patient.key for file in files]
    label_auc, label_interval = predictive_auc(values, truth, patients)
    kept = np.flatnonzero(np.isin(role_of, ("train", "test")))
    test_auc, test_interval = predictive_auc(
        values[kept],
        (role_of[kept] == "test").astype(np.int64),
        [patients[position] for position in kept],
    )
    return Shortcut(name, label_auc, label_interval, test_auc, test_interval)
