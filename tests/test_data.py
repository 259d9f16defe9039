import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.data import summary
from pneumonia.data.cache import open_cache
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing, decode, network_input
from pneumonia.data.folders import ImageFile, find_images
from pneumonia.data.patients import Patient, compile_pattern, patient_of
from pneumonia.data.splits import hold_out, patient_folds
from pneumonia.errors import DataError, UsageError

SMALL = Preprocessing(32)


@pytest.mark.parametrize(
    ("name", "key", "pathogen"),
    [
        ("person12_bacteria_46", "bacteria-12", "bacteria"),
        ("person12_virus_46", "virus-12", "virus"),
        ("NORMAL2-IM-1427-0001", "NORMAL2-IM-1427", None),
        ("IM-1427-0001-0002", "IM-1427", None),
        ("BACTERIA-1008087-0001", "bacteria-1008087", "bacteria"),
    ],
)
def test_patients_are_told_by_the_published_names(
    name: str, key: str, pathogen: str | None
) -> None:
    assert patient_of(name, "own") == Patient(key, pathogen, known=True)


def test_other_names_need_a_pattern() -> None:
    pattern = compile_pattern(r"^(?P<patient>\d+)-")
    assert patient_of("17-front", "own", pattern) == Patient("17", None, known=True)
    assert patient_of("front", "own", pattern) == Patient("own", None, known=False)
    assert patient_of("scan", "own") == Patient("own", None, known=False)


@st.composite
def patients_with_images(draw: st.DrawFn) -> list[ImageFile]:
    counts = draw(st.lists(st.integers(1, 5), min_size=6, max_size=40))
    labels = [index % 2 for index in range(len(counts))]
    return [
        ImageFile(
            Path(f"{who}-{image}"), "", label, Patient(str(who), None, known=True), f"{who}-{image}"
        )
        for who, (count, label) in enumerate(zip(counts, labels, strict=True))
        for image in range(count)
    ]


@given(patients_with_images(), st.floats(0.05, 0.5), st.integers(0, 5))
def test_no_patient_is_ever_on_both_sides(images: list[ImageFile], share: float, seed: int) -> None:
    left, held_out = hold_out(images, share, seed)
    assert sorted(map(id, left + held_out)) == sorted(map(id, images))
    assert not {i.patient.key for i in left} & {i.patient.key for i in held_out}
    assert {i.label for i in left} == {i.label for i in held_out} == {0, 1}


@given(patients_with_images())
def test_folds_hold_out_each_image_once(images: list[ImageFile]) -> None:
    held_out = [position for _, fold in patient_folds(images, 3, 0) for position in fold]
    assert sorted(held_out) == list(range(len(images)))


def test_the_default_split_keeps_the_test_folder_and_pools_the_rest(xrays: Path) -> None:
    data = load_data_set(DataSettings(data=str(xrays)), SMALL)
    assert {image.part for image in data.roles["test"]} == {"test"}
    parts = {image.part for role in ("train", "validation") for image in data.roles[role]}
    assert parts == {"train", "val"}
    counts = data.counts()
    share = counts["validation/images"] / (counts["validation/images"] + counts["train/images"])
    assert 0.08 < share < 0.25
    assert counts["train/bacteria"] + counts["train/virus"] == counts["train/PNEUMONIA"]
    assert summary.leakages(data.roles) == []


def test_roles_can_be_given_to_folders_as_the_report_did(xrays: Path) -> None:
    settings = DataSettings(
        data=str(xrays), train_folders="train", validation_folders="test", test_folders="val"
    )
    roles = load_data_set(settings, SMALL).roles
    assert [{i.part for i in roles[role]} for role in ("train", "validation", "test")] == [
        {"train"},
        {"test"},
        {"val"},
    ]


def test_a_flat_folder_is_split_by_us(xrays: Path, tmp_path: Path) -> None:
    for name in ("normal", "Pneumonia"):
        shutil.copytree(xrays / "train" / name.upper(), tmp_path / name)
    (tmp_path / "normal" / ".hidden.jpeg").write_bytes(b"")
    (tmp_path / "normal" / "notes.txt").write_text("not an image")
    data = load_data_set(DataSettings(data=str(tmp_path)), SMALL)
    assert all(len(data.roles[role]) >= 2 for role in ("train", "validation", "test"))
    (tmp_path / "Pneumonia" / "scan.DCM").write_bytes(b"")
    (tmp_path / "Pneumonia" / "__MACOSX").mkdir()
    data = load_data_set(DataSettings(data=str(tmp_path)), SMALL)
    assert data.skipped == {"hidden": 1, ".txt": 1, ".dcm": 1, "__MACOSX folder": 1}
    assert "skipped: 1 .dcm, 1 .txt, 1 __MACOSX folder, 1 hidden" in data.report()
    with pytest.raises(DataError, match="validation_folders = 'val', but"):
        load_data_set(
            DataSettings(data=str(tmp_path), train_folders="train", validation_folders="val"),
            SMALL,
        )


def test_a_folder_has_one_role() -> None:
    for roles in (
        {"validation_folders": "val"},
        {"train_folders": "train,test"},
        {"train_folders": "train", "validation_folders": "Validation,TEST"},
    ):
        with pytest.raises(UsageError, match=r"folder '\w+' is in \w+_folders and in \w+_folders"):
            DataSettings(**roles)


@pytest.mark.parametrize("name", ["valid", "Validation", "VAL"])
def test_the_usual_names_of_the_validation_folder_are_known(
    name: str, xrays: Path, tmp_path: Path
) -> None:
    shutil.copytree(xrays, tmp_path / "set")
    (tmp_path / "set" / "val").rename(tmp_path / "set" / name)
    expected = load_data_set(DataSettings(data=str(xrays)), SMALL).counts()
    assert load_data_set(DataSettings(data=str(tmp_path / "set")), SMALL).counts() == expected
    roles = {"train_folders": "train", "validation_folders": name}
    data = load_data_set(DataSettings(data=str(tmp_path / "set"), **roles), SMALL)
    assert {image.part for image in data.roles["validation"]} == {"val"}
    (tmp_path / "set" / "validation_").mkdir()  # neither a part nor a class
    shutil.copytree(xrays / "val", tmp_path / "set" / ("val" if name != "VAL" else "valid"))
    with pytest.raises(DataError, match="are both for 'val'"):
        load_data_set(DataSettings(data=str(tmp_path / "set")), SMALL)


def test_two_folders_of_one_class_are_refused(xrays: Path, tmp_path: Path) -> None:
    for name in ("NORMAL", "normal", "PNEUMONIA"):
        shutil.copytree(xrays / "train" / name.upper(), tmp_path / name)
    with pytest.raises(DataError, match=r"'NORMAL' and 'normal' in .* are both for 'NORMAL'"):
        find_images(tmp_path, ("NORMAL", "PNEUMONIA"))


def test_the_only_data_set_below_a_folder_is_used(
    xrays: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = tmp_path / "archive"
    inner = archive / "chest_xray" / "chest_xray"
    shutil.copytree(xrays, inner)
    shutil.copytree(xrays, archive / "chest_xray" / "__MACOSX" / "chest_xray")
    shutil.copytree(xrays, archive / ".trash")
    (archive / "chest_xray" / ".DS_Store").write_bytes(b"")
    caplog.set_level("INFO")
    data = load_data_set(DataSettings(data=str(archive)), SMALL)
    assert data.root == inner
    assert f"using {inner}" in caplog.text
    # As Kaggle's archive has it: the set, and the same set once more inside.
    for part in ("train", "val", "test"):
        shutil.copytree(xrays / part, archive / "chest_xray" / part)
    assert load_data_set(DataSettings(data=str(archive)), SMALL).root == archive / "chest_xray"
    shutil.copytree(xrays, archive / "other")
    with pytest.raises(DataError, match=r"holds 2 data sets \('chest_xray', 'other'\)"):
        load_data_set(DataSettings(data=str(archive)), SMALL)


def test_a_pattern_sees_the_path_within_the_data_set(xrays: Path, tmp_path: Path) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        for number, image in enumerate(sorted((xrays / "train" / label).iterdir())[:12]):
            folder = tmp_path / label / f"patient{number // 2:03}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / f"view{number % 2}.jpeg")
    pattern = r"^(?P<patient>\w+/patient\d+)/view"
    found = find_images(tmp_path, ("NORMAL", "PNEUMONIA"), pattern)
    assert all(image.patient.known for image in found.images)
    expected = {f"{label}/patient{n:03}" for label in ("NORMAL", "PNEUMONIA") for n in range(6)}
    assert {image.patient.key for image in found.images} == expected


def test_two_other_classes_can_be_named(xrays: Path, tmp_path: Path) -> None:
    shutil.copytree(xrays / "train" / "NORMAL", tmp_path / "healthy")
    shutil.copytree(xrays / "train" / "PNEUMONIA", tmp_path / "sick")
    found = find_images(tmp_path, ("healthy", "sick"))
    assert {image.label for image in found.images if image.path.parent.name == "sick"} == {1}
    with pytest.raises(DataError, match="no class folder 'NORMAL'"):
        find_images(tmp_path, ("NORMAL", "PNEUMONIA"))


def test_the_fingerprint_tells_data_apart_but_not_places(xrays: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(xrays, copied)
    first = load_data_set(DataSettings(data=str(xrays)), SMALL).digest
    assert load_data_set(DataSettings(data=str(copied)), SMALL).digest == first
    next((copied / "test" / "NORMAL").iterdir()).unlink()
    assert load_data_set(DataSettings(data=str(copied)), SMALL).digest != first


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path): path for path in sorted(folder.rglob("*.jpeg"))}


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_the_cache_holds_what_plain_decoding_gives(
    xrays: Path, tmp_path: Path, resize: str
) -> None:
    preprocessing = Preprocessing(48, resize)
    files = files_of(xrays / "test")
    cache = open_cache(files, preprocessing, folder=tmp_path)
    for key, path in files.items():
        np.testing.assert_array_equal(
            cache.pixels[cache.rows[key]], decode(path.read_bytes(), preprocessing)
        )
    again = open_cache(dict.fromkeys(files, Path("gone")), preprocessing, folder=tmp_path)
    np.testing.assert_array_equal(again.pixels, cache.pixels)


def test_a_damaged_cache_is_built_anew(xrays: Path, tmp_path: Path) -> None:
    files = files_of(xrays / "val")
    whole = open_cache(files, SMALL, folder=tmp_path).pixels.copy()
    (pixels,) = tmp_path.glob("*/pixels.npy")
    pixels.unlink()  # cut in place, the map still open on it would end this process
    pixels.write_bytes(b"torn")
    np.testing.assert_array_equal(open_cache(files, SMALL, folder=tmp_path).pixels, whole)


def build(folder: Path, xrays: Path) -> int:
    return int(open_cache(files_of(xrays / "test"), SMALL, folder=folder).pixels.sum())


def test_processes_may_build_one_cache_at_once(xrays: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as processes:
        futures = [processes.submit(build, tmp_path, xrays) for _ in range(3)]
        sums = {future.result() for future in futures}
    assert len(sums) == 1
    assert len(list(tmp_path.glob("*/index.json"))) == 1


def test_padding_keeps_the_aspect_ratio_and_stretching_fills(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("L", (200, 100), 255).save(path)
    padded = decode(path.read_bytes(), Preprocessing(64, "pad"))
    assert padded[:15].max() == 0
    assert padded[20:44].min() == 255
    assert decode(path.read_bytes(), Preprocessing(64, "stretch")).min() == 255


def test_a_large_jpeg_is_scaled_by_its_decoder_to_nearly_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))
    large = coarse.resize((1600, 1600), Image.Resampling.BICUBIC)
    path = tmp_path / "large.jpeg"
    large.save(path, quality=95)
    plain = np.asarray(large.resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(decode(path.read_bytes(), Preprocessing(64)) - plain).mean() < 2


def test_network_input_normalises_as_the_official_weights_expect() -> None:
    grey = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    pixels = network_input(grey)
    assert pixels.shape == (1, 3, 1, 2)
    torch.testing.assert_close(pixels[0, 0, 0], torch.tensor([-0.485 / 0.229, 0.515 / 0.229]))
