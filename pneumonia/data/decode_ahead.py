"""Decoding files in threads, ahead of where the images are needed and in bounded memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.cores import available_cores
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.limits import DecoderMissingError, UnreadableImageError


class ReadFailure(str):  # a plain reason to whoever shows it
    """Why a file's bytes could not be read, or not decoded here: unlike damage, it may pass."""

    __slots__ = ()


Decoded = NDArray[np.uint8] | str
"""Grey levels, uint8 (image_size, image_size), or why the file could not be read."""


def decode_ahead(
    paths: Iterable[Path], preprocessing: Preprocessing, window: int
) -> Iterator[tuple[Path, Decoded]]:
    """Yield each file with what it holds, in order.

    Args:
        paths: Files; taken only as far ahead as decoding runs.
        preprocessing: How to decode them.
        window: Files that may be under way or waiting to be yielded, at most.
    """
    threads = ThreadPoolExecutor(max_workers=available_cores())
    pending: deque[tuple[Path, Future[Decoded]]] = deque()
    paths = iter(paths)
    try:
        while True:
            for path in islice(paths, window - len(pending)):
                pending.append((path, threads.submit(_try_decode, path, preprocessing)))
            if not pending:
                return
            path, future = pending.popleft()
            yield path, future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _try_decode(path: Path, preprocessing: Preprocessing) -> Decoded:
    try:
        return decode(path.read_bytes(), preprocessing)
    except DecoderMissingError as error:
        return ReadFailure(str(error))
    except UnreadableImageError as error:
        return str(error)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a path
        return ReadFailure(getattr(error, "strerror", None) or str(error))
