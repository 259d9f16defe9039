"""What the doctor finds: remarks, and issues that it can fix."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pneumonia.errors import PneumoniaError


class Mark(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"
    LEFT = "left"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to tell, which the doctor does not fix."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Issue:
    """Something that a dead process left behind.

    Attributes:
        text: What it is, in one line.
        remedy: What ``fix`` would do, in a few words.
        fix: Fixes it unless a process uses it by now, and returns what was done, in a few words.
            Raises PneumoniaError or OSError where that fails.
    """

    text: str
    remedy: str
    fix: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Section:
    """What was found in one part of the examination."""

    title: str
    found: Sequence[Remark | Issue]

    def remarks(self, *, fix: bool) -> Iterator[Remark]:
        """Each finding as a remark; with ``fix``, issues are fixed on the way."""
        for finding in self.found:
            if isinstance(finding, Remark):
                yield finding
            elif not fix:
                yield Remark(Mark.LEFT, f"{finding.text}; --fix: {finding.remedy}")
            else:
                yield _fixed(finding)


def _fixed(issue: Issue) -> Remark:
    try:
        return Remark(Mark.FIXED, f"{issue.text}; {issue.fix()}")
    except (PneumoniaError, OSError) as error:
        return Remark(Mark.LEFT, f"{issue.text}; not fixed: {error}")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    total = 0
    for file in (path, *path.rglob("*")):
        try:
            total += 0 if file.is_dir() else file.stat().st_size
        except OSError:  # removed in the meantime
            continue
    return total


def format_size(size: float) -> str:
    """Bytes in few characters: ``43.1 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
