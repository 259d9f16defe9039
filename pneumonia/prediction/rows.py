"""Writing rows as CSV, JSON lines or Parquet, as they come."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from pneumonia.errors import DataError, UsageError
from pneumonia.prediction.batch import COLUMNS, Row

Write = Callable[[list[Row]], None]


@contextmanager
def open_writer(file_format: str, output: Path | None) -> Iterator[Write]:
    """Open a file, or standard output, to write rows to.

    A file appears under its name when it is complete, so that no half of one is mistaken for it.

    Args:
        file_format: ``csv``, ``jsonl`` or ``parquet``.
        output: The file; None is standard output.

    Raises:
        DataError: The file cannot be written.
        UsageError: Parquet was asked for on a terminal.
    """
    if output is None:
        if file_format == "parquet" and sys.stdout.isatty():
            raise UsageError("parquet is not text: give --output FILE")
        with _writer(file_format, None) as write:
            yield write
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        with _writer(file_format, partial) as write:
            yield write
        partial.replace(output)
    except OSError as error:
        raise DataError(f"cannot write {str(output)!r}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writer(file_format: str, path: Path | None) -> Iterator[Write]:
    with ExitStack() as stack:
        if file_format == "parquet":
            yield stack.enter_context(_parquet(path))
            return
        out = (
            sys.stdout
            if path is None
            else stack.enter_context(
                path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            )
        )
        if file_format == "csv":
            table = csv.DictWriter(_UnixLines(out), COLUMNS, lineterminator="\r\n")
            table.writeheader()
            yield table.writerows
        else:
            yield lambda rows: out.writelines(f"{json.dumps(row)}\n" for row in rows)


class _UnixLines:
    """Ends rows with a line feed, where the csv module writes \\r\\n.

    The module quotes a \\r within a value only if its own line ending contains one.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: str) -> int:
        """Write one row."""
        return self._out.write(row.removesuffix("\r\n") + "\n")


@contextmanager
def _parquet(path: Path | None) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [(name, pa.float64() if name == "probability" else pa.string()) for name in COLUMNS]
    )
    with pq.ParquetWriter(path or sys.stdout.buffer, schema) as writer:
        yield lambda rows: writer.write_table(
            pa.Table.from_pylist([row | {"path": _utf8(row["path"])} for row in rows], schema)
        )


def _utf8(path: str) -> str:
    """A path as Parquet can hold it: bytes that are not UTF-8 become \\xe9 and the like."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
