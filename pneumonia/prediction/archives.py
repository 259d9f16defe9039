"""Image files in zip and tar archives, read without unpacking."""

import bz2
import gzip
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Lock
from typing import IO, Any, cast

from pneumonia.data.file_types import BYTES_TO_LOOK_AT, SKIPPED_FOLDERS, why_skipped_content
from pneumonia.errors import DataError

LARGEST_FILE = 300_000_000
"""Bytes of the largest file that is read; an image of the most pixels needs half as many."""

_LARGEST_RATIO = 200
"""How many times its own size a compressed tar archive may have when it is unpacked. X-rays have
1 to 3 times, and uncompressed blank ones up to 100."""

_COMPRESSIONS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression of zip that Python does not know
    RuntimeError,  # an encrypted member
    ValueError,
)


def archive_kind(name: str) -> str:
    """``zip`` or ``tar`` by a file's name; empty where it is no archive."""
    endings = [ending.lower() for ending in PurePosixPath(name).suffixes[-2:]]
    if not endings:
        return ""
    if endings[-1] == ".zip":
        return "zip"
    if endings[-1] in (".tar", ".tgz", ".tbz2", ".txz"):
        return "tar"
    return "tar" if endings[0] == ".tar" and endings[-1] in _COMPRESSIONS else ""


class Archive:
    """An open archive, of which any member can be read by any thread."""

    def __init__(self, where: str, file: IO[bytes]) -> None:
        """Open an archive.

        A compressed tar archive is unpacked to one temporary file, since its members cannot be
        read out of order.

        Args:
            where: Its path or URL.
            file: Its content, which can be read from any position.

        Raises:
            DataError: It is damaged, or unpacks to very much more than its size.
        """
        self.where = where
        self.kind = archive_kind(where)
        self._lock = Lock()
        try:
            if self.kind == "zip":
                self._opened: zipfile.ZipFile | tarfile.TarFile = zipfile.ZipFile(file)
            else:
                plain = _uncompressed(file, PurePosixPath(where).suffix.lower(), where)
                self._opened = tarfile.TarFile(fileobj=plain)
        except (*_DAMAGE, OSError) as error:
            raise DataError(f"cannot read the archive {where!r}: {_reason(error)}") from None

    def members(self, skipped: Counter[str]) -> Iterator["Member"]:
        """Yield the images, in the order of the archive.

        Args:
            skipped: Counts by kind of the files that are no images, added to, as ``walk_images``
                does.

        Raises:
            DataError: The archive is damaged.
        """
        for entry in self._entries():
            member = Member(self, entry)
            *folders, name = PurePosixPath(member.name).parts or ("",)
            unused = [folder for folder in folders if folder.casefold() in SKIPPED_FOLDERS]
            if unused:
                skipped[f"{unused[0]} folder"] += 1
            elif any(part.startswith(".") and part != ".." for part in (*folders, name)):
                skipped["hidden"] += 1
            elif reason := why_skipped_content(name, member.start):
                skipped[reason] += 1
            else:
                yield member

    def member(self, name: str) -> "Member":
        """The member of a name.

        Raises:
            FileNotFoundError: There is none.
        """
        opened = self._opened
        try:
            if isinstance(opened, zipfile.ZipFile):
                return Member(self, opened.getinfo(name))
            with self._lock:
                return Member(self, opened.getmember(name))
        except KeyError:
            raise FileNotFoundError(f"no {name!r} in {self.where!r}") from None

    def read(self, entry: zipfile.ZipInfo | tarfile.TarInfo, size: int) -> bytes:
        """Read up to a number of bytes of a member.

        Raises:
            OSError: It is damaged or encrypted.
        """
        try:
            with self._lock, self._open(entry) as file:
                return file.read(size)
        except _DAMAGE as error:
            raise OSError(f"cannot be read from the archive: {_reason(error)}") from None

    def _open(self, entry: zipfile.ZipInfo | tarfile.TarInfo) -> IO[bytes]:
        if isinstance(self._opened, zipfile.ZipFile):
            return self._opened.open(cast("zipfile.ZipInfo", entry))
        file = self._opened.extractfile(cast("tarfile.TarInfo", entry))
        if file is None:
            raise tarfile.ReadError("no regular file")
        return file

    def _entries(self) -> Iterator[zipfile.ZipInfo | tarfile.TarInfo]:
        opened = self._opened
        if isinstance(opened, zipfile.ZipFile):
            yield from (entry for entry in opened.infolist() if not entry.is_dir())
            return
        try:
            # Not iterated: another thread that reads moves the position of the file.
            with self._lock:
                entries = opened.getmembers()
        except (*_DAMAGE, OSError) as error:
            raise DataError(f"cannot read the archive {self.where!r}: {_reason(error)}") from None
        yield from (entry for entry in entries if entry.isfile())


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; its name is the URL that fsspec opens.

    Attributes:
        archive: The archive.
        entry: What the archive says of it.
    """

    archive: Archive
    entry: zipfile.ZipInfo | tarfile.TarInfo

    @property
    def name(self) -> str:
        """Its path within the archive."""
        if isinstance(self.entry, zipfile.ZipInfo):
            return self.entry.filename
        return self.entry.name

    def __str__(self) -> str:
        """Name it, as ``zip://NORMAL/1.png::/data/chest_xray.zip``."""
        return f"{self.archive.kind}://{self.name}::{self.archive.where}"

    def start(self) -> bytes:
        """Its first bytes, as many as tell what it is; none where it is damaged."""
        try:
            return self.archive.read(self.entry, BYTES_TO_LOOK_AT)
        except OSError:
            return b""

    def read_bytes(self) -> bytes:
        """Read all.

        Raises:
            OSError: It is damaged, encrypted or too large.
        """
        entry = self.entry
        said = entry.file_size if isinstance(entry, zipfile.ZipInfo) else entry.size
        check_file_size(said)  # no more than that is read
        return self.archive.read(entry, LARGEST_FILE)


def check_file_size(size: int) -> None:
    """Refuse a file that has more bytes than any image.

    Raises:
        OSError: It has more than ``LARGEST_FILE`` bytes.
    """
    if size > LARGEST_FILE:
        raise OSError(f"has more than {LARGEST_FILE // 10**6} MB, over any image's size")


def _uncompressed(file: IO[bytes], ending: str, where: str) -> IO[bytes]:
    if ending not in _COMPRESSIONS:
        return file
    size = file.seek(0, 2)
    file.seek(0)
    plain: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the archive
    with _COMPRESSIONS[ending](file) as compressed:
        while block := compressed.read(2**20):
            plain.write(block)
            if plain.tell() > _LARGEST_RATIO * size + 2**24:
                raise DataError(
                    f"the archive {where!r} unpacks to more than {_LARGEST_RATIO} times its size: "
                    "no X-rays do"
                )
    plain.seek(0)
    return plain


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
