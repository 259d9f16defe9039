"""Which process works on a run or a trial, and whether it still does."""

import functools
import os
import socket
from collections.abc import Mapping

import psutil

_HOST, _ID, _STARTED = "process.host", "process.id", "process.started"


@functools.cache
def _identity(process_id: int) -> dict[str, str]:
    started = psutil.Process(process_id).create_time()
    return {_HOST: socket.gethostname(), _ID: str(process_id), _STARTED: f"{started:.2f}"}


def this_process() -> dict[str, str]:
    """This machine and process, as tags to leave on what it works on."""
    return dict(_identity(os.getpid()))


def is_alive(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that left these tags is alive; None where another machine must say.

    The time it started tells it from a later process of the same number.
    """
    if tags.get(_HOST) != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(tags[_ID]))
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has taken note
            return False
        return abs(process.create_time() - float(tags[_STARTED])) < 1
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False


def describe_process(tags: Mapping[str, str]) -> str:
    """The process in words: ``process 4711 on xray-server``."""
    return f"process {tags.get(_ID, 'unknown')} on {tags.get(_HOST, 'an unknown machine')}"
