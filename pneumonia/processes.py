"""Which process works on a run or a trial, and whether that process is alive."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import psutil

_SECONDS_TO_END = 5.0

_HOST, _ID, _STARTED = "process.host", "process.id", "process.started"


def process_tags(process_id: int) -> dict[str, str]:
    """Tags that name a process of this machine: host, process id and start time in seconds.

    Raises:
        psutil.NoSuchProcess: There is no process of this id.
    """
    return dict(_cached_tags(process_id))


@functools.cache
def _cached_tags(process_id: int) -> dict[str, str]:
    started = psutil.Process(process_id).create_time()
    return {_HOST: socket.gethostname(), _ID: str(process_id), _STARTED: f"{started:.2f}"}


def this_process() -> dict[str, str]:
    """Tags that name this process, to be stored with what it works on."""
    return process_tags(os.getpid())


def is_alive(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that these tags name is alive; None if it runs on another machine.

    The start time tells it from a later process with the same id.
    """
    if tags.get(_HOST) != socket.gethostname():
        return None
    try:
        process = psutil.Process(id_of(tags))
        if process.status() == psutil.STATUS_ZOMBIE:  # ended; its parent has not waited for it
            return False
        return abs(process.create_time() - float(tags[_STARTED])) < 1
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False


def id_of(tags: Mapping[str, str]) -> int:
    """The id of the process that these tags name, on its machine."""
    return int(tags[_ID])


def describe_process(tags: Mapping[str, str]) -> str:
    """Format a process for a message: ``process 4711 on xray-server``."""
    return f"process {tags.get(_ID, 'unknown')} on {tags.get(_HOST, 'an unknown machine')}"


def run_until_stopped(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program, and stop it with all that it started when this process is asked to stop.

    The program leads a process group of its own. So its children are found even if it has died.

    Returns:
        Exit code of the program.

    Raises:
        KeyboardInterrupt: SIGINT came; nothing that was started is left.
        SystemExit: SIGTERM came; likewise.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    program = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return program.wait()
    finally:
        for request in (signal.SIGTERM, signal.SIGKILL):
            if _group_ends_by(program, request):
                break
        signal.signal(signal.SIGTERM, before)


def _group_ends_by(program: subprocess.Popen[bytes], request: int) -> bool:
    """Send a signal to a program's group; whether all its processes end within seconds."""
    deadline = time.monotonic() + _SECONDS_TO_END
    with contextlib.suppress(ProcessLookupError):  # there is none left
        os.killpg(program.pid, request)
        while time.monotonic() < deadline:
            program.poll()  # else it would stay as a zombie, and count
            os.killpg(program.pid, 0)
            time.sleep(0.05)
        return False
    return True
