"""Files are read once, and again when they change."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pneumonia.data import contents
from pneumonia.data.contents import read_contents

Cli = Callable[..., Result]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of caches of its own; files count as settled at once."""
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path, xrays: Path) -> list[Path]:
    copied = shutil.copytree(xrays / "test", tmp_path / "images")
    return sorted(Path(copied).rglob("*.jpeg"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read while a test runs."""
    seen: list[Path] = []
    original = Path.read_bytes

    def counting(path: Path) -> bytes:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    return seen


@pytest.mark.usefixtures("cache")
def test_only_new_and_changed_files_are_read(files: list[Path], read: list[Path]) -> None:
    first = read_contents(files)
    assert sorted(read) == files
    read.clear()
    assert read_contents(files) == first
    assert read == []

    # Another content of the same size, under the same modification time.
    before = files[0].stat()
    changed = bytearray(files[0].read_bytes())
    changed[-3] ^= 1
    files[0].write_bytes(changed)
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files[0].stat().st_mtime_ns == before.st_mtime_ns
    read.clear()
    again = read_contents(files)
    assert read == [files[0]]
    assert again[0].digest != first[0].digest
    assert again[1:] == first[1:]


@pytest.mark.usefixtures("cache")
def test_a_file_that_was_changed_just_now_is_read_again(
    files: list[Path], read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_SETTLED", 3600.0)
    read_contents(files)
    read.clear()
    read_contents(files)
    assert sorted(read) == files


@pytest.mark.usefixtures("cache")
def test_what_cannot_be_read_is_tried_again(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_path: Path) -> bytes:
        raise OSError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        away = read_contents(files)
    assert not any(content.read for content in away)
    back = read_contents(files)
    assert all(content.read for content in back)
    assert {content.digest for content in back}.isdisjoint(content.digest for content in away)


def test_without_a_usable_store_files_are_read(
    cache: Path, files: list[Path], read: list[Path]
) -> None:
    first = read_contents(files)
    for broken in (b"", b"no database", (cache / "digests.sqlite").read_bytes()[:3000]):
        (cache / "digests.sqlite").write_bytes(broken)
        read.clear()
        assert read_contents(files) == first
        assert sorted(set(read)) == files


@pytest.mark.parametrize(
    ("age", "years"), [("058Y", "58"), ("006M", "0.5"), ("010D", "0.0274"), ("58", ""), ("", "")]
)
def test_what_a_dicom_header_says_of_a_patient_is_read_and_not_stored(
    age: str,
    years: str,
    cache: Path,
    tmp_path: Path,
    read: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.dataset import FileMetaDataset

    data_set = pydicom.Dataset()
    data_set.PatientID = "MRN-4711"
    # As hospitals write them, and not as the standard says.
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    data_set.PatientAge, data_set.PatientSex, data_set.ViewPosition = age, "F", ""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = tmp_path / "scan.dcm"
    data_set.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    data_set.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data_set.save_as(file, enforce_file_format=True)
    for _ in range(2):
        read.clear()
        (content,) = read_contents([file])
        assert content.patient == "MRN-4711"
        assert content.attributes == {"sex": "F"} | ({"age": years} if years else {})
        assert read == [file]
    stored = cache / "digests.sqlite"
    assert not stored.exists() or b"4711" not in stored.read_bytes()


def test_the_store_is_no_fault_of_the_cache_folder(
    cache: Path, files: list[Path], run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_contents(files)
    assert (cache / "digests.sqlite").is_file()
    monkeypatch.chdir(tmp_path)
    result = run_cli("doctor")
    assert "digests.sqlite" not in result.stdout
