"""Reading files in threads, ahead of where they are needed and in bounded memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pneumonia.cores import available_cores
from pneumonia.data.decode import Preprocessing, decode, decode_checked
from pneumonia.data.limits import DecoderMissingError, UnreadableImageError


class File(Protocol):
    """What bytes are read from: a ``Path``, a member of an archive, or a URL. ``str`` names it."""

    def read_bytes(self) -> bytes:
        """Read all.

        Raises:
            OSError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """What a file holds.

    Attributes:
        file: The file.
        grey: Grey levels, uint8 (image_size, image_size); None where it could not be read.
        failure: Why it could not be read; empty where it could.
        may_pass: Whether the failure is not the file's: it was away, or a decoder is missing.
        reason: Why it can be no chest X-ray; empty where it may, and where that was not asked.
        sha256: Digest of its bytes, where that was asked; empty where they could not be read.
    """

    file: File
    grey: NDArray[np.uint8] | None = None
    failure: str = ""
    may_pass: bool = False
    reason: str = ""
    sha256: str = ""


def decode_ahead(
    files: Iterable[File], preprocessing: Preprocessing, window: int, *, check: bool = False
) -> Iterator[DecodedFile]:
    """Yield what each file holds, in order.

    Args:
        files: Files; taken only as far ahead as decoding runs.
        preprocessing: How to decode them.
        window: Files that may be under way or waiting to be yielded, at most.
        check: Whether to look for reasons to reject it, and to compute digests.
    """
    threads = ThreadPoolExecutor(max_workers=available_cores())
    pending: deque[Future[DecodedFile]] = deque()
    files = iter(files)
    try:
        while True:
            for file in islice(files, window - len(pending)):
                pending.append(threads.submit(_read, file, preprocessing, check))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _read(file: File, preprocessing: Preprocessing, check: bool) -> DecodedFile:
    digest = ""
    try:
        encoded = file.read_bytes()
        if not check:
            return DecodedFile(file, decode(encoded, preprocessing))
        digest = sha256(encoded).hexdigest()
        grey, reason = decode_checked(encoded, preprocessing)
    except UnreadableImageError as error:
        may_pass = isinstance(error, DecoderMissingError)
        return DecodedFile(file, failure=str(error), may_pass=may_pass, sha256=digest)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a path
        reason = getattr(error, "strerror", None) or str(error)
        return DecodedFile(file, failure=reason, may_pass=True)
    return DecodedFile(file, grey, reason=reason, sha256=digest)
