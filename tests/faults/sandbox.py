"""A folder of its own for one command: data, stores and state, removed afterwards."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pneumonia.data.demo import write_demo_set

_ENVIRONMENT = {
    # Sums of floats depend on the number of threads.
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONUNBUFFERED": "1",
}

QUICK = (
    *("--image-size", "32", "--batch-size", "8", "--precision", "fp32"),
    *("--dropout", "0.2", "--ema", "0.9", "--device", "cpu"),
)
"""Settings that train in seconds, with everything in use whose state must be kept."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A folder to run commands in.

    Attributes:
        folder: The folder.
        data: A small synthetic data set, shared by the sandboxes of one script.
    """

    folder: Path
    data: Path

    @property
    def tracking_uri(self) -> str:
        """Its own MLflow store, in an sqlite file."""
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def state(self) -> Path:
        """Where runs keep their state."""
        return self.folder / "state"

    @property
    def environment(self) -> dict[str, str]:
        """What commands in this sandbox have in their environment."""
        cache = self.data.parent / "cache"
        return {**_ENVIRONMENT, "PNEUMONIA_STATE": str(self.state), "PNEUMONIA_CACHE": str(cache)}

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def sandboxes(folder: Path | None = None) -> Iterator["Sandboxes"]:
    """A folder for the sandboxes of one script, removed afterwards."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PNEUMONIA_"))]:
        del os.environ[name]
    os.environ |= _ENVIRONMENT
    with tempfile.TemporaryDirectory(
        prefix="pneumonia-faults-", dir=folder, ignore_cleanup_errors=True
    ) as name:
        data = Path(name) / "xrays"
        write_demo_set(data, patients=40, size=64)
        yield Sandboxes(Path(name), data)


@dataclass(frozen=True, slots=True)
class Sandboxes:
    """Where the sandboxes of one script are.

    Attributes:
        folder: The folder that holds them.
        data: The data set they share.
    """

    folder: Path
    data: Path

    def new(self, name: str) -> Sandbox:
        """A new, empty sandbox."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return Sandbox(folder, self.data)
