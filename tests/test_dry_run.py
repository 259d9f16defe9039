"""``--dry-run``: an estimate from a few real steps, and nothing left behind."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]
SMALL = ("--image-size", "32", "--batch-size", "8")


def test_nothing_is_logged_and_the_whole_is_estimated(
    empty_folder: Path, xrays: Path, run_cli: Cli
) -> None:
    result = run_cli("train", "--data", xrays, *SMALL, "--epochs", "7", "--dry-run")
    assert result.exit_code == 0, result.stderr
    found = re.search(r"^train +(\d+) ", result.stderr, re.MULTILINE)  # of the table of roles
    assert found, result.stderr
    first, *rest = result.stdout.splitlines()
    assert first == f"would train resnet34: 7 epochs of {found[1]} images"
    assert [line.split()[0] for line in rest] == ["speed", "time", "memory", "Nothing"]
    assert "tracked in" not in result.stderr
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
def test_trials_and_folds_take_as_many_times(empty_folder: Path, xrays: Path, run_cli: Cli) -> None:
    def estimate(*arguments: object) -> dict[str, float]:
        result = run_cli(
            *arguments, "--data", xrays, *SMALL, "--epochs", "2", "--dry-run", "--json"
        )
        assert result.exit_code == 0, result.stderr
        found: dict[str, float] = json.loads(result.stdout)
        return found

    once = estimate("train")
    search = estimate("train", "--trials", "50", "--study", "night", "--pruner", "none")
    folds = estimate("cross-validate", "--folds", "3")
    by_folds = estimate("train", "--trials", "4", "--folds", "3")  # and the winner once more
    all_found = (once, search, folds, by_folds)
    assert [found["n_trainings"] for found in all_found] == [1, 50, 3, 13]
    for found in all_found:
        an_epoch = found["n_images"] / found["images_per_second"]
        assert found["seconds"] > found["n_trainings"] * found["epochs"] * an_epoch
    assert list(empty_folder.iterdir()) == []


@pytest.mark.usefixtures("empty_folder")
def test_a_timeout_ends_a_search_early(xrays: Path, run_cli: Cli) -> None:
    options = ("--data", xrays, *SMALL, "--trials", 10_000, "--timeout", 1, "--dry-run", "--json")
    result = run_cli("train", *options)
    assert result.exit_code == 0, result.stderr
    whole = json.loads(result.stdout)
    all_trials = whole["n_trainings"] * whole["n_images"] / whole["images_per_second"]
    assert whole["seconds"] < all_trials / 2


def test_a_batch_may_be_the_whole_training_set(xrays: Path, tmp_path: Path, run_cli: Cli) -> None:
    data = tmp_path / "odd"
    for role, n_images in (("train", 7), ("val", 4), ("test", 4)):
        for name in ("NORMAL", "PNEUMONIA"):
            (data / role / name).mkdir(parents=True)
        files = [sorted((xrays / role / name).iterdir()) for name in ("NORMAL", "PNEUMONIA")]
        for number in range(n_images):
            file = files[number % 2][number // 2]
            shutil.copy(file, data / role / file.parent.name / f"{role}{number}_{number}.jpeg")
    options = ("--image-size", "32", "--batch-size", "7", "--patient-pattern", "(?P<patient>.+)")
    roles = ("--train-folders", "train", "--validation-folders", "val")
    result = run_cli("train", "--data", data, *options, *roles, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "of 7 images" in result.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--batch-size", "5000"), "batch_size = 5000 is larger"),
        (("--resume", "0" * 32), "leave --resume out"),
        (("--folds", "3"), "add --trials"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_what_would_fail_is_said(
    options: tuple[str, ...], reason: str, xrays: Path, run_cli: Cli
) -> None:
    result = run_cli("train", "--data", xrays, "--image-size", "32", "--dry-run", *options)
    assert result.exit_code in (1, 2)
    assert reason in result.stderr
