"""A small synthetic data set, one trained model, and a clean place to run commands in."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

# Before torch starts its threads: processes with more threads than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pneumonia.cli import cli
from pneumonia.data.demo import write_demo_set
from pneumonia.processes import process_tags
from pneumonia.tracking.store import connect
from tests.faults.commands import Forks

# A first example may wait for a busy machine; time is not what these tests are about.
settings.register_profile("patient", deadline=None, max_examples=50)
settings.load_profile("patient")

QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMONIA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PNEUMONIA_STATE", str(tmp_path_factory.mktemp("state")))
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="session")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 40 synthetic patients; copy it before changing it."""
    folder = tmp_path_factory.mktemp("data") / "xrays"
    write_demo_set(folder, patients=40, size=64)
    return folder


@pytest.fixture(autouse=True)
def _mlflow_as_in_a_new_process() -> Iterator[None]:
    """Commands choose the store for their whole process: forget it, whichever test ran before."""
    _forget_store()  # a fixture of the whole session may have chosen one just now
    yield
    _forget_store()


def _forget_store() -> None:
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    # MLflow sets them itself, and a process that a test starts would inherit them.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tracking store that holds no runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        artifacts = (tmp_path / "mlruns" / "0").as_uri()
        store.execute("UPDATE experiments SET artifact_location = ?", (artifacts,))
    return tmp_path


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_cli() -> Callable[..., Result]:
    """Run a command as a user would type it."""
    return invoke


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, xrays: Path) -> SimpleNamespace:
    """A store with one quickly trained ``models:/resnet34/1``."""
    folder = tmp_path_factory.mktemp("trained")
    uri = f"sqlite:///{folder}/mlflow.db"
    result = invoke("train", "--data", xrays, *QUICK, "--tracking-uri", uri)
    assert result.exit_code == 0, result.stderr
    return SimpleNamespace(folder=folder, tracking_uri=uri, result=result)


@pytest.fixture
def predict(trained: SimpleNamespace) -> Callable[..., Result]:
    """Run ``predict`` with the model of ``trained``."""

    def run(*arguments: object, **options: str) -> Result:
        model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
        return invoke("predict", *model, *arguments, **options)

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tracking store without runs: to be copied, which is quicker than making one."""
    folder = tmp_path_factory.mktemp("empty")
    connect(f"sqlite:///{folder}/mlflow.db")
    _forget_store()  # else another fixture's model is registered in this one
    return folder / "mlflow.db"


@pytest.fixture
def interrupt_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Interrupt this process once, after it has reported so many epochs."""
    from pneumonia.tracking.epochs import log_epoch

    def interrupt(number: int) -> None:
        calls = []

        def interrupted(*arguments: object) -> None:
            log_epoch(*arguments)  # type: ignore[arg-type]
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("pneumonia.tracking.epochs.log_epoch", interrupted)

    return interrupt


@pytest.fixture
def broken_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that this one starts end at once."""
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "no memory left for $*" >&2\nexit 7\n')
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))


@pytest.fixture(scope="session")
def forks() -> Forks:
    """Starts processes that have everything imported; for tests of the xdist group ``forks``."""
    return Forks()


@pytest.fixture(scope="session")
def dead() -> dict[str, str]:
    """The tags of a process that was killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        tags = process_tags(process.pid)
        process.kill()
    return tags


def copy_store(folder: Path, target: Path) -> None:
    """Copy a folder with a tracking store, which this process may have open.

    A process that closes any file of an open database drops its locks on it, and another process
    may then damage the database (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("mlflow.db*"))
    with (
        closing(sqlite3.connect(folder / "mlflow.db")) as there,
        closing(sqlite3.connect(target / "mlflow.db")) as here,
    ):
        there.backup(here)


def invoke(*arguments: object, input: str | None = None) -> Result:  # noqa: A002 - Click's word
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)
