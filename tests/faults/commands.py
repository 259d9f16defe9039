"""Starting ``pneumonia``: as a user would, or forked from a process that has imported it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.kill_point import KillPoint, at_kill_point
from tests.faults.sandbox import Sandbox

_IMPORTED = [
    "pneumonia.cli",
    "pneumonia.search.session",
    "pneumonia.workflows.train",
    "pneumonia.search.run",
    "pneumonia.evaluation.gallery",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "torch._dynamo",
]


def spawn(
    sandbox: Sandbox, arguments: list[str], name: str, **environment: str
) -> subprocess.Popen[bytes]:
    """Start ``python -m pneumonia`` in a sandbox, its output going to ``NAME.out`` and ``.err``."""
    with (
        (sandbox.folder / f"{name}.out").open("wb") as out,
        (sandbox.folder / f"{name}.err").open("wb") as err,
    ):
        return subprocess.Popen(
            [sys.executable, "-m", "pneumonia", *arguments],
            cwd=sandbox.folder,
            env={**_inherited(), **sandbox.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _inherited() -> dict[str, str]:
    """The environment, without what looking at a store leaves in it."""
    left = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")
    return {name: value for name, value in os.environ.items() if name not in left}


class Forks:
    """Starts processes by forking one that has imported everything, which takes most time."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)

    def call(
        self,
        folder: Path,
        environment: Mapping[str, str],
        name: str,
        function: Callable[..., None],
        *arguments: object,
    ) -> BaseProcess:
        """Start a process that calls a function, its output going to ``NAME.out`` and ``.err``.

        Args:
            folder: Its working directory, which also gets the output.
            environment: What is added to the environment.
            name: Name of the output files.
            function: A module's function.
            arguments: What it is called with.
        """
        process = self._context.Process(
            target=_call, args=(folder, {**_inherited(), **environment}, name, function, arguments)
        )
        process.start()
        return process

    def start(
        self,
        sandbox: Sandbox,
        arguments: list[str],
        name: str,
        kill_point: KillPoint | None = None,
        **environment: str,
    ) -> BaseProcess:
        """Start a command in a sandbox, its output going to ``NAME.out`` and ``NAME.err``."""
        kept = {**sandbox.environment, **environment}
        doing = sandbox.folder / "doing"
        return self.call(sandbox.folder, kept, name, pneumonia, arguments, doing, kill_point)

    def run(self, sandbox: Sandbox, arguments: list[str], name: str) -> int:
        """Run a command to its end; its exit code."""
        process = self.start(sandbox, arguments, name)
        process.join()
        return int(process.exitcode or 0)


def wait_for(text: str, file: Path, seconds: float = 180) -> None:
    """Wait until a process has written a text to its output file, which it must in time."""
    deadline = time.monotonic() + seconds
    while not file.exists() or text not in file.read_text():
        assert time.monotonic() < deadline, f"{text!r} is not in {file}"
        time.sleep(0.1)


def pneumonia(
    arguments: list[str], doing: Path | None = None, kill_point: KillPoint | None = None
) -> None:
    """Run a command in this process; dies at a kill point, noting in a file what it does."""
    from pneumonia.cli import main

    sys.argv = ["pneumonia", *arguments]
    with at_kill_point(doing, kill_point) if doing else nullcontext():
        main()


def _call(
    folder: Path,
    environment: dict[str, str],
    name: str,
    function: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, suffix in ((1, "out"), (2, "err")):
        handle = os.open(folder / f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*arguments)
