"""``pneumonia audit`` on data sets whose faults are known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageEnhance

from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.evaluation.shortcuts import predictive_auc
from pneumonia.workflows.prepare import strongest_shortcut

Cli = Callable[..., Result]


@pytest.fixture
def copied(xrays: Path, tmp_path: Path) -> Path:
    """A data set that may be changed."""
    return Path(shutil.copytree(xrays, tmp_path / "copied"))


def _row(result: Result, name: str) -> str:
    return next(line for line in result.stdout.splitlines() if line.startswith(name))


def _red(drawn: Image.Image) -> int:
    """Count the pixels that are red rather than grey."""
    red, green, _blue = np.asarray(drawn.convert("RGB"), dtype=np.int64).transpose(2, 0, 1)
    return int((red - green > 80).sum())


def test_a_sound_data_set_passes(xrays: Path, tmp_path: Path, run_cli: Cli) -> None:
    sheet = tmp_path / "pairs.png"
    result = run_cli("audit", xrays, "--sheet", sheet)
    assert result.exit_code == 0, result.stderr
    with Image.open(sheet) as drawn:
        assert _red(drawn) == 0
    assert "problem" not in result.stdout
    assert "shortcut" not in _row(result, "aspect ratio")


def _compress(folder: Path, qualities: dict[str, int]) -> None:
    """Store the images of each class with its own JPEG quality."""
    for file in sorted(folder.glob("*/*/*")):
        with Image.open(file) as image:
            pixels = image.convert("L")
        file.unlink()
        pixels.save(file.with_suffix(".jpeg"), quality=qualities[file.parent.name])


def test_compression_that_differs_by_class_is_a_shortcut(copied: Path, run_cli: Cli) -> None:
    _compress(copied, {"PNEUMONIA": 60, "NORMAL": 95})
    result = run_cli("audit", copied)
    assert result.exit_code == 0, result.stderr
    assert _row(result, "JPEG quantisation").endswith("shortcut")
    assert _row(result, "JPEG quantisation").split()[2] == "1.000"
    assert "without looking at the lungs" in result.stdout


def test_the_strongest_shortcut_is_said_before_training(copied: Path) -> None:
    """Whichever class has more of it; nothing is said of what tells little."""

    def said() -> str:
        data = load_data_set(DataSettings(data=str(copied)), Preprocessing(32))
        return strongest_shortcut(data.roles["train"])

    assert said() == ""
    for qualities in ({"PNEUMONIA": 60, "NORMAL": 95}, {"PNEUMONIA": 95, "NORMAL": 60}):
        _compress(copied, qualities)
        assert "the JPEG quantisation alone" in said() or "the file size alone" in said()
        assert "an AUC of 1.00" in said()


def test_a_file_that_is_gone_after_it_was_decoded_says_nothing(copied: Path) -> None:
    """Training goes on with what the cache holds."""
    data = load_data_set(DataSettings(data=str(copied)), Preprocessing(32))
    data.roles["train"][0].path.unlink()
    assert strongest_shortcut(data.roles["train"]) == ""


def test_a_sheet_that_cannot_be_written_does_not_cost_the_report(
    xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    (tmp_path / "file").touch()
    result = run_cli("audit", xrays, "--sheet", tmp_path / "file" / "pairs.png")
    assert result.exit_code == 1
    assert "pairs.png" in result.stderr
    assert _row(result, "file size")


@pytest.mark.parametrize("how", ["jpeg", "brighter", "smaller"])
def test_one_picture_in_two_roles_is_found(copied: Path, run_cli: Cli, how: str) -> None:
    original = next((copied / "train" / "NORMAL").iterdir())
    with Image.open(original) as image:
        picture = image.convert("L")
    if how == "brighter":
        picture = ImageEnhance.Brightness(picture).enhance(1.15)
    elif how == "smaller":
        picture = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    picture.save(copied / "test" / "NORMAL" / "IM-9999-0001.jpeg", quality=40)
    sheet = copied.parent / "pairs.png"
    result = run_cli("audit", copied, "--sheet", sheet)
    with Image.open(sheet) as drawn:
        assert _red(drawn) > 500  # the frames of a pair that makes results wrong
    assert result.exit_code == 3
    assert result.stdout.count("show almost the same picture") == 1
    assert "1 problem would make results wrong" in result.stderr


def test_shared_patients_and_conflicting_labels_are_problems(copied: Path, run_cli: Cli) -> None:
    original = next((copied / "train" / "NORMAL").iterdir())
    shutil.copy(original, copied / "test" / "PNEUMONIA" / original.name)
    result = run_cli("audit", copied)
    assert result.exit_code == 3
    assert "problem: train and test share 1 patients and 1 identical images" in result.stdout
    assert "problem: 1 images are in both class folders" in result.stdout


def test_trees_see_what_does_not_rise_or_fall() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 600)
    two_sided = np.where(truth == 1, rng.choice([-2, 2], 600), 0) + rng.normal(0, 0.4, 600)
    patients = [str(number // 2) for number in range(600)]
    auc, (low, high) = predictive_auc(two_sided[:, np.newaxis], truth, patients)
    assert auc > 0.95
    assert low <= auc <= high
    auc, (low, high) = predictive_auc(rng.normal(size=(600, 1)), truth, patients)
    assert low < 0.5 < high
