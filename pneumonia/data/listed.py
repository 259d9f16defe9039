"""The images that a table of labels names, found below a folder."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from pneumonia.config.data import names, part_name
from pneumonia.data.folders import Found, image_files, walk_images
from pneumonia.data.patients import Patient, compile_pattern, identified_patient, patient_of
from pneumonia.data.tables import Record, read_records
from pneumonia.errors import DataError


def find_listed(
    root: Path,
    table: Path,
    *,
    findings: str,
    class_names: tuple[str, str],
    patient_pattern: str = "",
    skip_missing: bool = False,
    keep_identifiers: bool = False,
) -> Found:
    """Find every image that a table names, with its label, patient and digest.

    A table may name an image by a path of which the folder holds only the end, by its file name, or
    by that without its ending.

    Args:
        root: Folder with the images, at any depth.
        table: The table, as ``read_records`` takes it.
        findings: The findings that make an image positive, separated by commas.
        class_names: The negative and the positive class.
        patient_pattern: A regular expression with a ``patient`` group, or empty; it goes before
            the table's patient.
        skip_missing: Whether to leave out and count images that are not there.
        keep_identifiers: As ``identified_patient`` takes it.

    Raises:
        DataError: The table cannot be read, or an image is missing or ambiguous.
        UsageError: The pattern is not usable, or the table knows none of the findings.
    """
    pattern = compile_pattern(patient_pattern) if patient_pattern else None
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the table {str(table)!r}: {error}") from None
    records, left_out = read_records(text, str(table), names(findings), class_names)
    skipped = left_out.copy()
    if not root.is_dir():
        raise DataError(f"there is no folder {str(root)!r}")
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in walk_images(root, skipped):
        by_name[file.name.casefold()].append(file)
        if file.stem.casefold() != file.name.casefold():
            by_name[file.stem.casefold()].append(file)
    labelled = []
    missing = []
    for record in records:
        if (found := _file_of(record.image, root, by_name)) is None:
            missing.append(record.image)
            continue
        labelled.append((part_name(record.split), record.label, found, record))
    if missing and not skip_missing:
        raise DataError(
            f"{len(missing):,} images that {str(table)!r} names are not below {str(root)!r} (such "
            f"as {missing[0]!r}): add them, or leave them out with --skip-unreadable"
        )
    if missing:
        skipped["listed but missing"] += len(missing)
    tell = partial(_patient, root=root, pattern=pattern, keep=keep_identifiers)
    patients = [tell(record, file) for _, _, file, record in labelled]
    files = [entry[:3] for entry in labelled]
    images = image_files(files, patients, keep_identifiers=keep_identifiers)
    described = [
        replace(image, attributes={**image.attributes, **record.attributes})
        for image, (_, _, _, record) in zip(images, labelled, strict=True)
    ]
    return Found(described, skipped)


def _file_of(name: str, root: Path, by_name: Mapping[str, Sequence[Path]]) -> Path | None:
    """The file whose path ends most like the name; None where there is none of the name."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    candidates = by_name.get(parts[-1].casefold(), ()) if parts else ()
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    alike = [_common_end(parts, file.relative_to(root).parts) for file in candidates]
    best = [file for file, n in zip(candidates, alike, strict=True) if n == max(alike)]
    if len(best) > 1:
        raise DataError(
            f"{name!r} is {str(best[0])!r} or {str(best[1])!r}: write its path in the table"
        )
    return best[0]


def _common_end(one: Iterable[str], other: Sequence[str]) -> int:
    """How many last parts of two paths are equal, after the last, which is."""
    count = 0
    for a, b in zip(list(one)[-2::-1], other[-2::-1], strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count


def _patient(
    record: Record, file: Path, *, root: Path, pattern: re.Pattern[str] | None, keep: bool
) -> Patient | None:
    """The patient by the pattern, by the table, or by the path; None leaves it to the file."""
    path = file.relative_to(root).as_posix()
    if pattern is not None:
        return patient_of(path, str(file), pattern)
    if record.patient:
        return identified_patient(record.patient, keep=keep)
    known = patient_of(path, str(file))
    return known if known.known else None
