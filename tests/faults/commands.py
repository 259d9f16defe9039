"""Starting ``pneumonia``: as a user would, or forked from a process that has imported it."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.kill_point import KillPoint, aimed
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
    place: Sandbox, arguments: list[str], name: str, **environment: str
) -> subprocess.Popen[bytes]:
    """Start ``python -m pneumonia`` in a place, its output going to ``NAME.out`` and ``.err``."""
    with (
        (place.folder / f"{name}.out").open("wb") as out,
        (place.folder / f"{name}.err").open("wb") as err,
    ):
        return subprocess.Popen(
            [sys.executable, "-m", "pneumonia", *arguments],
            cwd=place.folder,
            env={**_inherited(), **place.environment, **environment},
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
    """Starts commands by forking a process that has imported everything, which takes most time."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)

    def start(
        self,
        place: Sandbox,
        arguments: list[str],
        name: str,
        kill_point: KillPoint | None = None,
        **environment: str,
    ) -> BaseProcess:
        """Start a command in a place, its output going to ``NAME.out`` and ``NAME.err``."""
        process = self._context.Process(
            target=_pneumonia,
            args=(place.folder, {**place.environment, **environment}, arguments, name, kill_point),
        )
        process.start()
        return process

    def run(self, place: Sandbox, arguments: list[str], name: str) -> int:
        """Run a command to its end; its exit code."""
        process = self.start(place, arguments, name)
        process.join()
        return int(process.exitcode or 0)


def _pneumonia(
    folder: Path,
    environment: dict[str, str],
    arguments: list[str],
    name: str,
    kill_point: KillPoint | None,
) -> None:
    from pneumonia.cli import main

    os.setsid()
    os.chdir(folder)
    kept = {**_inherited(), **environment}
    os.environ.clear()
    os.environ.update(kept)
    for number, suffix in ((1, "out"), (2, "err")):
        handle = os.open(folder / f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["pneumonia", *arguments]
    with aimed(folder / "doing", kill_point):
        main()
