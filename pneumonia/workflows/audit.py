"""``pneumonia audit``: what in a data set would make results too good to be true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pneumonia.config.data import DataSettings
from pneumonia.data import summary
from pneumonia.data.cache import Progress, open_cache
from pneumonia.data.dataset import DataSet, images_of, load_data_set
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.folders import ImageFile
from pneumonia.data.limits import UnreadableImageError
from pneumonia.data.near_duplicates import Pair, near_duplicates
from pneumonia.data.properties import PROPERTIES, file_properties
from pneumonia.errors import DataError
from pneumonia.evaluation.contact_sheet import SheetPair, contact_sheet
from pneumonia.evaluation.gallery import save_marked
from pneumonia.evaluation.intervals import Interval
from pneumonia.evaluation.shortcuts import STRONG, predictive_auc

_PREPROCESSING = Preprocessing(80)
_DRAWN = Preprocessing(240, "pad")
_SHOWN = 24


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


def audit(
    settings: DataSettings, progress: Progress | None = None, sheet: Path | None = None
) -> Audit:
    """Look for what would make results on a data set wrong.

    Args:
        settings: The data, as ``train`` takes it.
        progress: Told what is done, and how many images of how many.
        sheet: PNG file to draw images into that are there twice or almost so, in pairs.

    Raises:
        DataError: There is no data set, images are unreadable and not to be skipped, or the sheet
            cannot be written.
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
    roles = {id(file): str(role) for file, role in zip(files, role_of, strict=True)}
    alike = near_duplicates(images)
    if sheet is not None:
        _draw_pairs(sheet, data, [*_identical(files), *alike], roles)
    return Audit(data.report(), _problems(data, alike, roles), shortcuts)


def _problems(data: DataSet, pairs: Sequence[Pair], roles: Mapping[int, str]) -> list[str]:
    files = [file for images in data.roles.values() for file in images]
    found = [str(leakage) for leakage in summary.leakages(data.roles)]
    if conflicting := summary.conflicting_labels(files):
        found.append(f"{len(conflicting)} images are in both class folders with identical content")
    for pair in pairs:
        first_role, second_role = roles[id(pair.first)], roles[id(pair.second)]
        if _is_wrong(pair, roles):
            found.append(
                f"{pair.first.path} ({first_role}) and {pair.second.path} ({second_role}) show "
                f"almost the same picture (correlation {pair.correlation:.3f})"
            )
    return found


def _is_wrong(pair: Pair, roles: Mapping[int, str]) -> bool:
    """Whether a pair makes results wrong: its images have two roles or two classes."""
    of_roles = roles[id(pair.first)] != roles[id(pair.second)]
    return of_roles or pair.first.label != pair.second.label


def _identical(files: Sequence[ImageFile]) -> list[Pair]:
    """Each file with the first one of the same content."""
    first: dict[str, ImageFile] = {}
    pairs = []
    for file in files:
        known = first.setdefault(file.digest, file)
        if known is not file:
            pairs.append(Pair(known, file, 1.0))
    return pairs


def _draw_pairs(
    target: Path, data: DataSet, pairs: Sequence[Pair], roles: Mapping[int, str]
) -> None:
    """Draw the pairs that make results wrong first, and as many of the others as there is room."""
    names = data.settings.class_names
    order = sorted(pairs, key=lambda pair: (not _is_wrong(pair, roles), -pair.correlation))
    shown = order[:_SHOWN]
    drawn = []
    for pair in shown:
        both = (pair.first, pair.second)
        try:
            first, second = (decode(file.path.read_bytes(), _DRAWN) for file in both)
        except (OSError, UnreadableImageError) as error:
            raise DataError(f"cannot draw {str(pair.first.path)!r}: {error}") from None
        places = [f"{roles[id(file)]}, {names[file.label]}" for file in both]
        drawn.append(
            SheetPair(
                (first, second),
                (pair.first.path.name, pair.second.path.name),
                (places[0], places[1]),
                pair.correlation,
                _is_wrong(pair, roles),
            )
        )
    title = f"{data.name}: {len(drawn)} of {len(pairs):,} pairs of files that show one picture"
    save_marked(contact_sheet(drawn, title=title), target)


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
