import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pneumonia.data import demo, demo_drawing
from pneumonia.data.demo import write_demo_set
from pneumonia.data.demo_drawing import Anatomy, draw_xray
from pneumonia.data.patients import patient_of
from pneumonia.errors import DataError

NAMES = {
    "PNEUMONIA": re.compile(r"person[1-9]\d*_(bacteria|virus)_[1-9]\d*\.jpeg"),
    "NORMAL": re.compile(r"(NORMAL2-)?IM-\d{4,}-\d{4}\.jpeg"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "missing" / "set"
    write_demo_set(folder, patients=150, size=96)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def images(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpeg"))


def best_threshold(values: np.ndarray, sick: np.ndarray) -> tuple[float, float]:
    """Accuracy and balanced accuracy of the best threshold, cross-validated in five folds."""
    folds = np.random.default_rng(0).permutation(len(values)) % 5
    answers = {weigh: np.zeros_like(sick) for weigh in (False, True)}
    for fold in range(5):
        known = folds != fold
        for weigh, answer in answers.items():
            weights = np.where(sick, 1 / sick[known].mean(), 1 / (~sick[known]).mean())
            weights = weights if weigh else np.ones(len(sick))
            candidates = [
                (((values > cut) ^ flip) == sick)[known] @ weights[known]
                for cut in values[known]
                for flip in (False, True)
            ]
            best = int(np.argmax(candidates))
            answer[~known] = ((values > values[known][best // 2]) ^ bool(best % 2))[~known]
    balanced = [(answers[True] == sick)[sick == label].mean() for label in (False, True)]
    return float((answers[False] == sick).mean()), float(np.mean(balanced))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        write_demo_set(tmp_path / name, patients=20, size=48, seed=seed)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert contents(tmp_path / "first") != contents(tmp_path / "other")


def test_names_are_as_published_and_no_patient_is_in_two_splits(folder: Path) -> None:
    where: dict[str, set[str]] = {}
    count: dict[str, int] = {}
    for path in images(folder):
        part, label, name = path.relative_to(folder).parts
        assert NAMES[label].fullmatch(name)
        patient = patient_of(path.stem, name)
        assert patient.known
        where.setdefault(patient.key, set()).add(f"{part}/{label}")
        count[patient.key] = count.get(patient.key, 0) + 1
    assert len(where) == 150
    assert all(len(places) == 1 for places in where.values())
    assert set(count.values()) == {1, 2, 3, 4}
    assert 1.5 < np.mean(list(count.values())) < 2.1


@pytest.mark.parametrize("patients", [20, 40, 77, 150, 560])
@pytest.mark.parametrize("seed", range(3))
def test_every_split_has_both_classes(patients: int, seed: int) -> None:
    plan = demo._plan(patients, seed)
    names = [name for of_patient in plan for name in of_patient]
    assert len(names) == len(set(names))
    for label in ("NORMAL", "PNEUMONIA"):
        for part in ("train", "val", "test"):
            of_part = [own for own in plan if own[0].startswith(f"{part}/{label}/")]
            number = sum(map(len, of_part))
            assert number >= 2
            if part == "train" and patients >= 40:
                assert len(of_part) >= 8
            if part == "val" and patients == 560:
                assert number == 8
    if patients == 560:
        assert 950 < len(names) < 1070
        assert 0.6 < np.mean(["/PNEUMONIA/" in name for name in names]) < 0.7
        assert 0.17 < np.mean([name.startswith("test/") for name in names]) < 0.24


def test_images_are_grey_squares(folder: Path) -> None:
    for path in images(folder)[::20]:
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert image.mode == "L"
            assert image.size == (96, 96)


@pytest.mark.parametrize("of", ["mean brightness", "file size"])
def test_what_is_not_illness_does_not_tell_the_class(folder: Path, of: str) -> None:
    files = images(folder)
    sick = np.array(["PNEUMONIA" in path.parts for path in files])
    values = np.array(
        [
            np.asarray(Image.open(path)).mean() if of == "mean brightness" else path.stat().st_size
            for path in files
        ]
    )
    accuracy, balanced = best_threshold(values, sick)
    assert accuracy < 0.75
    assert balanced < 0.65


def test_opacities_are_recorded_inside_the_picture(folder: Path) -> None:
    recorded = json.loads((folder / "opacities.json").read_text(encoding="utf-8"))
    assert sorted(recorded) == [path.relative_to(folder).as_posix() for path in images(folder)]
    kinds: dict[str, list[str]] = {"bacteria": [], "virus": []}
    for name, opacities in recorded.items():
        assert bool(opacities) == ("/PNEUMONIA/" in name)
        for opacity in opacities:
            assert 0 < opacity["centre_x"] < 1
            assert 0 < opacity["centre_y"] < 1
            assert 0 < opacity["radius"] < 0.5
        if opacities:
            kinds["virus" if "virus" in name else "bacteria"].append(opacities[0]["kind"])
    assert kinds["bacteria"].count("focal") > 0.7 * len(kinds["bacteria"])
    assert kinds["virus"].count("diffuse") > 0.7 * len(kinds["virus"])


@pytest.mark.parametrize("focal", [0.0, 1.0])
def test_the_picture_is_brighter_where_an_opacity_is(focal: float) -> None:
    size = 128
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    gains = []
    for seed in range(12):
        body = Anatomy.draw(np.random.default_rng(seed))
        well, ill = (
            draw_xray(
                np.random.default_rng(seed), size=size, anatomy=body, pneumonia=sick, focal=focal
            )
            for sick in (False, True)
        )
        assert well[1] == []
        assert ill[1]
        # Exposure is automatic: only in comparison with the rest is an opacity surely brighter.
        brighter = ill[0].astype(float) - well[0]
        for opacity in ill[1]:
            away = np.hypot(x - opacity.centre_x, y - opacity.centre_y)
            there = away < opacity.radius / 2
            gains.append(brighter[there].mean() - np.median(brighter))
    assert min(gains) > 0
    assert np.median(gains) > 10


@pytest.mark.parametrize("focal", [0.0, 1.0])
def test_there_is_no_fluid_far_from_the_recorded_opacities(focal: float) -> None:
    size = 96
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    for seed in range(20):
        lung = np.ones((size, size), np.float32)
        opacities, air = demo_drawing._infect(np.random.default_rng(seed), lung, focal)
        far = np.ones((size, size), bool)
        for opacity in opacities:
            away = np.hypot(x - opacity.centre_x, y - opacity.centre_y)
            far &= away > 2.5 * opacity.radius
        assert air.min() < 0.9
        assert air[far].min() > 0.8


def test_images_of_one_patient_are_alike_but_not_equal() -> None:
    def take(body: Anatomy, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return draw_xray(rng, size=64, anatomy=body, pneumonia=False)[0].astype(float).ravel()

    bodies = [Anatomy.draw(np.random.default_rng(seed)) for seed in range(6)]
    same = [np.corrcoef(take(body, 1), take(body, 2))[0, 1] for body in bodies]
    others = [np.corrcoef(take(one, 1), take(two, 2))[0, 1] for one, two in pairwise(bodies)]
    assert np.median(same) > np.median(others)
    assert max(same) < 1


def test_the_body_and_the_generator_decide_the_picture() -> None:
    body = Anatomy.draw(np.random.default_rng(0))
    first, again, wider = (
        draw_xray(np.random.default_rng(1), size=64, anatomy=one, pneumonia=True)[0]
        for one in (body, body, replace(body, width=0.9 * body.width))
    )
    assert first.dtype == np.uint8
    assert first.shape == (64, 64)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, wider)


def test_a_set_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    for _ in range(2):
        write_demo_set(
            tmp_path / "set", patients=20, size=32, progress=lambda *call: calls.append(call)
        )
    total = len(images(tmp_path / "set"))
    assert calls == [("drawing", done, total) for done in range(1, total + 1)]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_another_process_may_be_faster(tmp_path: Path) -> None:
    def overtake(_doing: str, done: int, _total: int) -> None:
        if done == 1:
            assert write_demo_set(tmp_path / "set", patients=20, size=32)

    assert not write_demo_set(tmp_path / "set", patients=20, size=32, progress=overtake)
    write_demo_set(tmp_path / "same", patients=20, size=32)
    assert contents(tmp_path / "set") == contents(tmp_path / "same")
    assert {path.name for path in tmp_path.iterdir()} == {"set", "same"}


def test_nothing_stays_of_a_set_that_was_interrupted(tmp_path: Path) -> None:
    def interrupt(_doing: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_set(tmp_path / "set", patients=20, size=32, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no demo set"):
        write_demo_set(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_set_with_other_options_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, run_cli: Callable[..., Result]
) -> None:
    def write(*options: object) -> Result:
        return run_cli("demo", tmp_path / "set", "--patients", 40, "--size", 32, *options)

    assert write().exit_code == 0
    again = write()
    assert again.exit_code == 0
    assert "nothing was changed" in again.stderr
    before = contents(tmp_path / "set")
    other = write("--seed", 3)
    assert other.exit_code == 1
    assert "holds another demo set (version 1, patients 40, size 32, seed 0)" in other.stderr
    (tmp_path / "set" / "demo.json").unlink()  # as a version without it wrote
    assert "no demo set of this version" in write().stderr
    del before["demo.json"]
    assert contents(tmp_path / "set") == before


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 20"):
        write_demo_set(tmp_path / "set", patients=19)
