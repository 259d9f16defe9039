"""``pneumonia audit``: what in a data set would make results too good to be true."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pneumonia.config.data import DataSettings
from pneumonia.data import summary
from pneumonia.data.cache import open_cache
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
from pneumonia.progress import Progress

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
class Alike:
    """Two files that show one picture.

    Attributes:
        pair: The files.
        roles: The role of each.
    """

    pair: Pair
    roles: tuple[str, str]

    @property
    def wrong(self) -> bool:
        """Whether it makes results wrong: the files have two roles or two classes."""
        return self.roles[0] != self.roles[1] or self.pair.first.label != self.pair.second.label


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        data: The data set.
        problems: What invalidates results, a sentence each.
        shortcuts: A row a property, and one of all together.
        alike: Files of the same content, and of almost the same.
    """

    data: DataSet
    problems: Sequence[str]
    shortcuts: Sequence[Shortcut]
    alike: Sequence[Alike]


def audit(settings: DataSettings, progress: Progress | None = None) -> Audit:
    """Look for what would make results on a data set wrong.

    Args:
        settings: The data, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.

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
    roles = {id(file): str(role) for file, role in zip(files, role_of, strict=True)}

    def with_roles(pairs: Sequence[Pair]) -> list[Alike]:
        return [Alike(pair, (roles[id(pair.first)], roles[id(pair.second)])) for pair in pairs]

    almost = with_roles(near_duplicates(images))
    alike = [*with_roles(_identical(files)), *almost]
    return Audit(data, _problems(data, almost), shortcuts, alike)


def _problems(data: DataSet, almost: Sequence[Alike]) -> list[str]:
    files = [file for images in data.roles.values() for file in images]
    found = [str(leakage) for leakage in summary.leakages(data.roles)]
    if conflicting := summary.conflicting_labels(files):
        found.append(f"{len(conflicting)} images are in both class folders with identical content")
    for alike in almost:
        if alike.wrong:
            first, second = alike.pair.first.path, alike.pair.second.path
            found.append(
                f"{first} ({alike.roles[0]}) and {second} ({alike.roles[1]}) show almost the same "
                f"picture (correlation {alike.pair.correlation:.3f})"
            )
    return found


def _identical(files: Sequence[ImageFile]) -> list[Pair]:
    """Each file with the first one of the same content."""
    first: dict[str, ImageFile] = {}
    pairs = []
    for file in files:
        known = first.setdefault(file.digest, file)
        if known is not file:
            pairs.append(Pair(known, file, 1.0))
    return pairs


def draw_alike(found: Audit, target: Path) -> None:
    """Draw files that show one picture in pairs, as many as there is room for.

    Args:
        found: What an audit found; pairs that make results wrong come first.
        target: PNG file to write.

    Raises:
        DataError: A file of a pair cannot be read any more, or the sheet cannot be written.
    """
    names = found.data.settings.class_names
    order = sorted(found.alike, key=lambda alike: (not alike.wrong, -alike.pair.correlation))
    drawn = []
    for alike in order[:_SHOWN]:
        pair = alike.pair
        both = (pair.first, pair.second)
        try:
            first, second = (decode(file.path.read_bytes(), _DRAWN) for file in both)
        except (OSError, UnreadableImageError) as error:
            raise DataError(f"cannot draw {str(pair.first.path)!r}: {error}") from None
        groups = [
            f"{role}, {names[file.label]}" for role, file in zip(alike.roles, both, strict=True)
        ]
        drawn.append(
            SheetPair(
                (first, second),
                (pair.first.path.name, pair.second.path.name),
                (groups[0], groups[1]),
                pair.correlation,
                alike.wrong,
            )
        )
    pairs = f"{len(drawn)} of {len(found.alike):,} pairs of files"
    title = f"{found.data.name}: {pairs} that show one picture"
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
