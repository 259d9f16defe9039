"""Logging that survives outages of the tracking store: entries wait on disk, in order.

While the store answers, entries go straight to it. When it does not, training continues: each
entry becomes a file in the run's folder, and delivery is retried with growing pauses. Delivery is
idempotent, since each metric carries its time: a store that failed after it had written an entry
and before it answered gets the same entry again.
"""

import errno
import functools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import requests
from filelock import FileLock
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential

from pneumonia.errors import TrackingError
from pneumonia.files import atomic_write
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.store import shown_uri

log = logging.getLogger(__name__)

T = TypeVar("T")

_OUTAGES = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
_ANSWERS_OF_AN_OUTAGE = {429, *range(500, 600)}
_FAILURES_OF_FILES = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EDQUOT,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of a local artifact store that retrying does not resolve."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to log to a run.

    Attributes:
        kind: ``metrics``, ``parameters``, ``tags``, ``artifact`` or ``status``.
        content: What JSON can hold of it.
        file: The bytes of an artifact.
    """

    kind: str
    content: dict[str, Any]
    file: bytes = b""

    @classmethod
    def artifact(cls, path: str, file: bytes) -> "Entry":
        """A file to store under a path of the run's artifacts."""
        return cls("artifact", {"path": path}, file)

    def write(self, path: Path) -> None:
        """Write it to ``path``, with the bytes of an artifact beside it."""
        if self.file:
            with atomic_write(path.with_suffix(".bin")) as unfinished:
                unfinished.write_bytes(self.file)
        # Written last: an entry is complete once its JSON file exists.
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps([self.kind, self.content]), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Entry":
        """Read back what was kept."""
        kind, content = json.loads(path.read_text(encoding="utf-8"))
        file = path.with_suffix(".bin")
        return cls(kind, content, file.read_bytes() if file.exists() else b"")

    @staticmethod
    def remove(path: Path) -> None:
        """Remove what was delivered."""
        path.unlink(missing_ok=True)
        path.with_suffix(".bin").unlink(missing_ok=True)


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the store does not answer, not that it refuses."""
    if isinstance(error, MlflowException):
        return error.error_code in _OUTAGES
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in _ANSWERS_OF_AN_OUTAGE
    # requests' other errors are OSErrors too, without a number.
    return isinstance(error, OSError) and error.errno not in _FAILURES_OF_FILES


def refused(error: OSError) -> TrackingError:
    """The error for an artifact store in the file system that cannot be written to."""
    where = f" {str(error.filename)!r}" if error.filename else ""
    return TrackingError(
        f"cannot store artifacts in{where or ' the artifact store'} "
        f"({error.strerror or error}): make it writable, or free some disk"
    )


class Outbox:
    """Delivers entries in order, run by run, now or when the store is back."""

    def __init__(self) -> None:
        self.client = mlflow.MlflowClient()
        self._waiting: set[str] = set()
        self._pause = 0.0
        self._next_try = 0.0

    def send(self, run_id: str, entry: Entry) -> None:
        """Deliver an entry, or keep it until the store answers.

        Raises:
            TrackingError: The store refuses the entry, or the disk to keep it on is full.
        """
        if self._pause or run_id in self._waiting:
            self._keep(run_id, entry)
            if time.monotonic() >= self._next_try:
                self.flush()
            return
        try:
            self.deliver(run_id, entry)
        except Exception as error:
            if not is_outage(error):
                if isinstance(error, OSError):
                    raise refused(error) from error
                raise
            self._note_outage(error)
            self._keep(run_id, entry)

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the store, and retry while it does not answer, for ``patience`` seconds.

        Waiting entries are delivered first, so that the answer takes them into account.

        Raises:
            TrackingError: The store did not answer in that time.
        """
        attempts = Retrying(
            retry=retry_if_exception(is_outage),
            wait=wait_exponential(min=_SHORTEST_PAUSE, max=_LONGEST_PAUSE),
            stop=stop_before_delay(patience()),
            reraise=True,
        )
        try:
            return attempts(lambda: self._deliver_then(question))
        except Exception as error:
            if not is_outage(error):
                if isinstance(error, OSError):
                    raise refused(error) from error
                raise
            raise TrackingError(
                f"the tracking store {shown_uri()!r} does not answer: {_first_line(error)}"
            ) from error

    def flush(self, *, wait: bool = False) -> bool:
        """Try to deliver the waiting entries; with ``wait``, for ``patience`` seconds.

        Returns:
            Whether nothing waits any more.
        """
        if not self._waiting:
            return True
        try:
            if wait:
                self.ask(lambda: None)
            else:
                self._deliver_then(lambda: None)
        except Exception as error:
            if not (is_outage(error) or isinstance(error, TrackingError)):
                raise
            return False
        return True

    def _deliver_then(self, question: Callable[[], T]) -> T:
        try:
            self._deliver_waiting()
            answer = question()
        except Exception as error:
            if is_outage(error):
                self._note_outage(error)
            raise
        self._note_recovery()
        return answer

    def adopt(self, run_id: str) -> None:
        """Take over the entries that another process could not deliver for a run."""
        if kept_entries(run_id):
            self._waiting.add(run_id)
            # Otherwise that process's end of the run would arrive after the run was continued.
            self.flush(wait=True)

    def _deliver_waiting(self) -> None:
        for run_id in sorted(self._waiting):
            deliver_kept(run_id, self.deliver)
            self._waiting.discard(run_id)

    def _keep(self, run_id: str, entry: Entry) -> None:
        local = LocalState(run_id)
        folder = local.outbox
        if run_id not in self._waiting:
            local.write_owner(mlflow.get_tracking_uri())
        try:
            names = kept_entries(run_id)
            # Named by time and process: the workers of a search keep entries for the same run.
            number = max(time.time_ns(), _number(names[-1]) + 1 if names else 0)
            entry.write(folder / f"{number:020}-{os.getpid()}.json")
        except OSError as error:
            raise TrackingError(
                f"the tracking store does not answer, and entries cannot be kept in "
                f"{str(folder)!r} ({error.strerror}): free some disk"
            ) from error
        self._waiting.add(run_id)

    def deliver(self, run_id: str, entry: Entry) -> None:
        """Log an entry now.

        Raises:
            MlflowException, OSError: The store refuses it, or does not answer.
        """
        content = entry.content
        match entry.kind:
            case "metrics":
                self.client.log_batch(run_id, metrics=[Metric(*m) for m in content["metrics"]])
            case "parameters":
                self.client.log_batch(run_id, params=[Param(k, v) for k, v in content.items()])
            case "tags":
                self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in content.items()])
            case "status":
                self.client.set_terminated(run_id, content["status"], content["end_time"])
            case "artifact":
                path = Path(content["path"])
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / path.name
                    file.write_bytes(entry.file)
                    parent = "" if str(path.parent) == "." else str(path.parent)
                    self.client.log_artifact(run_id, str(file), parent or None)

    def _note_outage(self, error: Exception) -> None:
        if not self._pause:
            log.warning(
                "the tracking store %s does not answer (%s): training continues, and what is "
                "logged waits on disk until it answers",
                shown_uri(),
                _first_line(error),
            )
        self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * self._pause))
        self._next_try = time.monotonic() + self._pause

    def _note_recovery(self) -> None:
        if self._pause and not self._waiting:
            log.info("the tracking store answers again, and has received all waiting entries")
            self._pause = 0.0


def patience() -> float:
    """Seconds to retry a store that does not answer, where the work cannot continue without it."""
    return float(os.environ.get("PNEUMONIA_PATIENCE", "600"))


def kept_entries(run_id: str) -> list[Path]:
    """The files of the entries that wait to be logged to a run, in order."""
    return sorted(LocalState(run_id).outbox.glob("*.json"))


def deliver_kept(run_id: str, deliver: Callable[[str, Entry], None]) -> None:
    """Deliver a run's kept entries in order, and remove each that was.

    One process at a time: two could deliver an older entry after a newer one.
    """
    if not kept_entries(run_id):
        return
    with FileLock(LocalState(run_id).folder / "delivery.lock"):
        for file in kept_entries(run_id):
            deliver(run_id, Entry.read(file))
            Entry.remove(file)


def _number(file: Path) -> int:
    return int(file.stem.partition("-")[0])


def outbox() -> Outbox:
    """The outbox of this process for the store it uses now."""
    return _outbox_of(mlflow.get_tracking_uri())


@functools.cache
def _outbox_of(_tracking_uri: str) -> Outbox:
    return Outbox()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
