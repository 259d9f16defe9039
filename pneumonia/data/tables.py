"""Labels from a table: our own plain one, and those of public data sets as they are downloaded."""

import ast
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pneumonia.errors import DataError, UsageError

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One image that a table names.

    Attributes:
        image: Its path, name, or name without ending, as the table has it.
        label: 0 negative, 1 positive.
        patient: The patient's id; empty where the table has none.
        split: The role that the table gives it; empty where it gives none.
        attributes: What else the table says of it: in a plain table all other columns, in published
            ones age, sex and view.
    """

    image: str
    label: int
    patient: str = ""
    split: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def read_records(
    text: str, where: str, findings: Sequence[str], class_names: tuple[str, str]
) -> tuple[list[Record], Counter[str]]:
    """Read a table of labels, of the format that its columns tell.

    In the tables of public data sets an image with one of the findings is positive, an image
    without any finding is negative, and images with other findings only are left out.

    Args:
        text: The table, as CSV.
        where: What to call it in errors.
        findings: The findings that make an image positive.
        class_names: The negative and the positive class, which a plain table names.

    Returns:
        A record an image, and counts by kind of what was left out.

    Raises:
        DataError: The table is of no known format, or calls one image by two labels.
        UsageError: No row has one of the findings.
    """
    try:
        rows = _rows(text)
        columns = set(rows[0]) if rows else set()
        if {"path", "label"} <= columns:
            return _one_label_each(_plain(rows, class_names, where), where), Counter()
        for needed, read in _FORMATS.items():
            if set(needed) <= columns:
                return _published(rows, read, where, findings)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where} has a value that cannot be read: {error}") from None
    raise DataError(
        f"{where} is no table of labels: it needs the columns path and label (and patient, split), "
        "or those of NIH ChestX-ray14, RSNA, CheXpert, VinDr-CXR or PadChest"
    )


def _rows(text: str) -> list[Row]:
    """The rows, by column names in lower case; what lies beyond the header is left out."""
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    return [{k.strip().casefold(): v or "" for k, v in row.items() if k} for row in reader]


def _published(
    rows: Sequence[Row], read: "_Reader", where: str, findings: Sequence[str]
) -> tuple[list[Record], Counter[str]]:
    left_out: Counter[str] = Counter()
    wanted = {finding.strip().casefold(): finding for finding in findings}
    seen: set[str] = set()
    records = _one_label_each(read(rows, set(wanted), seen, left_out), where)
    if unknown := wanted.keys() - seen:
        raise UsageError(
            f"{where} has no finding {wanted[min(unknown)]!r}: choose --findings from "
            f"{', '.join(sorted(seen))}"
        )
    return records, left_out


def _plain(rows: Sequence[Row], class_names: tuple[str, str], where: str) -> Iterator[Record]:
    meaning = {"0": 0, "1": 1, **{name.casefold(): i for i, name in enumerate(class_names)}}
    for number, row in enumerate(rows, start=2):
        label = row["label"].strip().casefold()
        if label not in meaning:
            raise DataError(
                f"{where}, line {number}: label {row['label']!r} is none of 0, 1, "
                f"{', '.join(class_names)}"
            )
        yield Record(
            row["path"],
            meaning[label],
            row.get("patient", "").strip(),
            row.get("split", "").strip(),
            {name: value.strip() for name, value in row.items() if name not in _PLAIN},
        )


def _nih(
    rows: Sequence[Row], wanted: set[str], seen: set[str], left_out: Counter[str]
) -> Iterator[Record]:
    """``Data_Entry_2017_v2020.csv`` (Wang et al. 2017)."""
    for row in rows:
        found = {finding.strip().casefold() for finding in row["finding labels"].split("|")}
        label = _label(found, wanted, {"no finding"}, seen, left_out)
        if label is not None:
            yield Record(row["image index"], label, row["patient id"], attributes=_known(row))


def _rsna(
    rows: Sequence[Row], wanted: set[str], seen: set[str], left_out: Counter[str]
) -> Iterator[Record]:
    """``stage_2_train_labels.csv``: a row a box, and Target the whole image's label."""
    del left_out
    seen |= wanted  # the table is about pneumonia alone
    labels: dict[str, int] = {}
    for row in rows:
        labels[row["patientid"]] = max(labels.get(row["patientid"], 0), int(row["target"]))
    for image, label in labels.items():
        yield Record(image, label)


def _chexpert(
    rows: Sequence[Row], wanted: set[str], seen: set[str], left_out: Counter[str]
) -> Iterator[Record]:
    """``train.csv`` (Irvin et al. 2019): 1 there, 0 not, -1 uncertain, blank not mentioned."""
    for row in rows:
        if row["frontal/lateral"].casefold() != "frontal":
            left_out["lateral view"] += 1
            continue
        seen |= row.keys() - {"path", "sex", "age", "frontal/lateral", "ap/pa"}
        values = {finding: float(row[finding]) for finding in wanted if row.get(finding, "")}
        if 1 in values.values():
            yield Record(row["path"], 1, attributes=_known(row))
        elif -1 in values.values():
            left_out["uncertain"] += 1
        elif 0 in values.values() or row["no finding"] == "1.0":
            yield Record(row["path"], 0, attributes=_known(row))
        else:
            left_out["not mentioned"] += 1


def _vindr(
    rows: Sequence[Row], wanted: set[str], seen: set[str], left_out: Counter[str]
) -> Iterator[Record]:
    """``train.csv`` (Nguyen et al. 2022): a row a box of a reader; most readers decide."""
    said: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        said[row["image_id"]][row["rad_id"]].add(row["class_name"].strip().casefold())
    for image, readers in said.items():
        votes = Counter(
            _label(found, wanted, {"no finding"}, seen, Counter()) for found in readers.values()
        )
        winner, count = votes.most_common(1)[0]
        if winner is None or 2 * count <= len(readers):
            left_out["no majority of readers"] += 1
        else:
            yield Record(image, winner)


def _padchest(
    rows: Sequence[Row], wanted: set[str], seen: set[str], left_out: Counter[str]
) -> Iterator[Record]:
    """``PADCHEST_chest_x_ray_images_labels.csv`` (Bustos et al. 2020): a Python list in a cell."""
    for row in rows:
        if row["projection"].upper() not in {"PA", "AP", "AP_HORIZONTAL"}:
            left_out["lateral view"] += 1
            continue
        try:
            listed = ast.literal_eval(row["labels"])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            listed = []
        listed = listed if isinstance(listed, list) else []  # a number, say
        found = {str(name).strip().casefold() for name in listed if name}
        label = _label(found, wanted, {"normal"}, seen, left_out)
        if label is not None:
            yield Record(row["imageid"], label, row["patientid"], attributes=_known(row))


def _known(row: Row) -> dict[str, str]:
    """Age, sex and view in a row of a published table."""
    return {
        name: row[column].strip()
        for name, columns in _KNOWN.items()
        for column in columns
        if column in row
    }


def _label(
    found: set[str], wanted: set[str], healthy: set[str], seen: set[str], left_out: Counter[str]
) -> int | None:
    """1 for a wanted finding, 0 for none at all, None for others only."""
    seen |= found
    if found & wanted:
        return 1
    if found and found <= healthy:
        return 0
    left_out["other findings"] += 1
    return None


def _one_label_each(records: Iterable[Record], where: str) -> list[Record]:
    """Leave out repeated rows, and refuse contradicting ones."""
    kept: dict[str, Record] = {}
    for record in records:
        if kept.setdefault(record.image, record).label != record.label:
            raise DataError(f"{where} calls {record.image!r} both positive and negative")
    return list(kept.values())


_PLAIN = {"path", "label", "patient", "split"}
"""The columns of a plain table that have a meaning of their own."""

_KNOWN = {
    "age": ("patient age", "age"),
    "sex": ("patient gender", "sex", "patientsex_dicom"),
    "view": ("view position", "ap/pa", "projection"),
}
"""What published tables call age, sex and view, in lower case."""

_Reader = Callable[[Sequence[Row], set[str], set[str], Counter[str]], Iterator[Record]]

_FORMATS: Mapping[tuple[str, ...], _Reader] = {
    ("image index", "finding labels", "patient id"): _nih,
    ("patientid", "x", "y", "target"): _rsna,
    ("path", "frontal/lateral", "no finding"): _chexpert,
    ("image_id", "class_name", "rad_id"): _vindr,
    ("imageid", "labels", "projection", "patientid"): _padchest,
}
"""What reads a table, by columns that it has, in lower case."""
