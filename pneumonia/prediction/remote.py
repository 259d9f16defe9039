"""Image files at URLs, through fsspec: ``s3://``, ``gs://``, ``https://`` and others."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec

from pneumonia.data.file_types import IMAGE_ENDINGS
from pneumonia.errors import DataError, UsageError
from pneumonia.prediction.archives import LARGEST_FILE, check_file_size

_ENDINGS = IMAGE_ENDINGS | {".dcm", ".dicom"}


def is_url(name: str) -> bool:
    """Whether a name is a URL, and not a path."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum()


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        url: The URL.
    """

    url: str

    def __str__(self) -> str:
        """Name it by its URL."""
        return self.url

    def read_bytes(self) -> bytes:
        """Read all.

        Raises:
            OSError: It cannot be read, or is too large.
        """
        try:
            files, path = fsspec.url_to_fs(self.url)
            with files.open(path) as file:
                content: bytes = file.read(LARGEST_FILE + 1)
        except Exception as error:  # noqa: BLE001 - each kind of store raises its own
            raise OSError(_reason(error)) from None
        check_file_size(len(content))
        return content


def files_at(url: str, skipped: Counter[str]) -> Iterator[RemoteFile]:
    """Yield the images at a URL: the file, or those below the folder, in sorted order.

    Files below a folder are taken for images by the ending of their names: reading the start of
    each would cost one request a file.

    Args:
        url: The URL.
        skipped: Counts by ending of the files that are no images, added to.

    Raises:
        DataError: There is nothing, or the server does not answer.
        UsageError: What reads such URLs is not installed.
    """
    if _ending(url) in _ENDINGS:
        yield RemoteFile(url)
        return
    files, path = _opened(url)
    try:
        # Its find leaves out what cannot be listed.
        walked = files.walk(path, detail=True, on_error="raise")
        found = sorted(entry["name"] for _, _, inside in walked for entry in inside.values())
        is_file = not found and files.isfile(path)
    except Exception as error:  # noqa: BLE001 - each kind of store raises its own
        raise DataError(f"cannot list {url!r}: {_reason(error)}") from None
    if is_file:
        yield RemoteFile(url)
    elif not found:
        raise DataError(f"nothing at {url!r}: check the URL")
    for name in found:
        ending = _ending(name)
        if ending in _ENDINGS:
            yield RemoteFile(files.unstrip_protocol(name))
        else:
            skipped[ending or "without ending"] += 1


def copy_of(url: str) -> IO[bytes]:
    """A temporary copy of a file at a URL, which vanishes when it is closed.

    Raises:
        DataError: It cannot be read.
        UsageError: What reads such URLs is not installed.
    """
    files, path = _opened(url)
    copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with files.open(path) as file:
            shutil.copyfileobj(file, copy)
    except Exception as error:  # noqa: BLE001 - each kind of store raises its own
        raise DataError(f"cannot read {url!r}: {_reason(error)}") from None
    copy.seek(0)
    return copy


def _opened(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        files, path = fsspec.url_to_fs(url)
    except ImportError:
        raise UsageError(
            f"{scheme}:// needs a package of its own: pip install 'pneumonia[remote]'"
        ) from None
    except ValueError:
        raise UsageError(
            f"{url!r} is a URL of an unknown kind: s3://, gs:// and https:// are known"
        ) from None
    except Exception as error:  # noqa: BLE001 - each kind of store raises its own
        raise DataError(f"cannot reach {url!r}: {_reason(error)}") from None
    return files, path


def _ending(name: str) -> str:
    return PurePosixPath(name.partition("?")[0]).suffix.lower()


def _reason(error: Exception) -> str:
    """An error in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:200]
