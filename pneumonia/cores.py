"""How many cores this process may compute on, beside others that compute on this machine."""

import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from pneumonia.files import atomic_write, state_folder
from pneumonia.processes import id_of, is_alive, process_tags, this_process

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0
_THREADS = "threads"


def available_cores() -> int:
    """Number of cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def shared_cores(device: torch.device) -> Iterator[Callable[[], None]]:
    """Compute on a fair share of the cores within the block.

    Threads that wait for each other's cores slow every process on the machine to a tenth. So each
    process that computes registers a file in ``workers`` of the state folder, and all divide the
    cores equally, each at least one. ``OMP_NUM_THREADS`` in the environment is respected: such a
    process keeps its threads, and the others divide what is left. A process that computes on a GPU
    counts as one core. When the share changes, one line is logged.

    The number of threads changes sums in their last bits. Results are therefore the same bit for
    bit only while the share stays the same.

    Args:
        device: Where this process computes.

    Yields:
        A function to call between batches. It adapts the number of threads to processes that
        started or ended, and looks for them at most once a second.
    """
    before = torch.get_num_threads()
    folder = state_folder() / "workers"
    fixed = _threads_from_environment() if device.type == "cpu" else 1
    try:
        own = folder / f"{uuid.uuid4().hex}.json"
        _register(own, this_process(), fixed)
    except OSError as error:
        log.warning("cannot share cores with other processes: %s", error)
        yield lambda: None
        return
    share = _Share(folder, limit=before, fixed=bool(fixed))
    try:
        share.adapt()
        yield share.adapt
    finally:
        own.unlink(missing_ok=True)
        torch.set_num_threads(before)


@contextmanager
def keeping_share() -> Iterator[None]:
    """Keep this process's share of the cores within the block, also while it does not compute.

    Between two trials other processes would take its cores, and give them back seconds late.
    """
    own = None
    with contextlib.suppress(OSError):  # shared_cores reports it
        own = reserve_cores(os.getpid())
    try:
        yield
    finally:
        if own:
            own.unlink(missing_ok=True)


def reserve_cores(process_id: int) -> Path:
    """Register a process of this machine before it computes.

    Returns:
        The file by which it is registered, until ``keeping_share`` in that process removes it, or
        the process has ended.

    Raises:
        OSError: The state folder cannot be written to.
        psutil.NoSuchProcess: There is no process of this id.
    """
    file = state_folder() / "workers" / f"{socket.gethostname()}-{process_id}.json"
    _register(file, process_tags(process_id), _threads_from_environment())
    return file


def own_share() -> int:
    """Cores that this process may compute on beside others; 1 where its threads are fixed."""
    return _divide(available_cores(), _registered(state_folder() / "workers")).get(os.getpid(), 1)


def _threads_from_environment() -> int:
    """Number of threads if ``OMP_NUM_THREADS`` is set, else 0."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 0


def _register(file: Path, process: Mapping[str, str], threads: int) -> None:
    with atomic_write(file) as unfinished:
        unfinished.write_text(json.dumps({**process, _THREADS: str(threads)}))


class _Share:
    """The share of this process, as far as it has looked.

    Args:
        folder: Where processes are registered.
        limit: The most threads it may use.
        fixed: Whether it uses as many in any case.
    """

    def __init__(self, folder: Path, *, limit: int, fixed: bool) -> None:
        self._folder, self._limit, self._fixed = folder, limit, fixed
        self._next_look = 0.0

    def adapt(self) -> None:
        """Set the number of threads, if the share has changed since the last look."""
        if self._fixed or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        threads_of = _registered(self._folder)
        n_others = len(threads_of.keys() - {os.getpid()})
        cores = available_cores()
        threads = min(self._limit, _divide(cores, threads_of).get(os.getpid(), 1))
        if threads == torch.get_num_threads():
            return
        torch.set_num_threads(threads)
        who = "1 other process computes" if n_others == 1 else f"{n_others} other processes compute"
        log.info("using %d of %d cores: %s on this machine", threads, cores, who)


def _registered(folder: Path) -> dict[int, int]:
    """Fixed number of threads by id of a live process of this machine; 0 where it takes a share.

    A process may be registered more than once.
    """
    found: dict[int, int] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            tags = json.loads(file.read_text(encoding="utf-8"))
            alive = is_alive(tags)
            if alive:
                process, threads = id_of(tags), int(tags[_THREADS])
                found[process] = max(threads, found.get(process, 0))
        except (OSError, ValueError, KeyError, TypeError):  # removed just now, or not ours
            continue
        if alive is False:
            file.unlink(missing_ok=True)
    return found


def _divide(cores: int, threads_of: dict[int, int]) -> dict[int, int]:
    """Divide the cores that fixed processes leave; the lowest ids get what remains."""
    sharing = sorted(process for process, fixed in threads_of.items() if not fixed)
    left = max(0, cores - sum(threads_of.values()))
    each, more = divmod(left, max(1, len(sharing)))
    return {process: max(1, each + (number < more)) for number, process in enumerate(sharing)}
