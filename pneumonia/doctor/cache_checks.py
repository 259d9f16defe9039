"""Unfinished caches, caches over the size limit, and locks without a cache.

A network prepared in int8 is a cache too: a file beside those of decoded images.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pneumonia.data.cache import default_folder, is_whole
from pneumonia.doctor.checks import Issue, Mark, Remark, Section, format_size, size_of
from pneumonia.errors import UsageError

# As data/cache.py, prediction/int8.py and data/demo.py name them.
_TARGET = re.compile(r"[0-9a-f]{24}|int8-[0-9a-f]{32}\.onnx")
_BUILDING = re.compile(r"([0-9a-f]{24})\.[a-z0-9_]{8}|(int8-[0-9a-f]{32}\.onnx)\.[0-9a-f]{32}\.tmp")
_DRAWING = re.compile(r"\.demo-xrays-\d+-[0-9a-f]{32}")
DEFAULT_LIMIT = 20 * 2**30
"""Bytes that all caches may take together."""

_AN_HOUR = 3600
"""Seconds; an image of the demo set is drawn in less than one."""


def check_caches(limit: int = DEFAULT_LIMIT) -> Section:
    """Look through the folder of caches.

    Args:
        limit: Bytes that all finished caches may take together.
    """
    folder = default_folder()
    found: list[Remark | Issue] = []
    building = 0
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        named = _BUILDING.fullmatch(entry.name)
        if named:
            target = folder / (named[1] or named[2])
            # A builder holds the lock from before it creates the folder until it has renamed it,
            # and the kernel releases the lock of a dead process. So if the lock is free, no process
            # is filling the folder.
            if _is_held(target):
                building += 1
            else:
                found.append(_unfinished_cache(entry, target))
        elif _TARGET.fullmatch(entry.name) and not _is_finished(entry) and not _is_held(entry):
            found.append(_unfinished_cache(entry, entry))
        elif _DRAWING.fullmatch(entry.name) and time.time() - _last_change(entry) > _AN_HOUR:
            found.append(_unfinished_demo_set(entry))
        elif entry.suffix == ".lock" and _TARGET.fullmatch(entry.stem):
            # The lock of a finished cache stays: it is needed again when the cache is rebuilt.
            target = folder / entry.stem
            if not target.exists() and not _is_held(target):
                found.append(_unused_lock(target))
    found += _over_limit(folder, limit)
    if building:
        found.append(Remark(Mark.NOTE, f"caches being built at this moment: {building:,}"))
    return Section("Caches", found)


def _is_finished(cache: Path) -> bool:
    """Whether a cache holds all its images; a network prepared in int8 is one file."""
    return cache.is_file() or is_whole(cache)


def _unfinished_cache(cache: Path, target: Path) -> Issue:
    """What a process was filling with decoded images, or a prepared network, when it died."""

    def fix() -> str:
        with _holding_lock_of(target):
            if cache == target and _is_finished(target):
                return "another process has built it anew"
            return _removed(cache)

    text = f"cache {str(cache)!r} ({format_size(size_of(cache))}) was never finished"
    return Issue(text, "remove it", fix)


def _unfinished_demo_set(folder: Path) -> Issue:
    """A folder that a process was filling with synthetic X-rays when it died."""
    text = f"demo set {str(folder)!r} ({format_size(size_of(folder))}) was never finished"
    return Issue(text, "remove it", lambda: _removed(folder))


def _unused_lock(target: Path) -> Issue:
    """The lock of a cache that is not there, held by nobody."""

    def fix() -> str:
        with _holding_lock_of(target):
            return "removed"

    return Issue(f"lock {str(_lock_of(target))!r} locks nothing", "remove it", fix)


def _old_cache(folder: Path, limit: int) -> Issue:
    """A finished cache that does not fit under the size limit beside those used after it."""

    def fix() -> str:
        with _holding_lock_of(folder):
            return "kept: a process is using it" if _is_mapped(folder) else _removed(folder)

    text = (
        f"cache {str(folder)!r} ({format_size(size_of(folder))}) is over the limit of "
        f"{format_size(limit)} for all caches"
    )
    return Issue(text, "remove it, the least recently used first", fix)


def _over_limit(folder: Path, limit: int) -> Iterator[Issue]:
    """Yield the caches used longest ago, not in use now, that the limit leaves no room for."""
    found = folder.iterdir() if folder.is_dir() else []
    caches = [entry for entry in found if _TARGET.fullmatch(entry.name) and _is_finished(entry)]
    total = 0
    for cache in sorted(caches, key=lambda cache: cache.stat().st_mtime, reverse=True):
        total += size_of(cache)
        if total > limit and not _is_held(cache) and not _is_mapped(cache):
            yield _old_cache(cache, limit)


def _is_mapped(cache: Path) -> bool:
    """Whether a process that we may look into has the cache's pixels mapped into its memory."""
    pixels = str((cache / "pixels.npy").resolve())
    for process in psutil.process_iter():
        try:
            if any(mapped.path == pixels for mapped in process.memory_maps()):
                return True
        except (psutil.Error, OSError, AttributeError):
            # Another user's process, one that is gone, or macOS, which gives no memory maps.
            continue
    return False


def _removed(path: Path) -> str:
    if not path.exists():
        return "it is gone already"
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
    return "removed"


def _lock_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.lock")


def _is_held(target: Path) -> bool:
    if not _lock_of(target).exists():
        return False
    try:
        with FileLock(_lock_of(target), timeout=0):
            return False
    except (Timeout, OSError):  # OSError: another user's lock, which only that user can test
        return True


@contextmanager
def _holding_lock_of(target: Path) -> Iterator[None]:
    """Hold a cache's lock, and take it away afterwards if there is no cache.

    A process that waits for the lock meanwhile has the file open, and gets the lock of a file
    without a name, which locks nobody else out. filelock looks for that, since version 3.21, and
    begins anew with the file of the name: so the file may go, but only while we hold its lock.
    """
    lock = FileLock(_lock_of(target), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError("another process builds the cache by now") from None
    try:
        yield
        if not target.exists():
            _lock_of(target).unlink(missing_ok=True)
    finally:
        lock.release()


def _last_change(folder: Path) -> float:
    return max(entry.stat().st_mtime for entry in (folder, *folder.rglob("*")))
