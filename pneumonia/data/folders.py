"""Finding the images of a data set, and the class each folder says they are of."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.config.data import PART_NAMES
from pneumonia.data.patients import Patient, compile_pattern, patient_of
from pneumonia.errors import DataError, nearest

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})


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
    """

    path: Path
    part: str
    label: int
    patient: Patient
    digest: str


@dataclass(slots=True)
class Found:
    """The images of a data set, and what was passed over on the way."""

    images: list[ImageFile]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> set[str]:
        """The folders that hold images; ``{""}`` in a flat data set."""
        return {image.part for image in self.images}


def part_folders(root: Path) -> dict[str, Path]:
    """Map ``train``, ``val`` and ``test`` to the folders of these, as far as they exist.

    Raises:
        DataError: ``root`` cannot be read, or holds two folders for one of them.
    """
    folders: dict[str, Path] = {}
    for part, known_as in PART_NAMES.items():
        present = list(_subfolders(root, known_as).values())
        if len(present) > 1:
            raise DataError(
                f"folders {present[0].name!r} and {present[1].name!r} in {str(root)!r} are both "
                f"for {part!r}: rename or merge one of them"
            )
        if present:
            folders[part] = present[0]
    return folders


def find_images(
    root: Path,
    class_names: tuple[str, str],
    patient_pattern: str = "",
    only: str | None = None,
) -> Found:
    """Find every labelled image under ``root``, with its patient and a digest of its content.

    ``root`` holds ``train``, ``val`` and ``test`` (any may be missing), each with one folder a
    class, or it holds the two class folders itself. Folder names match in any case, and
    ``training``, ``valid``, ``validation`` and ``testing`` are recognised.

    Args:
        root: The data set.
        class_names: The negative and the positive class.
        patient_pattern: A regular expression with a ``patient`` group, or empty.
        only: ``train``, ``val`` or ``test`` to leave the other folders unread.

    Raises:
        DataError: There is no such folder, or it holds no images of one of the classes.
        UsageError: ``patient_pattern`` is no usable pattern.
    """
    pattern = compile_pattern(patient_pattern) if patient_pattern else None
    if not root.is_dir():
        raise DataError(f"no folder {str(root)!r}: give the folder that holds the images")
    parts = part_folders(root) or {"": root}
    if only is not None and "" not in parts:
        parts = {part: folder for part, folder in parts.items() if part == only}
    skipped: Counter[str] = Counter()
    labelled: list[tuple[str, int, Path]] = []
    for part, folder in parts.items():
        classes = _subfolders(folder, class_names)
        for label, name in enumerate(class_names):
            if name not in classes:
                raise _missing_class(folder, name)
            files = list(walk_images(classes[name], skipped))
            if not files:
                raise DataError(
                    f"class folder {str(classes[name])!r} holds no JPEG or PNG image: "
                    "put the images of this class there"
                )
            labelled += [(part, label, file) for file in files]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        digests = threads.map(_digest, (file for _, _, file in labelled))
        images = [
            ImageFile(
                file,
                part,
                label,
                patient_of(file.relative_to(root).as_posix(), str(file), pattern),
                digest,
            )
            for (part, label, file), digest in zip(labelled, digests, strict=True)
        ]
    return Found(images, skipped)


def walk_images(folder: Path, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files under a folder in sorted order, following links but never in circles.

    Args:
        folder: Where to start.
        skipped: Counts of hidden and other files, added to.

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
        raise _closed(folder, error) from None
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            skipped["hidden"] += 1
        elif _is_folder(entry):
            yield from _walk(path, skipped, ancestors | {real})
        elif path.suffix.lower() in IMAGE_ENDINGS:
            yield path
        else:
            skipped["not an image"] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _subfolders(folder: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """Map each wanted name to the folder so called in any case, in the order wanted."""
    try:
        present = {
            entry.name.casefold(): Path(entry.path)
            for entry in os.scandir(folder)
            if _is_folder(entry)
        }
    except OSError as error:
        raise _closed(folder, error) from None
    return {name: present[name.casefold()] for name in wanted if name.casefold() in present}


def _missing_class(folder: Path, name: str) -> DataError:
    folders = sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry))
    holds = f"it holds {', '.join(folders[:5])}; {nearest(name, folders)}" if folders else "empty"
    return DataError(
        f"no class folder {name!r} in {str(folder)!r} ({holds}) "
        "Name the two class folders with --classes NEGATIVE,POSITIVE"
    )


def _closed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot read folder {str(folder)!r}: {error.strerror}; make it readable, or move it away"
    )


def _digest(file: Path) -> str:
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        # Decoding meets the same error and makes it one of the unreadable images.
        return hashlib.blake2b(os.fsencode(file), digest_size=16).hexdigest()
