"""Where runs keep their state on this machine, and writing files atomically."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def state_folder() -> Path:
    """The folder of the state of runs: ``PNEUMONIA_STATE``, else the user's state folder (XDG)."""
    if chosen := os.environ.get("PNEUMONIA_STATE"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "pneumonia"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace a file as a whole: readers see the old content or the new one, never a part.

    The block writes to a temporary file in the same folder. When the block ends, the file is
    flushed to disk and renamed. If the block raises, ``path`` keeps its content.

    Args:
        path: The file to create or replace. Its folder is created if there is none.

    Yields:
        The temporary file to write. Each call has its own, so several processes may write at once.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def unfinished_writes(folder: Path, name: str = "*") -> list[Path]:
    """Temporary files that ``atomic_write`` left because its process was killed.

    A process that is alive may still be writing one of them.

    Args:
        folder: The folder; it need not exist.
        name: Name of the file that was to be replaced, or a pattern.
    """
    return sorted(folder.glob(f"{name}.*.tmp"))
