"""The image files that a user names: as arguments, in folders, or in a list on standard input."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumonia.data.folders import walk_images
from pneumonia.errors import DataError

STDIN = "-"
"""The argument that asks for paths from standard input."""

_BYTE_ORDER_MARK = "\ufeff"


def find_paths(
    arguments: Iterable[str | Path], stdin: Iterable[str] = (), skipped: Counter[str] | None = None
) -> Iterator[Path]:
    """Yield image files: those named, those in folders named, and for ``-`` those in ``stdin``.

    Args:
        arguments: Files, folders, or ``-``.
        stdin: Lines of paths, as ``listed_paths`` reads them.
        skipped: Counts by kind of the files in folders that are no images, added to.

    Raises:
        DataError: Something named in ``arguments`` does not exist.
    """
    named = [str(argument) for argument in arguments]
    for argument in named:
        if argument != STDIN and not Path(argument).exists():
            raise DataError(f"no file or folder {argument!r}: check the path")
    return _paths(named, stdin, Counter() if skipped is None else skipped)


def listed_paths(lines: Iterable[str]) -> Iterator[Path]:
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
            yield from (Path(name) for name in whole if name)
        elif name := line.removesuffix("\n"):
            yield from _listed(name)
    if rest.strip():
        yield Path(rest.removesuffix("\n"))


def _listed(name: str) -> Iterator[Path]:
    plain = name.removesuffix("\r")
    if plain != name and Path(name).exists():
        yield Path(name)
        return
    quoted = len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'"
    if quoted and not Path(plain).exists():
        plain = plain[1:-1]
    if plain.strip():
        yield Path(plain)


def _paths(arguments: list[str], stdin: Iterable[str], skipped: Counter[str]) -> Iterator[Path]:
    for argument in arguments:
        if argument == STDIN:
            yield from listed_paths(stdin)
        elif Path(argument).is_dir():
            yield from walk_images(Path(argument), skipped)
        else:
            yield Path(argument)
