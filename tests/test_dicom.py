"""DICOM files: from stored values to grey levels, and through the commands."""

import io
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.file_types import why_skipped
from pneumonia.data.limits import UnreadableImageError

pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install 'pneumonia[dicom]'")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

Cli = Callable[..., Result]
SIDE = 32
RAMP = np.tile(np.arange(SIDE, dtype=np.int64), (SIDE, 1))  # 0 at the left, 31 at the right


def dataset_of(pixels: np.ndarray, bits: int = 12, **values: Any) -> Dataset:
    """A radiograph that stores these values, (H, W)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = values.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = 1 if pixels.min() < 0 else 0
    kind = np.uint8 if bits == 8 else np.int16 if pixels.min() < 0 else np.uint16
    dataset.PixelData = pixels.astype(kind).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def levels(dataset: Dataset) -> np.ndarray:
    """The middle row as it is decoded, uint8 (SIDE,)."""
    return decode(encoded(dataset), Preprocessing(SIDE))[SIDE // 2]


def test_without_a_window_black_is_the_lowest_value_and_white_the_highest() -> None:
    shown = levels(dataset_of(RAMP * 30 + 1000))
    assert shown.tolist() == [round(place / 31 * 255) for place in range(SIDE)]


@given(st.integers(0, 3000), st.integers(2, 3000))
@settings(max_examples=30)
def test_a_window_is_that_of_the_standard(centre: int, width: int) -> None:
    """PS3.3 C.11.2.1.2.1: linear from centre - 0.5 - (width - 1) / 2 on."""
    stored = RAMP * 100
    shown = levels(dataset_of(stored, WindowCenter=centre, WindowWidth=width))
    share = (stored[0] - (centre - 0.5)) / (width - 1) + 0.5
    assert np.abs(shown - share.clip(0, 1) * 255).max() <= 1


def test_rescaling_comes_before_the_window() -> None:
    """Values 0 to 31, rescaled to -100 to 210, of which the window shows 0 to 100."""
    rescaled = {"RescaleSlope": 10, "RescaleIntercept": -100}
    shown = levels(dataset_of(RAMP, **rescaled, WindowCenter=50, WindowWidth=101))
    assert shown[:10].tolist() == [0] * 10
    assert shown[20:].tolist() == [255] * 12
    assert shown[15] == pytest.approx(127.5, abs=2)


def test_signed_values_are_shown() -> None:
    assert levels(dataset_of(RAMP - 16)).tolist() == levels(dataset_of(RAMP)).tolist()


def test_a_lookup_table_is_applied() -> None:
    table = Dataset()
    table.LUTDescriptor = [32, 0, 8]
    table.LUTData = np.arange(255, -1, -8, dtype=np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    shown = levels(dataset_of(RAMP, VOILUTSequence=Sequence([table])))
    assert shown[0] == 255
    assert shown[31] == 7


def test_monochrome1_is_inverted_and_padding_is_black() -> None:
    stored = RAMP.copy()
    plain = levels(dataset_of(stored))
    inverted = levels(dataset_of(stored, PhotometricInterpretation="MONOCHROME1"))
    assert (plain.astype(int) + inverted == 255).all()
    stored[:, :4] = 4000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        padded = dataset_of(stored, PixelPaddingValue=4000, PhotometricInterpretation=photometric)
        shown = levels(padded)
        assert shown[:4].tolist() == [0] * 4
        assert {shown[4], shown[31]} == {0, 255}  # the padding does not stretch the range


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, "rle", "jpeg-ls", "jpeg 2000"],
)
def test_transfer_syntaxes_give_the_same_levels(syntax: str) -> None:
    wanted = levels(dataset_of(RAMP * 100))
    if syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        assert levels(dataset_of(RAMP * 100, syntax=syntax)).tolist() == wanted.tolist()
        return
    uid = {
        "rle": RLELossless,
        "jpeg-ls": pydicom.uid.JPEGLSLossless,
        "jpeg 2000": pydicom.uid.JPEG2000Lossless,
    }[syntax]
    dataset = dataset_of(RAMP * 100)
    dataset.compress(uid)
    assert levels(dataset).tolist() == wanted.tolist()


def test_a_file_without_preamble_is_known_by_its_content() -> None:
    content = encoded(dataset_of(RAMP))
    assert (
        decode(content[132:], Preprocessing(SIDE)).tolist()
        == decode(content, Preprocessing(SIDE)).tolist()
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"SOPClassUID": CTImageStorage}, "of another kind (CT Image Storage)"),
        ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, "raw detector values"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector values"),
        ({"NumberOfFrames": 2}, "holds 2 frames, not one image"),
        ({"Rows": 9}, "too small for a radiograph"),
        ({"Rows": 60000, "Columns": 60000}, "over the limit of 64 million"),
        ({"BitsAllocated": 13}, "damaged DICOM file ("),
        ({"SOPClassUID": "Doe^Jane"}, "of another kind (unknown), no radiograph"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnreadableImageError) as refused:
        levels(dataset_of(RAMP, **values))
    assert reason in str(refused.value)


def test_a_deflated_file_that_unpacks_to_too_much_is_refused() -> None:
    whole = encoded(dataset_of(RAMP, syntax=DeflatedExplicitVRLittleEndian))
    length = int.from_bytes(whole[140:144], "little")
    pack = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = bytes(10_000_000)
    bomb = whole[: 144 + length] + b"".join(pack.compress(zeros) for _ in range(40)) + pack.flush()
    assert len(bomb) < 1_000_000
    with pytest.raises(UnreadableImageError, match="unpacks to more than 300 MB"):
        decode(bomb, Preprocessing(SIDE))
    assert decode(whole, Preprocessing(SIDE))[0].tolist() == levels(dataset_of(RAMP)).tolist()


@pytest.mark.parametrize("side", [SIDE // 2, SIDE * 8])
def test_a_picture_of_another_size_than_the_header_says_is_refused(side: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "JPEG")
    dataset = dataset_of(RAMP, 8, syntax=JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([file.getvalue()])
    with pytest.raises(UnreadableImageError, match="another size than its header says"):
        levels(dataset)


def test_rows_are_windowed_as_the_whole_image_is() -> None:
    """Images of more rows than are windowed at once, by each of the three ways."""
    tall = np.arange(600 * 20, dtype=np.int64).reshape(600, 20) % 4096
    for values in ({}, {"WindowCenter": 2000, "WindowWidth": 1000}, {"PixelPaddingValue": 4095}):
        shown = decode(encoded(dataset_of(tall, **values)), Preprocessing(600))
        if "WindowCenter" in values:
            wanted = (tall - 0.5 - 1999.5) / 999 + 0.5  # DICOM PS3.3, C.11.2.1.2.1
        else:
            used = tall[tall != values.get("PixelPaddingValue", -1)]
            wanted = (tall - used.min()) / (used.max() - used.min())
            wanted[tall == values.get("PixelPaddingValue", -1)] = 0
        exact = Image.fromarray((wanted.clip(0, 1) * 255).round().astype(np.uint8))
        stretched = np.asarray(exact.resize((600, 600), Image.Resampling.BILINEAR))
        assert np.abs(shown.astype(int) - stretched).max() <= 1


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ({"NumberOfFrames": "12345678"}, b"12345678"),
        ({}, b"MONOCHROME2"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "SIGMOID "}, b"SIGMOID "),
        ({"SOPClassUID": "1.2.3.45"}, b"1.2.3.45"),
    ],
    ids=["frames", "colours", "window", "kind"],
)
def test_no_reason_quotes_a_value_of_the_file(values: dict[str, Any], written: bytes) -> None:
    """In a damaged file any value may be the patient's name."""
    content = encoded(dataset_of(RAMP, **values))
    assert content.count(written)
    name = b"DOE^JANE".ljust(len(written))
    with pytest.raises(UnreadableImageError) as refused:
        decode(content.replace(written, name), Preprocessing(SIDE))
    assert "doe" not in str(refused.value).casefold()


_WHOLE = encoded(dataset_of(RAMP, PatientID="A17", WindowCenter=9, WindowWidth=9))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_changed_bytes_raise_nothing_but_our_own_error(data: st.DataObject) -> None:
    content = bytearray(_WHOLE)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with suppress(UnreadableImageError):
        assert decode(bytes(content[:cut]), Preprocessing(SIDE)).shape == (SIDE, SIDE)


def _convert(image: Path, patient: str) -> None:
    """Replace an image file by the DICOM file of the same picture, without an ending."""
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L"))
    content = encoded(dataset_of(pixels, bits=8, PatientID=patient))
    image.unlink()
    image.with_suffix("").write_bytes(content)


@pytest.fixture
def exported(xrays: Path, tmp_path: Path) -> Path:
    """A data set as a hospital exports it: two images a patient, names that say nothing."""
    root = tmp_path / "exported"
    for name in ("NORMAL", "PNEUMONIA"):
        (root / name).mkdir(parents=True)
        files = sorted(xrays.glob(f"train/{name}/*"))[:16]
        for number, file in enumerate(files):
            copy = root / name / f"IM{number:06}.png"
            copy.write_bytes(file.read_bytes())
            _convert(copy, f"MRN {name} {number // 2}")
    scan = dataset_of(RAMP, SOPClassUID=CTImageStorage)
    (root / "NORMAL" / "slice.dcm").write_bytes(encoded(scan))
    return root


@pytest.mark.slow
def test_a_hospital_export_is_trained_on_and_predicted(
    exported: Path, workplace: Path, run_cli: Cli
) -> None:
    quick = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")
    result = run_cli("train", "--data", exported, *quick)
    assert result.exit_code == 0, result.stderr
    assert "1 DICOM that is no radiograph" in result.stderr
    assert "tell no patient" not in result.stderr
    for file in workplace.rglob("*.csv"):
        assert "MRN" not in file.read_text(), "a patient's number is never written out"
    tables = list(workplace.rglob("predictions_*.csv"))
    patients = [
        {row.split(",")[1] for row in table.read_text().splitlines()[1:]} for table in tables
    ]
    assert len(tables) == 2
    assert not set.intersection(*patients)
    assert all(patient.startswith("patient-") for role in patients for patient in role)
    one = exported / "NORMAL" / "IM000003"
    result = run_cli("predict", "--model-uri", "models:/resnet34/1", exported, one)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1 + 32 + 1
    assert result.stderr.count("1 DICOM that is no radiograph") == 1


@pytest.mark.parametrize("labels", [False, True])
def test_identifiers_are_kept_where_asked_for_and_the_split_is_the_same(
    exported: Path, tmp_path: Path, *, labels: bool
) -> None:
    wanted = DataSettings(data=str(exported))
    if labels:
        table = tmp_path / "table.csv"
        lines = [
            f"{file},{name},ID {name} {int(file.name[2:8]) // 2}"
            for name in ("NORMAL", "PNEUMONIA")
            for file in sorted((exported / name).glob("IM*"))
        ]
        table.write_text("\n".join(["path,label,patient", *lines]))
        wanted = wanted.with_values(labels=str(table))
    hashed, kept = (
        load_data_set(wanted.with_values(keep_identifiers=keep), Preprocessing(16, "stretch"))
        for keep in (False, True)
    )
    for role, images in hashed.roles.items():
        assert [image.path for image in images] == [image.path for image in kept.roles[role]]
    images = hashed.roles["train"]
    assert all(image.patient.name.startswith("patient-") for image in images)
    start = "ID" if labels else "MRN"
    named = {image.path: image.patient.name for image in kept.roles["train"]}
    for path, name in named.items():
        assert name == f"{start} {path.parent.name} {int(path.name[2:8]) // 2}"


def test_without_pydicom_the_remedy_is_named_and_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli
) -> None:
    root = tmp_path / "data"
    for name in ("NORMAL", "PNEUMONIA"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 4096, (SIDE, SIDE))
            content = encoded(dataset_of(pixels, PatientID=f"{name}{number}"))
            (root / name / f"{number}.dcm").write_bytes(content)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pydicom", None)
        result = run_cli("audit", root)
        assert result.exit_code == 1
        assert "which needs pydicom: pip install 'pneumonia[dicom]'" in result.stderr
    result = run_cli("audit", root)
    assert result.exit_code == 0, result.stderr


def test_kinds_are_told_apart_by_content(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(encoded(dataset_of(RAMP)))
    assert why_skipped(file) == ""
    file.write_bytes(encoded(dataset_of(RAMP, SOPClassUID=CTImageStorage)))
    assert why_skipped(file) == "DICOM that is no radiograph"
