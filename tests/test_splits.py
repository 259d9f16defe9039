"""Splits: exact shares, related images together, one role for each folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.data.folders import ImageFile
from pneumonia.data.patients import Patient
from pneumonia.data.splits import hold_out, patient_folds, related_groups

SMALL = Preprocessing(32)


def image(patient: str, digest: str, label: int, name: str) -> ImageFile:
    return ImageFile(Path(name), "", label, Patient(patient, None, known=True), digest)


@st.composite
def with_copies(draw: st.DrawFn) -> list[ImageFile]:
    """Images of 10 patients of each class, up to 4 with the content of another patient's image."""
    copies = draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    images = []
    for who in range(20):
        for number in range(1 + who % 3):
            digest = f"{copies[who] if who < 4 else who}-{number}"
            images.append(image(str(who), digest, who % 2, f"{who}-{number}"))
    return images


@given(with_copies(), st.integers(0, 3))
def test_no_fold_shares_a_patient_or_an_identical_image_with_another(
    images: list[ImageFile], seed: int
) -> None:
    """Copies under another patient's name are kept with the original in every fold."""
    for left, fold in patient_folds(images, 3, seed):
        for key in (lambda i: i.patient.key, lambda i: i.digest):
            assert not {key(images[i]) for i in left} & {key(images[i]) for i in fold}


@given(with_copies(), st.floats(0.05, 0.9))
def test_held_out_images_share_no_patient_and_no_content_with_those_left(
    images: list[ImageFile], share: float
) -> None:
    """Holding out keeps each group of related images on one side."""
    left, held = hold_out(images, share, 0)
    assert not {i.patient.key for i in left} & {i.patient.key for i in held}
    assert not {i.digest for i in left} & {i.digest for i in held}
    assert {i.label for i in left} == {i.label for i in held} == {0, 1}


def test_a_chain_of_copies_is_one_group() -> None:
    """A shares an image with B and B with C, so all three are in one group."""
    images = [
        image(who, content, 0, f"{who}{content}")
        for who, content in ("A1", "A2", "B2", "B3", "C3", "D4")
    ]
    groups = related_groups(images)
    assert len(set(groups[:5].tolist())) == 1
    assert groups[5] != groups[0]


def test_duplicates_under_two_names_do_not_leak_into_our_own_split(
    xrays: Path, tmp_path: Path
) -> None:
    """A data set with copies under other patients' names is split by us without leakage."""
    for name in ("NORMAL", "PNEUMONIA"):
        shutil.copytree(xrays / "train" / name, tmp_path / name)
    for number, path in enumerate(sorted((tmp_path / "NORMAL").iterdir())):
        shutil.copy(path, tmp_path / "NORMAL" / f"IM-{9000 + number}-0001.jpeg")
    data = load_data_set(DataSettings(data=str(tmp_path)), SMALL)
    assert data.counts()["train/duplicates"] > 0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.15, 0.3, 0.4, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_held_out_is_the_share_asked_for(share: float, seed: int) -> None:
    """With single-image patients each class is held out to the nearest image."""
    images = [image(str(n), str(n), int(n >= 130), str(n)) for n in range(500)]
    _, held = hold_out(images, share, seed)
    for label, total in ((0, 130), (1, 370)):
        assert abs(sum(i.label == label for i in held) - share * total) <= 0.5


def test_the_share_is_near_with_patients_of_many_images() -> None:
    """With patients of 1–4 images the share held out is within one image a class."""
    sizes = np.random.default_rng(3).integers(1, 5, 200).tolist()
    images = [
        image(str(who), f"{who}-{n}", who % 2, f"{who}-{n}")
        for who, size in enumerate(sizes)
        for n in range(size)
    ]
    for seed in range(5):
        _, held = hold_out(images, 0.4, seed)
        for label in (0, 1):
            total = sum(i.label == label for i in images)
            assert abs(sum(i.label == label for i in held) - 0.4 * total) <= 1


def test_another_seed_holds_out_other_images() -> None:
    """The seed decides which images are held out, and the same seed holds out the same."""
    images = [image(str(n), str(n), n % 2, str(n)) for n in range(100)]
    first, again, other = (hold_out(images, 0.2, seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first != other
