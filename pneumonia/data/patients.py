"""Which patient an image shows, read from its path."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pneumonia.errors import UsageError

_PUBLISHED = (
    # chest_xray (Kermany et al. 2018), versions 2 and 3. Bacteria and virus patients, and the two
    # series of normal ones, are numbered independently, so the number alone is no key.
    re.compile(r"person(?P<number>\d+)_(?P<pathogen>bacteria|virus)_\d+", re.IGNORECASE),
    re.compile(r"(?P<pathogen>BACTERIA|VIRUS)-(?P<number>\d+)-\d+"),
    re.compile(r"(?P<series>(?:NORMAL2?-)?IM|NORMAL)-(?P<number>\d+)-\d+"),
)


@dataclass(frozen=True, slots=True)
class Patient:
    """Who an image shows.

    Attributes:
        key: Equal for two images exactly when they show the same patient.
        pathogen: ``bacteria``, ``virus``, or None where the name does not tell.
        known: Whether a pattern matched; otherwise the image is its own patient.
    """

    key: str
    pathogen: str | None
    known: bool


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Check a ``--patient-pattern``.

    Raises:
        UsageError: It is no regular expression, or has no group named ``patient``.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"patient_pattern {pattern!r} is no regular expression: {error}") from None
    if "patient" not in compiled.groupindex:
        raise UsageError(
            f"patient_pattern {pattern!r} has no group named 'patient'; "
            "write for instance '(?P<patient>[0-9]+)_'"
        )
    return compiled


def patient_of(path: str, own_key: str, pattern: re.Pattern[str] | None = None) -> Patient:
    """Tell the patient from where an image is.

    Args:
        path: The file's path relative to the data set, with ``/`` on every system.
        own_key: What to call the patient when no pattern matches: unique to the image.
        pattern: The user's pattern, with a ``patient`` group, searched in the whole path; without
            one the published names, matched against the file's name.
    """
    if pattern is not None:
        match = pattern.search(path)
        if match is None or not match["patient"]:
            return Patient(own_key, None, known=False)
        return Patient(match["patient"], None, known=True)
    stem = PurePosixPath(path).stem
    for published in _PUBLISHED:
        if match := published.match(stem):
            groups = match.groupdict()
            pathogen = groups.get("pathogen")
            family = pathogen.lower() if pathogen else groups["series"]
            return Patient(f"{family}-{match['number']}", pathogen and family, known=True)
    return Patient(own_key, None, known=False)
