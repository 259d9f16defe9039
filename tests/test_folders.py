"""Folders as people have them: which files are X-rays, and what their names and copies say."""

import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing, decode
from pneumonia.data.folders import walk_images
from pneumonia.data.limits import UnreadableImageError
from pneumonia.data.patients import patient_of
from pneumonia.errors import DataError, LabelError
from pneumonia.networks.registry import NETWORKS

Cli = Callable[..., Result]
SMALL = Preprocessing(32)
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--network", "simple_cnn")
_SEEDS = iter(range(10**6))


def save(path: Path, **options: object) -> Path:
    """Save a new image, unlike all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(_SEEDS)).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A flat data set of four images a class."""
    for name in ("NORMAL", "PNEUMONIA"):
        for number in range(4):
            save(tmp_path / "flat" / name / f"{name[:2]}{number}.png")
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "name",
    ["@eaDir/IM.png/THUMB.jpg", "__MACOSX/IM.png", "masks/IM.png", "Masks/1.png", "._IM.png"],
)
def test_files_that_are_no_xrays_are_skipped_and_counted(name: str, flat: Path) -> None:
    before = load_data_set(DataSettings(data=str(flat)), SMALL)
    save(flat / "NORMAL" / name, format="PNG")
    data = load_data_set(DataSettings(data=str(flat)), SMALL)
    assert data.digest == before.digest
    assert sum(data.skipped.values()) == 1
    assert "skipped: 1 " in data.report()


def test_files_of_one_name_in_sibling_folders_are_refused(flat: Path) -> None:
    for folder in ("images", "lungs only"):
        save(flat / "NORMAL" / folder / "COVID-1.png")
    with pytest.raises(DataError, match=r"COVID-1\.png' have one name: move away .* such as masks"):
        load_data_set(DataSettings(data=str(flat)), SMALL)
    pattern = r"(?P<patient>.+)"
    data = load_data_set(DataSettings(data=str(flat), patient_pattern=pattern), SMALL)
    assert sum(map(len, data.roles.values())) == 10


def test_views_in_folders_of_known_patients_are_not_refused(flat: Path) -> None:
    for number in range(3):
        save(flat / "NORMAL" / f"patient{number:05}/study1/view1_frontal.jpg")
    data = load_data_set(DataSettings(data=str(flat)), SMALL)
    assert sum(map(len, data.roles.values())) == 11


def test_explain_never_reads_its_own_overlays(
    trained: object, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    folder = shutil.copytree(xrays / "val" / "NORMAL", tmp_path / "scans")
    count = len(list(folder.iterdir()))
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)  # type: ignore[attr-defined]
    for number in (1, 2):
        result = run_cli("explain", folder, "--output", folder / "overlays of today", *model)
        assert result.exit_code == 0, result.stderr
        assert len(list((folder / "overlays of today").iterdir())) == count, number
    rows = run_cli("predict", folder, *model)
    assert rows.stdout.count("\n") == 1 + count
    assert f"{count} result of explain" in rows.stderr


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        *(("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a", "JPEG"), ("a.img", "PNG")),
        *(("a.tif", "TIFF"), ("a.TIFF", "TIFF"), ("a.bmp", "BMP"), ("a.webp", "WEBP")),
        *(("a.001", "TIFF"), ("scan", "BMP"), ("a.dat", "WEBP")),
    ],
)
def test_images_are_known_by_their_content(name: str, file_format: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, format=file_format)
    assert list(walk_images(tmp_path)) == [path]
    assert decode(path.read_bytes(), SMALL).std() > 1


def test_what_is_skipped_is_counted_by_type(tmp_path: Path) -> None:
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "labels.csv").write_text("path,label\n")
    directory = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10\0"  # its storage class
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + directory + bytes(100))
    (tmp_path / "README").write_text("no image\n")
    skipped: Counter[str] = Counter()
    assert not list(walk_images(tmp_path, skipped))
    assert skipped == {".db": 1, ".csv": 1, "DICOM that is no radiograph": 1, "without ending": 1}


def test_a_tiff_whose_zero_is_white_is_inverted(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    plain, white = tmp_path / "plain.tif", tmp_path / "white.tif"
    Image.fromarray(levels).save(plain)
    Image.fromarray(65535 - levels).save(white, tiffinfo={262: 0})
    difference = decode(plain.read_bytes(), SMALL).astype(int) - decode(white.read_bytes(), SMALL)
    assert np.abs(difference).max() <= 1


def test_several_images_in_one_file_and_floating_point_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("L", (40, 40), level) for level in (0, 100, 200)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableImageError, match="holds 3 images, not one"):
        decode((tmp_path / "pages.tif").read_bytes(), SMALL)
    Image.new("F", (40, 40), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="floating-point"):
        decode((tmp_path / "float.tif").read_bytes(), SMALL)


def test_class_names_match_however_unicode_composes_them(flat: Path) -> None:
    (flat / "PNEUMONIA").rename(flat / unicodedata.normalize("NFD", "infecté"))
    classes = f"NORMAL,{unicodedata.normalize('NFC', 'Infecté')}"
    data = load_data_set(DataSettings(data=str(flat), classes=classes), SMALL)
    assert sum(map(len, data.roles.values())) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("negative", "positive"),
    [("normal & healthy", "Pneumonia (bacterial)"), ("COVID-", "COVID+"), ("pos+", "pos%")],
)
def test_any_class_name_can_be_logged(
    negative: str, positive: str, xrays: Path, workplace: Path, run_cli: Cli
) -> None:
    for name, own in (("NORMAL", negative), ("PNEUMONIA", positive)):
        shutil.copytree(xrays / "train" / name, workplace / "set" / own)
    result = run_cli(
        "train", "--data", workplace / "set", "--classes", f"{negative},{positive}", *QUICK
    )
    assert result.exit_code == 0, result.stderr


def test_identical_images_in_both_classes_are_refused_unless_allowed(flat: Path) -> None:
    shutil.copy(flat / "NORMAL" / "NO0.png", flat / "PNEUMONIA" / "copy.png")
    with pytest.raises(
        LabelError, match=r"1 images are in both class folders .*--allow-confl"
    ) as e:
        load_data_set(DataSettings(data=str(flat)), SMALL)
    assert e.value.exit_code == 3
    allowed = DataSettings(data=str(flat), allow_conflicting_labels=True)
    assert "1 images are in both class folders" in load_data_set(allowed, SMALL).report()


@pytest.mark.parametrize(
    ("path", "same", "pathogen"),
    [
        ("P/person 12_virus_46.jpeg", "P/person12_virus_47.jpeg", "virus"),
        ("P/aug_0_person12_virus_46.jpeg", "P/person12_virus_46.jpeg", "virus"),
        ("P/1_person12_bacteria_46.jpeg", "P/person12_bacteria_50.png", "bacteria"),
        ("P/virus-1008087-0002.jpeg", "P/VIRUS-1008087-0001.jpeg", "virus"),
        ("N/00000013_005.png", "P/00000013_026.png", None),
        ("N/patient00001/study1/view1_frontal.jpg", "P/patient00001/study9/view1.jpg", None),
        ("N/CXR1000_IM-0003-1001.png", "N/CXR1000_IM-0003-2001.png", None),
        ("N/p10/p10000032/s50414267/a.jpg", "N/p10/p10000032/s53189527/b.jpg", None),
        ("N/MCUCXR_0001_0.png", "N/MCUCXR_0001_1.png", None),
    ],
)
def test_patients_of_public_data_sets_are_known(path: str, same: str, pathogen: str | None) -> None:
    one, other = (patient_of(name, name) for name in (path, same))
    assert one.known
    assert one.key == other.key
    assert one.pathogen == pathogen


def test_what_looks_like_a_public_name_is_not_taken_for_one() -> None:
    for path in ("N/superperson12_virus_4.png", "virus-1-2/scan.png", "N/COVID-12.png"):
        assert not patient_of(path, path).known
    keys = {
        patient_of(path, path).key
        for path in ("CXR12_IM-1-1.png", "person12_virus_1.png", "person12_bacteria_1.png")
    }
    assert len(keys) == 3


@pytest.mark.slow
def test_unknown_patients_are_said_at_the_start_at_the_end_and_in_the_run(
    xrays: Path, workplace: Path, run_cli: Cli
) -> None:
    import mlflow

    for name in ("NORMAL", "PNEUMONIA"):
        (workplace / "set" / name).mkdir(parents=True)
        for number, file in enumerate(sorted((xrays / "train" / name).iterdir())):
            shutil.copy(file, workplace / "set" / name / f"scan{number}{file.suffix}")
    result = run_cli("train", "--data", workplace / "set", *QUICK)
    assert result.exit_code == 0, result.stderr
    says = "file names tell no patient: each such image counts as its own patient, so one patient"
    assert says in result.stderr.partition("epoch 1/1")[0]
    assert says in result.stdout
    (run,) = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db").search_runs(["0"])
    assert says in run.data.tags["mlflow.note.content"]


def test_own_duplicates_are_grouped_where_the_split_is_ours(flat: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        for number in range(8):
            image = save(flat / name / f"x{name[:2]}{number}.png")
            shutil.copy(image, image.with_name(f"copy of {number}.png"))
    for seed in range(10):
        data = load_data_set(DataSettings(data=str(flat), split_seed=seed), SMALL)
        roles: dict[str, set[str]] = {}
        for role, images in data.roles.items():
            for image in images:
                roles.setdefault(image.digest, set()).add(role)
        assert {len(held) for held in roles.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("content", ["unlabelled", "one class"])
def test_a_test_folder_without_both_classes_is_named_and_may_be_left_out(
    content: str,
    workplace: Path,
    trained: SimpleNamespace,
    xrays: Path,
    run_cli: Cli,
) -> None:
    data = workplace / "xrays"
    shutil.copytree(xrays, data)
    shutil.rmtree(data / "test")
    below = "" if content == "unlabelled" else "NORMAL"
    for number in range(3):
        save(data / "test" / below / f"{number}.png")
    reason = "no labels" if content == "unlabelled" else "Both classes are needed"
    train = ("train", "--data", data, *QUICK)
    refused = run_cli(*train)
    assert refused.exit_code == 1
    assert reason in refused.stderr
    assert "empty" not in refused.stderr
    left_out = run_cli(*train, "--test-folders", "")
    assert left_out.exit_code == 0, left_out.stderr

    evaluate = ("evaluate", "--tracking-uri", trained.tracking_uri, "--data", data)
    evaluate = (*evaluate, "--model-uri", "models:/resnet34/1", "--split")
    of_val = run_cli(*evaluate, "val")
    assert of_val.exit_code == 0, of_val.stderr
    of_test = run_cli(*evaluate, "test")
    assert of_test.exit_code == 1
    assert reason in of_test.stderr


@pytest.mark.slow
def test_a_search_does_not_try_batches_larger_than_the_training_set(
    workplace: Path, flat: Path, run_cli: Cli
) -> None:
    experiment = workplace / "small.toml"
    experiment.write_text(
        '[training]\nnetwork = "simple_cnn"\nepochs = 1\nimage_size = 32\nbatch_size = 2\n'
        "[space]\nbatch_size = {choices = [2, 4, 64, 128]}\n"
    )
    result = run_cli("train", "--data", flat, "--experiment", experiment, "--trials", 6)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("batch sizes above") == 1
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    states = [run.data.tags.get("trial.state") for run in client.search_runs(["0"])]
    assert "failed" not in states
    assert states.count("complete") >= 6


@pytest.mark.slow
def test_initial_weights_are_not_asked_for_again_on_resuming(
    workplace: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMONIA_STATE", str(workplace / "state"))
    torch.save(NETWORKS["simple_cnn"].build(32, 0.0).state_dict(), workplace / "mine.pt")
    train = ("train", "--data", xrays, *QUICK, "--epochs", 2, "--weights", "mine.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumonia.tracking.epochs.log_epoch", _interrupt)
        assert run_cli(*train).exit_code == 130
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.data.params["weights"] == str(workplace / "mine.pt")
    (workplace / "mine.pt").unlink()
    monkeypatch.chdir(xrays)
    resumed = run_cli(
        "train", "--resume", run.info.run_id, "--tracking-uri", f"sqlite:///{workplace}/mlflow.db"
    )
    assert resumed.exit_code == 0, resumed.stderr


def _interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_relative_store_within_an_mlflow_run_is_named_and_not_created(
    empty_folder: Path, xrays: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    result = run_cli("train", "--data", xrays, *QUICK)
    assert result.exit_code == 1
    assert "absolute path" in result.stderr
    assert not list(empty_folder.iterdir())


def test_a_folder_that_is_not_there_is_named_with_where_it_was_looked_for(
    workplace: Path, run_cli: Cli
) -> None:
    result = run_cli("train", "--data", "chest")
    assert result.exit_code == 1
    assert repr(str(workplace / "chest")) in result.stderr
    assert "absolute path" in result.stderr
