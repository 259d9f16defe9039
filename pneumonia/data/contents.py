"""What image files hold: a digest, and what the header of a DICOM file says.

Files that have not changed since they were read are not read again. A file is known by its path,
device, inode, size, and the times of its last change. Programs can set the modification time, but
not that of the inode's change (ctime): a file whose content was replaced is read anew even if its
size and modification time are as before. What is stored names no file and no patient.
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.cores import available_cores
from pneumonia.data.cache import default_folder
from pneumonia.data.dicom import is_dicom
from pneumonia.data.dicom_header import read_header

log = logging.getLogger(__name__)

_STORE = "digests.sqlite"
_SETTLED = 2.0
"""Seconds after which a change of a file is sure to have a time of its own, on any file system."""

_SECONDS_TO_WAIT = 10


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Attributes:
        digest: Hexadecimal BLAKE2b of its content, or of its path where it could not be read, which
            decoding then reports; 128 bits.
        patient: The PatientID of a DICOM file, or empty.
        attributes: What else its header says, such as the patient's age.
        read: Whether it could be read.
    """

    digest: str
    patient: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    read: bool = True


def read_contents(files: Sequence[Path]) -> list[Content]:
    """Read those of the files that are new or changed, and those whose headers say something."""
    folder = default_folder()
    keys = [_key(file) for file in files]
    known = _known_digests(folder, filter(None, keys))
    unknown = [index for index, key in enumerate(keys) if key not in known]
    with ThreadPoolExecutor(max_workers=available_cores()) as threads:
        read = dict(zip(unknown, threads.map(_read, (files[p] for p in unknown)), strict=True))
    new = {}
    for index, content in read.items():
        if keys[index] and content.read and not (content.patient or content.attributes):
            new[keys[index]] = content.digest
    _keep_digests(folder, new)
    return [read.get(index) or Content(known[key]) for index, key in enumerate(keys)]


def _read(file: Path) -> Content:
    try:
        content = file.read_bytes()
    except OSError:
        of_path = hashlib.blake2b(os.fsencode(file), digest_size=16)
        return Content(of_path.hexdigest(), read=False)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Content(digest, *read_header(content)) if is_dicom(content) else Content(digest)


def _key(file: Path) -> bytes:
    """What a file is known by, 16 bytes; none where it was changed just now, or cannot be seen."""
    try:
        status = file.stat()
    except OSError:
        return b""
    if time.time() - max(status.st_ctime, status.st_mtime) < _SETTLED:
        return b""
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    named = os.fsencode(file.absolute()) + repr(numbers).encode()
    return hashlib.blake2b(named, digest_size=16).digest()


def _known_digests(folder: Path, keys: Iterable[bytes]) -> dict[bytes, str]:
    """The digests of the files that are known, by their keys; none where there is no store."""
    if not (folder / _STORE).is_file():
        return {}
    found = {}
    try:
        with closing(_connected(folder)) as store:
            for key in keys:
                row = store.execute("SELECT digest FROM digests WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[0].hex()
    except sqlite3.Error as error:  # it saves time, and nothing depends on it
        log.debug("digests are not known: %s", error)
    return found


def _keep_digests(folder: Path, digests: Mapping[bytes, str]) -> None:
    """Store digests of files by their keys, if that is possible."""
    if not digests:
        return
    rows = [(key, bytes.fromhex(digest)) for key, digest in digests.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(_connected(folder)) as store, store:
            store.execute(
                "CREATE TABLE IF NOT EXISTS digests (key BLOB PRIMARY KEY, digest BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
            store.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)
    except (sqlite3.Error, OSError) as error:
        log.debug("digests are not kept: %s", error)


def _connected(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / _STORE, timeout=_SECONDS_TO_WAIT)
