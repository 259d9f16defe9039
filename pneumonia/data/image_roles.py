"""Which image plays which role, as a table, so that a split can be published and looked up."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pneumonia.data.folders import ImageFile

_COLUMNS = ("role", "path", "patient", "label", "digest")


def roles_as_csv(roles: Mapping[str, Sequence[ImageFile]], root: Path) -> str:
    """Write a row for each image, with its path below a folder; label 1 is the positive class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for role, images in roles.items():
        for image in images:
            path = os.path.relpath(image.path, root)
            writer.writerow([role, path, image.patient.name, image.label, image.digest])
    return text.getvalue()


def role_by_digest(text: str) -> dict[str, str]:
    """The role of each image, by the digest of its content, from what ``roles_as_csv`` wrote."""
    return {row["digest"]: row["role"] for row in csv.DictReader(io.StringIO(text))}
