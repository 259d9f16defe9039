"""Aiming at one call: the process kills itself before, during or after it, the n-th time.

The product knows nothing of this: its functions are wrapped from outside, in the forked process.
"""

import functools
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = {
    "create_run": ("mlflow", "MlflowClient.create_run"),
    "log_inputs": ("mlflow", "MlflowClient.log_inputs"),
    "log_batch": ("mlflow", "MlflowClient.log_batch"),
    "log_artifact": ("mlflow", "MlflowClient.log_artifact"),
    "epoch": ("pneumonia.training.loop", "_train_epoch"),
    "validate": ("pneumonia.training.loop", "validate"),
    "checkpoint": ("pneumonia.training.checkpoint", "Checkpoint.save"),
    "torch_save": ("torch", "save"),
    "log_model": ("mlflow.models", "Model.log"),
    "finalize_model": ("mlflow", "MlflowClient.finalize_logged_model"),
    "register": ("mlflow", "register_model"),
    "promote": ("mlflow", "MlflowClient.set_registered_model_alias"),
    "set_terminated": ("mlflow", "MlflowClient.set_terminated"),
    "update_run": ("mlflow", "MlflowClient.update_run"),
    "forget": ("pneumonia.tracking.local_state", "LocalState.remove"),
}
"""What a run does, by a short name, and the function that does it."""


@dataclass(frozen=True, slots=True)
class KillPoint:
    """One call to be killed at.

    Attributes:
        call: One of ``CALLS``.
        when: ``before``, ``during`` or ``after`` it.
        count: Which call of it, from 1.
        delay: Seconds into the call, where it is ``during``.
    """

    call: str
    when: str
    count: int = 1
    delay: float = 0.0

    def __str__(self) -> str:
        """As in ``during checkpoint 2``."""
        later = f" +{self.delay:g} s" if self.delay else ""
        return f"{self.when} {self.call} {self.count}{later}"


@contextmanager
def at_kill_point(doing: Path, kill_point: KillPoint | None) -> Iterator[None]:
    """Write down in a file what the process does at each moment, and kill it at the kill point."""
    note = os.open(doing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    stack = ["between"]

    def say() -> None:
        os.pwrite(note, f"{stack[-1]:20}".encode(), 0)

    for name, (module, path) in CALLS.items():
        _wrap(module, path, functools.partial(_watched, name, kill_point, stack, say))
    say()
    yield


def _wrap(module: str, path: str, wrapper: Callable[[Any], Any]) -> None:
    owner: Any = importlib.import_module(module)
    *parents, last = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = owner.__dict__[last]
    if isinstance(original, classmethod):
        setattr(owner, last, classmethod(wrapper(original.__func__)))
    else:
        setattr(owner, last, wrapper(original))


def _watched(
    name: str,
    kill_point: KillPoint | None,
    stack: list[str],
    say: Callable[[], None],
    function: Any,
) -> Any:
    calls = 0

    @functools.wraps(function)
    def watched(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        hit = kill_point is not None and kill_point.call == name and kill_point.count == calls
        stack.append(name)
        say()
        try:
            if hit and kill_point is not None:
                if kill_point.when == "before":
                    _die()
                if kill_point.when == "during":
                    timer = threading.Timer(kill_point.delay, _die)
                    timer.daemon = True
                    timer.start()
            return function(*arguments, **keywords)
        finally:
            if hit and kill_point is not None and kill_point.when == "after":
                _die()
            stack.pop()
            say()

    return watched


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
