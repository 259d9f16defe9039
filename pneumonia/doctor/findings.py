"""What the doctor finds: remarks, and leftovers that can mend themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    MENDED = "mended"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to tell, which the doctor does not mend."""

    mark: Mark
    text: str


class Leftover(ABC):
    """Something that a dead process left behind."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What it is, in one line."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What mending does, in a few words."""

    @abstractmethod
    def mend(self) -> str:
        """Mend it, unless somebody works on it by now.

        Returns:
            What was done, in a few words.

        Raises:
            PneumoniaError, OSError: It could not be done.
        """


@dataclass(frozen=True, slots=True)
class Section:
    """What was found in one place."""

    title: str
    findings: Sequence[Remark | Leftover]

    def told(self, *, fix: bool) -> Iterator[Remark]:
        """Each finding as it is to be told; with ``fix``, leftovers are mended on the way."""
        for finding in self.findings:
            if isinstance(finding, Remark):
                yield finding
            elif not fix:
                yield Remark(Mark.LEFT, f"{finding.text}; --fix: {finding.remedy}")
            else:
                yield _mended(finding)


def _mended(leftover: Leftover) -> Remark:
    try:
        return Remark(Mark.MENDED, f"{leftover.text}; {leftover.mend()}")
    except (PneumoniaError, OSError) as error:
        return Remark(Mark.LEFT, f"{leftover.text}; not mended: {error}")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    total = 0
    for file in (path, *path.rglob("*")):
        try:
            total += 0 if file.is_dir() else file.stat().st_size
        except OSError:  # removed in the meantime
            continue
    return total


def in_words(size: float) -> str:
    """Bytes in few characters: ``43.1 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
