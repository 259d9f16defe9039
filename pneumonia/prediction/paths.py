"""The image files that a user names: in folders, archives, at URLs, or in a list."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from pneumonia.data.decode_ahead import File
from pneumonia.data.folders import walk_images
from pneumonia.errors import DataError
from pneumonia.prediction.archives import Archive, archive_kind
from pneumonia.prediction.remote import RemoteFile, copy_of, files_at, is_url

STDIN = "-"
"""The argument that asks for paths from standard input."""

_BYTE_ORDER_MARK = "\ufeff"


def find_paths(
    arguments: Iterable[str | Path], stdin: Iterable[str] = (), skipped: Counter[str] | None = None
) -> Iterator[File]:
    """Yield the image files named, those in folders and archives, and for ``-`` those listed.

    Args:
        arguments: Files, folders, zip and tar archives, URLs of such, or ``-``.
        stdin: Lines of the same, as ``listed_paths`` reads them.
        skipped: Counts by kind of the files in folders and archives that are no images, added to.

    Raises:
        DataError: Something named in ``arguments`` does not exist, an archive is damaged, or a
            server does not answer.
        UsageError: What reads such URLs is not installed.
    """
    named = [str(argument) for argument in arguments]
    for argument in named:
        if argument != STDIN and not is_url(argument) and not Path(argument).exists():
            raise DataError(f"no file or folder {argument!r}: check the path")
    return _paths(named, stdin, Counter() if skipped is None else skipped)


def file_named(name: str) -> File:
    """The file that a row names: a path, a URL, or a member of an archive.

    Raises:
        OSError: It is gone.
    """
    kind, _, rest = name.partition("://")
    member, inside, archive = rest.partition("::")
    if inside and kind in ("zip", "tar"):
        try:
            return _archive(archive).member(member)
        except DataError as error:
            raise OSError(str(error)) from None
    return RemoteFile(name) if is_url(name) else Path(name)


def listed_paths(lines: Iterable[str]) -> Iterator[str]:
    """Read a list of paths, as ``ls``, ``find``, ``find -print0`` or Windows programs write it.

    One path a line, or separated by zero bytes. A byte-order mark is left out. A carriage return
    at the end and quotes around a path are left out too, unless a file of that very name exists.
    """
    zero_separated, rest = False, ""
    for number, raw in enumerate(lines):
        line = raw.removeprefix(_BYTE_ORDER_MARK) if number == 0 else raw
        zero_separated = zero_separated or "\0" in line
        if zero_separated:
            *whole, rest = f"{rest}{line}".split("\0")
            yield from filter(None, whole)
        elif name := line.removesuffix("\n"):
            yield from _listed(name)
    if rest.strip():
        yield rest.removesuffix("\n")


def _listed(name: str) -> Iterator[str]:
    plain = name.removesuffix("\r")
    if plain != name and Path(name).exists():
        yield name
        return
    quoted = len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'"
    if quoted and not Path(plain).exists():
        plain = plain[1:-1]
    if plain.strip():
        yield plain


def _paths(arguments: list[str], stdin: Iterable[str], skipped: Counter[str]) -> Iterator[File]:
    for argument in arguments:
        if argument == STDIN:
            for path in listed_paths(stdin):
                yield from _at(path, skipped)
        elif not is_url(argument) and Path(argument).is_dir():
            yield from walk_images(Path(argument), skipped)
        else:
            yield from _at(argument, skipped)


def _at(name: str, skipped: Counter[str]) -> Iterator[File]:
    """The images of one file, URL or archive."""
    if name.startswith(("zip://", "tar://")):
        yield file_named(name)
    elif archive_kind(name):
        yield from _archive(name).members(skipped)
    elif is_url(name):
        yield from files_at(name, skipped)
    else:
        yield Path(name)


@lru_cache(maxsize=1)  # a worklist shows members of the archive that is being read
def _archive(where: str) -> Archive:
    if is_url(where):
        return Archive(where, copy_of(where))
    try:
        return Archive(where, Path(where).open("rb"))
    except OSError as error:
        raise DataError(f"cannot read the archive {where!r}: {error.strerror}") from None
