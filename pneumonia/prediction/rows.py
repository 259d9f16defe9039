"""Writing rows as CSV, JSON lines or Parquet, as they come, or as a worklist."""

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from pneumonia.errors import DataError, UsageError
from pneumonia.files import atomic_write
from pneumonia.prediction.batch import COLUMNS, Row
from pneumonia.prediction.resume import partial_file
from pneumonia.prediction.worklist import worklist

log = logging.getLogger(__name__)

Write = Callable[[list[Row]], None]

FORMATS = ("csv", "jsonl", "parquet", "html")
_FORMAT_OF_ENDING = {
    "": "csv",
    ".csv": "csv",
    ".txt": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".html": "html",
    ".htm": "html",
}


def format_of(output: Path | None, asked: str | None) -> str:
    """The format of the rows: as asked for, else by the file's ending, else CSV.

    Raises:
        UsageError: The ending contradicts what is asked for, or says nothing.
    """
    by_ending = "csv" if output is None else _FORMAT_OF_ENDING.get(output.suffix.lower())
    if asked is None:
        if by_ending is None:
            raise UsageError(f"output {str(output)!r} has an unknown ending: say --format csv")
        return by_ending
    if output is not None and output.suffix and by_ending not in (asked, None):
        raise UsageError(
            f"output {str(output)!r} is named as {by_ending} and --format says {asked}: "
            "leave --format out, or name the file otherwise"
        )
    return asked


@contextmanager
def open_writer(
    output: Path | None, asked: str | None = None, *, positive: str = ""
) -> Iterator[Write]:
    """Open a file, or standard output, to write rows to.

    A regular file is replaced once all rows are written, and links to it stay. If the block raises,
    the rows written so far are kept beside it under a name with ``.partial``. Pipes and devices
    are written to as they are.

    Args:
        output: The file; None is standard output.
        asked: ``csv``, ``jsonl``, ``parquet`` or ``html``; by default the file's ending decides.
        positive: The label of the positive class, which comes first in a worklist (``html``).

    Yields:
        A function that writes a list of rows.

    Raises:
        DataError: The file cannot be written.
        UsageError: The format contradicts the file's ending, or a terminal cannot show it.
    """
    file_format = format_of(output, asked)
    if output is None:
        if file_format == "parquet" and sys.stdout.isatty():
            raise UsageError("parquet is not text: give --output FILE")
        with _writer(file_format, sys.stdout, positive) as write:
            yield write
        return
    try:
        if _is_replaceable(output):
            with _replacing(output.resolve(), file_format, positive) as write:
                yield write
        else:
            with _open(output, file_format) as file, _writer(file_format, file, positive) as write:
                yield write
    except OSError as error:
        raise DataError(f"cannot write {str(output)!r}: {error.strerror}") from None


def _is_replaceable(output: Path) -> bool:
    """Whether a file may be replaced: devices, pipes and open descriptors may not."""
    special = str(output.absolute()).startswith(("/dev/", "/proc/"))
    return not special and (output.is_file() or not output.exists())


@contextmanager
def _replacing(target: Path, file_format: str, positive: str) -> Iterator[Write]:
    with atomic_write(target) as unfinished:
        n_rows = 0
        try:
            with (
                _open(unfinished, file_format) as file,
                _writer(file_format, file, positive) as write,
            ):

                def write_and_count(rows: list[Row]) -> None:
                    nonlocal n_rows
                    write(rows)
                    file.flush()  # so that a process that is killed leaves them
                    n_rows += len(rows)

                yield write_and_count
        except BaseException:
            if n_rows:
                partial = partial_file(target)
                unfinished.replace(partial)
                log.warning("%s finished rows are kept in %s", f"{n_rows:,}", partial)
            raise


def _open(path: Path, file_format: str) -> IO[Any]:
    if file_format == "parquet":
        return path.open("wb")
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def _writer(file_format: str, file: IO[Any], positive: str) -> Iterator[Write]:
    with ExitStack() as stack:
        if file_format == "parquet":
            yield stack.enter_context(_parquet(getattr(file, "buffer", file)))
        elif file_format == "html":
            rows: list[Row] = []
            try:
                yield rows.extend
            finally:  # a job that was stopped has a page of its finished rows
                file.write(worklist(rows, positive))
        elif file_format == "csv":
            table = csv.DictWriter(_UnixLines(file), COLUMNS, lineterminator="\r\n")
            table.writeheader()
            yield table.writerows
        else:
            yield lambda rows: file.writelines(f"{json.dumps(row)}\n" for row in rows)


class _UnixLines:
    """Ends rows with a line feed, where the csv module writes \\r\\n.

    The module quotes a \\r within a value only if its own line ending contains one.
    """

    def __init__(self, out: IO[Any]) -> None:
        self._out = out

    def write(self, row: str) -> int:
        """Write one row."""
        return self._out.write(row.removesuffix("\r\n") + "\n")


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"probability", "threshold", "coverage", "temperature", "intercept"}
    schema = pa.schema(
        [(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS]
    )
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda rows: writer.write_table(
            pa.Table.from_pylist([row | {"path": _utf8(row["path"])} for row in rows], schema)
        )


def _utf8(path: str) -> str:
    """A path as Parquet can hold it: bytes that are not UTF-8 become \\xe9 and the like."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
