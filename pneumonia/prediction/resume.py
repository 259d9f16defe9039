"""Going on with an output that was stopped half-way, and dividing a job among machines."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pneumonia.data.decode_ahead import File
from pneumonia.errors import DataError, UsageError
from pneumonia.files import unfinished_writes
from pneumonia.prediction.batch import COLUMNS, SCORED, Row


def partial_file(output: Path) -> Path:
    """Where the rows of a job that was stopped are kept."""
    return output.with_name(f"{output.stem}.partial{output.suffix}")


def kept_rows(output: Path, file_format: str, scored_by: Mapping[str, Any]) -> list[Row]:
    """The rows of images that were read, which a stopped job left; the first of each path.

    They are looked for in the output, in its ``.partial`` file, and in what a killed process was
    writing, of which a last line that was cut is left out.

    Args:
        output: The job's output.
        file_format: ``csv``, ``jsonl`` or ``parquet``.
        scored_by: What they must have been scored by: the value of each column, such as ``model``.

    Raises:
        DataError: They were scored by something else.
    """
    kept: dict[str, Row] = {}
    for file in (output, partial_file(output), *unfinished_writes(output.parent, output.name)):
        for row in _read(file, file_format):
            if row["status"] not in SCORED:
                continue  # it may be readable now, or asked for without the gate
            for column, value in scored_by.items():
                if row[column] != value:
                    raise DataError(
                        f"{str(file)!r} holds rows with {column} = {row[column]}, not {value}: "
                        "name another file"
                    )
            kept.setdefault(row["path"], row)
    return list(kept.values())


def shard(files: Iterable[File], which: str) -> Iterator[File]:
    """Every n-th file: the part of one of several machines that are given the same files.

    Args:
        files: The files, in the same order everywhere.
        which: ``K/N``: part K of N, from 1; empty for all.

    Raises:
        UsageError: It is not of that form.
    """
    if not which:
        yield from files
        return
    part, _, parts = which.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"shard = {which!r}: give K/N, such as 3/8")
    for number, file in enumerate(files):
        if number % int(parts) == int(part) - 1:
            yield file


def _read(file: Path, file_format: str) -> Iterator[Row]:
    """The whole rows of a file; none of one that is missing or was cut where it cannot be read."""
    if not file.is_file():
        return
    if file_format == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        with suppress(pa.ArrowInvalid):  # without its end, as a killed process leaves it
            yield from pq.read_table(file).to_pylist()
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
        text = opened.read()
    lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")  # whole ones
    rows = csv.DictReader(lines) if file_format == "csv" else map(json.loads, lines)
    with suppress(ValueError):  # what is no table of ours has no rows to keep
        for row in rows:
            if set(row) == set(COLUMNS) and row["threshold"] is not None:
                yield _typed(row)


def _typed(row: dict[str, Any]) -> Row:
    """A row as it was before it became text."""
    numbers = ("probability", "threshold", "coverage", "temperature", "intercept")
    found = {name: None if row[name] in ("", None) else float(row[name]) for name in numbers}
    return row | found
