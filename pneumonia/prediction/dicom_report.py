"""What a model says of a DICOM radiograph, as DICOM objects of the same study, for research."""

import io
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pneumonia import __version__
from pneumonia.data.dicom import WRITER
from pneumonia.data.limits import UnreadableImageError
from pneumonia.errors import UsageError
from pneumonia.files import atomic_write
from pneumonia.tracking.model_files import LoadedModel

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_OF_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
"""What every object of a study repeats, though it may be empty (DICOM PS3.3, C.7.1.1, C.7.2.1)."""

_SNOMED = {"pneumonia": ("233604007", "Pneumonia"), "normal": ("17621005", "Normal")}
_OWN_SCHEME = "99PNEUMONIA"
"""Names what SNOMED CT has no code for here: other names of classes (DICOM PS3.16, 8.2)."""

_RESEARCH = "RESEARCH ONLY, NOT FOR DIAGNOSIS"
_SERIES_NUMBERS = (9001, 9002)
"""Of the capture and the report: behind the series that a study has."""

_OF_DAMAGED_VALUES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_LINE = 22
_TEXT_SIZE = 14
"""Pixels of the lines under the picture."""


def write_dicom_results(
    model: LoadedModel,
    encoded: bytes,
    result: Mapping[str, Any],
    drawn: NDArray[np.uint8],
    target: Path,
) -> tuple[Path, Path]:
    """Write a secondary capture of an overlay and a structured report of the result.

    Both belong to the study of the radiograph and repeat its identifiers, as DICOM wants it. Their
    content is qualified as research (DICOM PS3.3, C.8.13.2.1.1), and the report is preliminary and
    unverified. It follows the template of measurement reports (DICOM PS3.16, TID 1500): the
    finding, its probability, the model as the algorithm with its version and parameters, and the
    radiograph as the source.

    Args:
        model: The model.
        encoded: The radiograph's bytes.
        result: Its row as ``score`` yields it, with a probability.
        drawn: The overlay, uint8 (H, W, 3).
        target: Where to write, without an ending.

    Returns:
        The paths of the capture, ``TARGET.dcm``, and of the report, ``TARGET-report.dcm``.

    Raises:
        OSError: The folder cannot be written to.
        UnreadableImageError: The radiograph names no study, or its header is damaged.
        UsageError: highdicom is not installed.
    """
    check_installed()
    picture = _captioned(drawn, _caption(model, result))
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, and those may name the patient
            source = _source(encoded)
            capture = _capture(source, picture)
            report = _report(source, model, result)
    except UnreadableImageError:
        raise
    except _OF_DAMAGED_VALUES as error:  # whose message may quote the value
        raise UnreadableImageError(
            f"no report can be made of this header ({type(error).__name__})"
        ) from None
    paths = target.with_name(f"{target.name}.dcm"), target.with_name(f"{target.name}-report.dcm")
    for dataset, path in zip((capture, report), paths, strict=True):
        dataset.file_meta.ImplementationVersionName = WRITER
        with atomic_write(path) as unfinished:
            dataset.save_as(unfinished, enforce_file_format=True)
    return paths


def check_installed() -> None:
    """Raise ``UsageError`` where the libraries are missing."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UsageError("--dicom needs highdicom: pip install 'pneumonia[dicom]'") from None


def _source(encoded: bytes) -> Any:
    """The header of a radiograph, with all that its study's objects repeat."""
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    header = pydicom.dcmread(io.BytesIO(encoded), force=True, stop_before_pixels=True)
    if missing := [name for name in _IDENTITY if not header.get(name)]:
        raise UnreadableImageError(f"has no {missing[0]}, so no report can refer to it")
    for name in _OF_STUDY:
        if name not in header:
            setattr(header, name, None)
    if not header.get("Modality"):
        header.Modality = "OT"  # other
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None
    if not re.fullmatch(r"\d{3}[DWMY]", str(header.get("PatientAge", ""))):
        header.pop("PatientAge", None)  # the standard allows none, but no malformed one
    return header


def _capture(source: Any, picture: NDArray[np.uint8]) -> Any:
    import highdicom
    from pydicom.dataset import Dataset

    capture = highdicom.sc.SCImage.from_ref_dataset(
        source,
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        **_instance(_SERIES_NUMBERS[0], "overlay"),
    )
    capture.BodyPartExamined = "CHEST"
    capture.BurnedInAnnotation = "YES"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    capture.SourceImageSequence = [reference]
    return capture


def _report(source: Any, model: LoadedModel, result: Mapping[str, Any]) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    config, positive = model.config, model.config.class_names[1]
    algorithm = sr.AlgorithmIdentification(
        name=model.uri,
        version=model.run_id or "unknown",
        parameters=[
            f"network {config.network}",
            f"threshold {result['threshold']:.6g} ({config.threshold_rule})",
            f"temperature {config.temperature:.6g}",
            f"intercept {config.intercept:.6g}",
            f"positive class {positive}",
            f"software pneumonia {__version__}",
            _RESEARCH,
        ],
        manufacturer="pneumonia",
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[model.uri, model.run_id or ""]),
            name="pneumonia",
            model_name=model.uri,
        ),
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(generate_uid(), positive),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(
                # The standard's "Probability" does not say of what.
                name=sr.CodedConcept("PROBABILITY", _OWN_SCHEME, f"Probability of {positive}"[:64]),
                value=float(f"{result['probability']:.6g}"),
                unit=codes.UCUM.NoUnits,
            )
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(name=codes.DCM.Finding, value=_concept(result["label"]))
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept("CHEST-XRAY", _OWN_SCHEME, "Chest X-ray"),
        imaging_measurements=[group],
    )
    return sr.ComprehensiveSR(
        [source], content[0], **_instance(_SERIES_NUMBERS[1], "report"), is_complete=True
    )


def _instance(series_number: int, kind: str) -> dict[str, Any]:
    """What identifies an object and its maker, each in a series of its own."""
    from highdicom import UID
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    own = CodingSchemeIdentificationItem(_OWN_SCHEME, name="Classes of the pneumonia package")
    return {
        "series_instance_uid": UID(),
        "series_number": series_number,
        "sop_instance_uid": UID(),
        "instance_number": 1,
        "manufacturer": "pneumonia",
        "manufacturer_model_name": "pneumonia",
        "software_versions": __version__,
        "device_serial_number": "none",
        "series_description": f"pneumonia {kind}: research only",
        "content_qualification": "RESEARCH",
        "coding_schemes": [own],
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    }


def _concept(name: str) -> Any:
    """The code of a class: of SNOMED CT where there is one, else its name."""
    from highdicom.sr import CodedConcept

    if known := _SNOMED.get(name.casefold()):
        return CodedConcept(known[0], "SCT", known[1])
    return CodedConcept(name[:16], _OWN_SCHEME, name[:64])


def _caption(model: LoadedModel, result: Mapping[str, Any]) -> list[str]:
    probability = f"probability of {model.config.class_names[1]} {result['probability']:.3f}"
    decision = f"{result['label']}: {probability}, threshold {result['threshold']:.2f}"
    return [decision, model.uri, _RESEARCH]


def _captioned(drawn: NDArray[np.uint8], lines: list[str]) -> NDArray[np.uint8]:
    """The picture, uint8 (H, W, 3), with lines of text under it, uint8 (H + lines, W, 3)."""
    height, width, _ = drawn.shape
    canvas = Image.new("RGB", (width, height + _LINE * len(lines) + _LINE // 2))
    canvas.paste(Image.fromarray(drawn))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_SIZE)
    for number, line in enumerate(lines):
        shown = line
        while draw.textlength(shown, font) > width - _LINE:
            shown = shown.removesuffix("…")[:-1] + "…"
        draw.text((_LINE // 2, height + _LINE // 4 + number * _LINE), shown, "white", font)
    return np.asarray(canvas)
