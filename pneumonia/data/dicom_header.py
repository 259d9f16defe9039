"""What a DICOM file's header says of the patient, and of how the image was taken."""

import io
import re

from pneumonia.data.dicom import check_inflated

_ATTRIBUTES = {"sex": "PatientSex", "view": "ViewPosition", "manufacturer": "Manufacturer"}
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
"""A unit of PatientAge (DICOM PS3.5, value representation AS)."""


def read_header(encoded: bytes) -> tuple[str, dict[str, str]]:
    """The PatientID, and what else is known: age in years, sex, view, manufacturer.

    Both are empty where the file says nothing, or pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError:
        return "", {}
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    wanted = ["PatientID", "PatientAge", *_ATTRIBUTES.values()]
    try:
        check_inflated(encoded)
        header = pydicom.dcmread(
            io.BytesIO(encoded), force=True, stop_before_pixels=True, specific_tags=wanted
        )
        said = {name: str(header.get(name) or "").strip() for name in wanted}
    except Exception:  # noqa: BLE001 - decoding meets the same damage, and reports it
        return "", {}
    known = {name: said[tag] for name, tag in _ATTRIBUTES.items()}
    known["age"] = _years(said["PatientAge"])
    return said["PatientID"], {name: value for name, value in known.items() if value}


def _years(age: str) -> str:
    """``058Y`` or ``006M`` as years; empty for anything else."""
    match = re.fullmatch(r"(\d{3})([DWMY])", age)
    return f"{int(match[1]) * _YEARS[match[2]]:.3g}" if match else ""
