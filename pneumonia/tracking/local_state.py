"""The files that a run keeps on this machine until it has finished.

One folder a run: the checkpoint of its training, its configuration, the entries that could not be
logged yet, its tracking store, and the process that works on it. With ``PNEUMONIA_STATE`` set to a
shared folder, one machine can resume what another one began.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pneumonia.errors import TrackingError, UsageError
from pneumonia.files import atomic_write, state_folder
from pneumonia.processes import this_process


@dataclass(frozen=True, slots=True)
class LocalState:
    """The folder of one run.

    Attributes:
        run_id: The run.
    """

    run_id: str

    @property
    def folder(self) -> Path:
        """Where it is; it need not exist."""
        return state_folder() / "runs" / self.run_id

    @property
    def checkpoint(self) -> Path:
        """The file that training is continued from."""
        return self.folder / "checkpoint.pt"

    @property
    def outbox(self) -> Path:
        """The folder of entries that could not be logged yet."""
        return self.folder / "outbox"

    @property
    def run_config(self) -> Path:
        """The file of the run's configuration."""
        return self.folder / "run_config.json"

    @property
    def owner(self) -> Path:
        """The file that says which store the run is in, and which process worked on it here."""
        return self.folder / "owner.json"

    def write_run_config(self, run_config: Mapping[str, Any]) -> None:
        """Write the run's configuration.

        Raises:
            TrackingError: The folder cannot be written to.
        """
        self._write(self.run_config, run_config)

    def read_run_config_file(self) -> dict[str, Any] | None:
        """The run's configuration; None where it is not known on this machine."""
        return _read(self.run_config)

    def write_owner(self, tracking_uri: str) -> None:
        """Write which store the run is in, and that this process works on it.

        Raises:
            TrackingError: The folder cannot be written to.
        """
        self._write(self.owner, {"tracking_uri": tracking_uri, **this_process()})

    def read_owner(self) -> dict[str, str]:
        """What ``write_owner`` wrote last; empty where it never did."""
        return _read(self.owner) or {}

    @property
    def tracking_uri(self) -> str | None:
        """The store the run is in, as far as this machine knows."""
        known = self.read_owner() or self.read_run_config_file() or {}
        return known.get("tracking_uri")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this machine from working on the run within the block.

        Raises:
            UsageError: One does already.
        """
        with self.claim("run") as claimed:
            if not claimed:
                raise UsageError(f"another process works on run {self.run_id} already")
            yield

    @contextmanager
    def claim(self, part: str, *, wait: bool = False) -> Iterator[bool]:
        """Keep other processes from working on a part of the run within the block.

        Args:
            part: Its name.
            wait: Whether to wait for the process that works on it.

        Yields:
            Whether no other process works on it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{part}.lock")
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        try:
            with atomic_write(path) as unfinished:
                unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
        except OSError as error:
            raise TrackingError(
                f"cannot write to {str(self.folder)!r} ({error.strerror}): free some disk, or set "
                "PNEUMONIA_STATE to another folder"
            ) from None

    def remove(self) -> None:
        """Remove the folder, unless entries still wait to be logged."""
        self.checkpoint.unlink(missing_ok=True)
        if not any(self.outbox.glob("*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept


def kept_runs() -> list[LocalState]:
    """Every run that has a folder on this machine."""
    folder = state_folder() / "runs"
    if not folder.is_dir():
        return []
    return [LocalState(entry.name) for entry in sorted(folder.iterdir()) if entry.is_dir()]
