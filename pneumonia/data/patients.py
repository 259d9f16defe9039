"""Which patient an image shows, by its path, a table or its DICOM header."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pneumonia.errors import UsageError

_PUBLISHED = (
    # NIH ChestX-ray14 (Wang et al. 2017): 00000013_005.
    re.compile(r"(?:^|/)(?P<number>\d{8})_\d{3}$"),
    # CheXpert (Irvin et al. 2019): patient00001/study1/view1_frontal.
    re.compile(r"(?:^|/)(?P<series>patient)(?P<number>\d{5,})[/_]study\d+[/_]", re.IGNORECASE),
    # MIMIC-CXR (Johnson et al. 2019): p10/p10000032/s50414267/….
    re.compile(r"(?:^|/)(?P<series>p)(?P<number>\d{8})/s\d{8}/"),
    # Indiana University (Demner-Fushman et al. 2016): CXR1000_IM-0003-2001.
    re.compile(r"(?:^|/)(?P<series>CXR)(?P<number>\d+)_(?:IM-\d+-)?\d+", re.IGNORECASE),
    # Montgomery and Shenzhen (Jaeger et al. 2014): MCUCXR_0001_0.
    re.compile(r"(?:^|/)(?P<series>MCUCXR|CHNCXR)_(?P<number>\d{4})_[01]", re.IGNORECASE),
    # chest_xray (Kermany et al. 2018), versions 2 and 3, also as copies that augmentation tools
    # name aug_0_person12_virus_46. Bacteria and virus patients, and the series of normal ones, are
    # numbered independently, so the number alone is no key.
    re.compile(
        r"(?<![a-z])person ?(?P<number>\d+)_(?P<pathogen>bacteria|virus)_\d+[^/]*$", re.IGNORECASE
    ),
    re.compile(r"(?<![a-z])(?P<pathogen>bacteria|virus)-(?P<number>\d+)-\d+[^/]*$", re.IGNORECASE),
    re.compile(
        r"(?<![a-z])(?P<series>(?:NORMAL2?-)?IM|NORMAL)-(?P<number>\d+)-\d+[^/]*$", re.IGNORECASE
    ),
)
"""Names of public data sets, searched in the path without its ending."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Who an image shows.

    Attributes:
        key: Equal for two images exactly when they show the same patient.
        pathogen: ``bacteria``, ``virus``, or None where the name does not tell.
        known: Whether a pattern matched; otherwise the image is its own patient.
        identifier: What names the patient in files that are written, where that is not ``key``.
    """

    key: str
    pathogen: str | None
    known: bool
    identifier: str = ""

    @property
    def name(self) -> str:
        """What names the patient in files that are written."""
        return self.identifier or self.key


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


def identified_patient(identifier: str, *, keep: bool) -> Patient:
    """The patient of an id in a table or a DICOM file.

    Args:
        identifier: The id.
        keep: Whether files that are written name the patient by it; else a hash does, which is the
            key in any case, so that the split does not depend on this.
    """
    hashed = hashlib.blake2b(identifier.encode(), digest_size=8).hexdigest()
    return Patient(f"patient-{hashed}", None, known=True, identifier=identifier if keep else "")


def patient_of(path: str, own_key: str, pattern: re.Pattern[str] | None = None) -> Patient:
    """Tell the patient from where an image is.

    Args:
        path: The file's path relative to the data set, with ``/`` on every system.
        own_key: What to call the patient when no pattern matches: unique to the image.
        pattern: The user's pattern, with a ``patient`` group, searched in the whole path; without
            one the names of public data sets.
    """
    if pattern is not None:
        match = pattern.search(path)
        if match is None or not match["patient"]:
            return Patient(own_key, None, known=False)
        return Patient(match["patient"], None, known=True)
    stem = str(PurePosixPath(path).with_suffix(""))
    for published in _PUBLISHED:
        if match := published.search(stem):
            groups = match.groupdict()
            pathogen = (groups.get("pathogen") or "").lower() or None
            family = pathogen or groups.get("series", "nih").upper()
            return Patient(f"{family}-{match['number']}", pathogen, known=True)
    return Patient(own_key, None, known=False)
