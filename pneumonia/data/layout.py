"""Where a data set's folders are: the set itself, its parts, and its classes."""

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pneumonia.config.data import PART_NAMES
from pneumonia.data.file_types import SKIPPED_FOLDERS
from pneumonia.errors import DataError, nearest

log = logging.getLogger(__name__)

_DEPTH = 3
"""How many folders down a data set is looked for."""


def data_set_root(folder: Path, class_names: tuple[str, str]) -> Path:
    """Find the data set in a folder: the folder itself, or the only data set below it.

    A data set is a folder that holds a class folder, or one of ``train``, ``val`` and ``test``
    with a class folder. Archives often unpack to one such folder within another, beside hidden
    files and ``__MACOSX``.

    Args:
        folder: The folder that the user named.
        class_names: The negative and the positive class.

    Returns:
        The data set; ``folder`` where there is none, for the errors to be about that.

    Raises:
        DataError: There is no such folder, it cannot be read, or it holds several data sets.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {str(folder)!r}: give the folder that holds the images, and to "
            "'mlflow run', which works in the project's folder, its absolute path"
        )
    if _is_data_set(folder, class_names):
        return folder
    below = list(_data_sets_below(folder, class_names, _DEPTH))
    if len(below) > 1:
        listed = ", ".join(repr(str(path.relative_to(folder))) for path in below[:5])
        raise DataError(
            f"folder {str(folder)!r} holds {len(below)} data sets ({listed}): name one of them"
        )
    if not below:
        return folder
    log.info("using %s: it is the only data set in %s", below[0], folder)
    return below[0]


def part_folders(root: Path) -> dict[str, Path]:
    """Map ``train``, ``val`` and ``test`` to their folders, as far as they exist.

    Names match in any case, and ``training``, ``valid``, ``validation`` and ``testing`` are
    recognised.

    Raises:
        DataError: ``root`` cannot be read, or two folders are for one part.
    """
    found = {part: _only_folder(root, known_as) for part, known_as in PART_NAMES.items()}
    return {part: folder for part, folder in found.items() if folder is not None}


def class_folders(folder: Path, class_names: tuple[str, str]) -> tuple[Path, Path]:
    """The folders of the negative and the positive class; names match in any case.

    Raises:
        DataError: One is missing, two are for one class, or ``folder`` cannot be read.
    """
    negative, positive = (_only_folder(folder, (name,)) for name in class_names)
    if negative is None or positive is None:
        raise _missing_class(folder, class_names[0 if negative is None else 1])
    return negative, positive


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def cannot_read(folder: Path, error: OSError) -> DataError:
    """The error for a folder that cannot be listed."""
    return DataError(
        f"cannot read folder {str(folder)!r}: {error.strerror}; make it readable, or move it away"
    )


def _is_data_set(folder: Path, class_names: tuple[str, str]) -> bool:
    wanted = {_same_name(name) for name in class_names}
    folders = (folder, *part_folders(folder).values())
    return any(wanted & {_same_name(name) for name in _subfolders(each)} for each in folders)


def _data_sets_below(folder: Path, class_names: tuple[str, str], depth: int) -> Iterator[Path]:
    for name, path in sorted(_subfolders(folder).items()):
        if name.startswith(".") or name.casefold() in SKIPPED_FOLDERS or path.is_symlink():
            continue
        if _is_data_set(path, class_names):
            yield path
        elif depth > 1:
            yield from _data_sets_below(path, class_names, depth - 1)


def _only_folder(root: Path, known_as: tuple[str, ...]) -> Path | None:
    """The one folder in ``root`` that has any of these names, in any case."""
    wanted = {_same_name(name) for name in known_as}
    subfolders = sorted(_subfolders(root).items())
    present = [path for name, path in subfolders if _same_name(name) in wanted]
    if len(present) > 1:
        raise DataError(
            f"folders {present[0].name!r} and {present[1].name!r} in {str(root)!r} are both for "
            f"{known_as[0]!r}: merge them, or rename one"
        )
    return present[0] if present else None


def _same_name(name: str) -> str:
    """Equal for names that differ only in case, or in how Unicode composes their letters."""
    return unicodedata.normalize("NFC", name).casefold()


def _subfolders(folder: Path) -> dict[str, Path]:
    try:
        return {entry.name: Path(entry.path) for entry in os.scandir(folder) if is_folder(entry)}
    except OSError as error:
        raise cannot_read(folder, error) from None


def _missing_class(folder: Path, name: str) -> DataError:
    folders = sorted(_subfolders(folder))
    if not folders:
        files = sum(not entry.name.startswith(".") for entry in os.scandir(folder))
        return DataError(
            f"folder {str(folder)!r} has {files:,} files but no class folders, so its images have "
            "no labels: sort them into folders of their classes, or leave the folder out with "
            "--train-folders, --validation-folders or --test-folders"
        )
    return DataError(
        f"no class folder {name!r} in {str(folder)!r} (it holds {', '.join(folders[:5])}; "
        f"{nearest(name, folders)}) Both classes are needed: name their folders with "
        "--classes NEGATIVE,POSITIVE"
    )
