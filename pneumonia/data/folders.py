"""Finding the images of a data set, and the class each folder says they are of."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pneumonia.data.contents import read_contents
from pneumonia.data.file_types import SKIPPED_FOLDERS, why_skipped
from pneumonia.data.layout import cannot_read, class_folders, is_folder, part_folders
from pneumonia.data.patients import Patient, compile_pattern, identified_patient, patient_of
from pneumonia.errors import DataError


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One labelled image file.

    Attributes:
        path: Where it is.
        part: The folder it came from (``train``, ``val``, ``test``), or empty in a flat data set.
        label: 0 for the negative class, 1 for the positive class.
        patient: Who it shows.
        digest: Hexadecimal BLAKE2b of its content, or of its path where that cannot be read;
            128 bits.
        attributes: What else a table of labels or a DICOM header says of it, such as the patient's
            age.
    """

    path: Path
    part: str
    label: int
    patient: Patient
    digest: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(slots=True)
class Found:
    """The images of a data set, and counts by kind of what was skipped on the way."""

    images: list[ImageFile]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> set[str]:
        """The folders that hold images; ``{""}`` in a flat data set."""
        return {image.part for image in self.images}


def find_images(
    root: Path,
    class_names: tuple[str, str],
    patient_pattern: str = "",
    only: Collection[str] | None = None,
    *,
    keep_identifiers: bool = False,
) -> Found:
    """Find every labelled image under ``root``, with its patient and a digest of its content.

    ``root`` holds ``train``, ``val`` and ``test`` (any may be missing), each with one folder a
    class, or it holds the two class folders itself.

    Args:
        root: The data set, as ``data_set_root`` finds it.
        class_names: The negative and the positive class.
        patient_pattern: A regular expression with a ``patient`` group, or empty.
        only: Which of ``train``, ``val`` and ``test`` to read; by default all.
        keep_identifiers: As ``identified_patient`` takes it.

    Raises:
        DataError: There is no such folder, or it holds no images of one of the classes.
        UsageError: ``patient_pattern`` is no usable pattern.
    """
    pattern = compile_pattern(patient_pattern) if patient_pattern else None
    parts = part_folders(root) or {"": root}
    if only is not None and "" not in parts:
        parts = {part: folder for part, folder in parts.items() if part in only}
    skipped: Counter[str] = Counter()
    labelled: list[tuple[str, int, Path]] = []
    for part, folder in parts.items():
        for label, class_folder in enumerate(class_folders(folder, class_names)):
            files = list(walk_images(class_folder, skipped))
            if not files:
                raise DataError(
                    f"class folder {str(class_folder)!r} holds no image: "
                    f"put the images of this class there{_not_used(skipped)}"
                )
            labelled += [(part, label, file) for file in files]
            tell = partial(_patient, root=root, pattern=pattern)
            _refuse_same_names(class_folder, files, tell)
    patients = [_patient(file, root, pattern) for _, _, file in labelled]
    known = [patient if patient.known or pattern else None for patient in patients]
    return Found(image_files(labelled, known, keep_identifiers=keep_identifiers), skipped)


def image_files(
    labelled: Sequence[tuple[str, int, Path]],
    patients: Sequence[Patient | None],
    *,
    keep_identifiers: bool,
) -> list[ImageFile]:
    """Read files, and say what each is.

    Args:
        labelled: The part, the label and the path of each.
        patients: Whom each shows; None takes the PatientID of a DICOM file, and every other file
            for a patient of its own.
        keep_identifiers: As ``identified_patient`` takes it.
    """
    own_patient = partial(_own_patient, keep=keep_identifiers)
    contents = read_contents([file for _, _, file in labelled])
    return [
        ImageFile(
            file,
            part,
            label,
            patient or own_patient(file, content.patient),
            content.digest,
            content.attributes,
        )
        for (part, label, file), patient, content in zip(labelled, patients, contents, strict=True)
    ]


def describe_skipped(skipped: Counter[str]) -> str:
    """Counts of skipped files in words: ``12 .dcm, 1 hidden``."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(skipped.items()))


def _not_used(skipped: Counter[str]) -> str:
    return f" (skipped: {describe_skipped(skipped)})" if skipped else ""


def walk_images(folder: Path, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files under a folder in sorted order, following links but never in circles.

    Args:
        folder: Where to start.
        skipped: Counts by kind of what is not used, added to: files as ``why_skipped`` calls
            them, hidden files, and folders that hold no X-rays by their name.

    Raises:
        DataError: A folder cannot be read.
    """
    counts: Counter[str] = Counter() if skipped is None else skipped
    yield from _walk(folder, counts, ancestors=frozenset())


def _walk(folder: Path, skipped: Counter[str], ancestors: frozenset[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in ancestors:
        skipped["links in a circle"] += 1
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise cannot_read(folder, error) from None
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            skipped["hidden"] += 1
        elif is_folder(entry):
            if entry.name.casefold() in SKIPPED_FOLDERS:
                skipped[f"{entry.name} folder"] += 1
            else:
                yield from _walk(path, skipped, ancestors | {real})
        elif reason := why_skipped(path):
            skipped[reason] += 1
        else:
            yield path


def _own_patient(file: Path, identifier: str, *, keep: bool) -> Patient:
    if identifier:
        return identified_patient(identifier, keep=keep)
    return Patient(str(file), None, known=False)


def _patient(file: Path, root: Path, pattern: re.Pattern[str] | None) -> Patient:
    return patient_of(file.relative_to(root).as_posix(), str(file), pattern)


def _refuse_same_names(
    class_folder: Path, files: Sequence[Path], patient: Callable[[Path], Patient]
) -> None:
    """Refuse files of one name in sibling folders, such as ``images/`` and ``masks/``.

    Where their paths tell two patients they are two X-rays.
    """
    first: dict[tuple[Path, str], Path] = {}
    for file in files:
        if file.parent == class_folder:
            continue
        other = first.setdefault((file.parent.parent, file.stem.casefold()), file)
        if other.parent == file.parent:
            continue
        one, two = patient(other), patient(file)
        if not (one.known and two.known and one.key != two.key):
            raise DataError(
                f"{str(other)!r} and {str(file)!r} have one name: move away the folder that holds "
                "no X-rays, such as masks; where the folders are patients, tell them apart with "
                "--patient-pattern"
            )
