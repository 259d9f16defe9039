"""Results as DICOM objects: read back as another program would read them."""

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install 'pneumonia[dicom]'")
pytest.importorskip("highdicom", reason="needs highdicom: pip install 'pneumonia[dicom]'")
from highdicom.sr import srread  # noqa: E402
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage  # noqa: E402

from tests.test_dicom import dataset_of, encoded  # noqa: E402

Cli = Callable[..., Result]
PATIENT = {
    "PatientID": "H-1234",
    "PatientName": "Doe^Jane",
    "PatientAge": "62",  # no age of the standard: 062Y is one
    "PatientSex": "female",  # nor is this
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "AccessionNumber": "A7",
}


@pytest.fixture
def radiograph(xrays: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a DICOM file of an X-ray."""

    def write(name: str = "scan.dcm", **values: Any) -> Path:
        image = next((xrays / "test" / "PNEUMONIA").iterdir())
        with Image.open(image) as opened:
            pixels = np.asarray(opened.convert("L"))
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the values that no standard has
            path.write_bytes(encoded(dataset_of(pixels, 8, **(PATIENT | values))))
        return path

    return write


@pytest.fixture
def explain(trained: SimpleNamespace, tmp_path: Path, run_cli: Cli) -> Cli:
    """Run ``explain --dicom`` with the model of ``trained``."""

    def run(*paths: object) -> Result:
        model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
        return run_cli("explain", *paths, "--dicom", "--output", tmp_path / "out", *model)

    return run


def items(content: Any) -> dict[str, Any]:
    """The values of a report by their names, those of the measurement group last."""
    found: dict[str, Any] = {}
    for item in content:
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "CONTAINER":
            found |= items(item.ContentSequence)
        elif item.ValueType == "CODE":
            found[name] = item.ConceptCodeSequence[0]
        elif item.ValueType == "NUM":
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
        elif item.ValueType == "IMAGE":
            found[name] = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        elif name == "Algorithm Parameters":
            found.setdefault(name, []).append(item.TextValue)
        elif item.ValueType == "TEXT":
            found[name] = item.TextValue
    return found


def test_the_capture_and_the_report_say_what_predict_says(
    explain: Cli, predict: Cli, radiograph: Callable[..., Path], tmp_path: Path
) -> None:
    scan = radiograph()
    source = pydicom.dcmread(scan)
    result = explain(scan)
    assert result.exit_code == 0, result.stderr
    capture = pydicom.dcmread(tmp_path / "out" / "00001-scan.dcm")
    report = srread(tmp_path / "out" / "00001-scan-report.dcm")
    assert result.stdout.split("\t")[3].strip() == str(tmp_path / "out" / "00001-scan.dcm")
    assert (capture.SOPClassUID, report.SOPClassUID) == (
        SecondaryCaptureImageStorage,
        ComprehensiveSRStorage,
    )
    for written in (capture, report):
        assert written.ContentQualification == "RESEARCH"
        assert written.StudyInstanceUID == source.StudyInstanceUID
        assert (written.PatientID, written.PatientName) == ("H-1234", "Doe^Jane")
        assert written.AccessionNumber == "A7"
        assert not written.PatientSex
        assert "PatientAge" not in written
        assert written.SeriesInstanceUID != source.SeriesInstanceUID
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")

    (row,) = csv.DictReader(predict(scan).stdout.splitlines())
    said = items(report.ContentSequence)
    assert said["Probability of PNEUMONIA"] == pytest.approx(float(row["probability"]), abs=1e-6)
    assert said["Finding"].CodeMeaning.upper() == row["label"]
    assert said["Finding"].CodingSchemeDesignator == "SCT"
    assert said["Source of Measurement"] == source.SOPInstanceUID
    assert (said["Algorithm Name"], said["Algorithm Version"]) == (row["model"], row["run"])
    assert any(
        text.startswith(f"threshold {float(row['threshold']):.6g}")
        for text in said["Algorithm Parameters"]
    )

    picture = capture.pixel_array  # (H, W, 3)
    assert picture.shape[1] == 512
    assert picture.shape[0] > 512
    assert np.ptp(picture[:512].astype(int), axis=2).max() > 100, "no heat is seen"
    assert (picture[512:] > 200).any(), "no text is seen"
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_results_are_never_read_as_radiographs(
    explain: Cli, predict: Cli, radiograph: Callable[..., Path], tmp_path: Path
) -> None:
    scan = radiograph()
    assert explain(scan).exit_code == 0
    (tmp_path / "out" / "scan.dcm").write_bytes(scan.read_bytes())
    rows = predict(tmp_path / "out")
    assert rows.stdout.count("\n") == 2
    assert "2 result of explain" in rows.stderr
    named = predict(tmp_path / "out" / "00001-scan.dcm")
    assert named.exit_code == 1
    assert "a result of this package, no radiograph" in named.stdout


def test_what_belongs_to_no_study_gets_a_reason_and_others_get_their_reports(
    explain: Cli, radiograph: Callable[..., Path], xrays: Path, tmp_path: Path
) -> None:
    image = next((xrays / "test" / "NORMAL").iterdir())
    scans = radiograph("a.dcm", StudyInstanceUID=""), radiograph("b.dcm")
    result = explain(*scans, image)
    assert result.exit_code == 1
    assert "has no StudyInstanceUID" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00002-b-report.dcm",
        "00002-b.dcm",
        f"00003-{image.stem}.png",
    ]


def test_no_identifier_is_printed(
    explain: Cli, radiograph: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """The library warns of unusual names, and quotes them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = explain(radiograph(PatientName="Unusual name, secret"))
    assert result.exit_code == 0, result.stderr
    assert "secret" not in result.stdout + result.stderr + "".join(capfd.readouterr())
    assert not [warning for warning in caught if "secret" in str(warning.message)]
