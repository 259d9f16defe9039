"""Possible classes at a stated coverage, and what predict makes of them."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.evaluation.conformal import calibration_of, possible_classes

Cli = Callable[..., Result]


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and probabilities that tell them apart somewhat and are not calibrated."""
    truth = (rng.random(n) < 0.7).astype(np.int64)
    return truth, 1 / (1 + np.exp(-(3 * (truth - 0.4) + 2 * rng.normal(size=n))))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_each_class_is_covered_as_often_as_stated(coverage: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        calibration = calibration_of(*drawn(rng, 300))
        truth, probability = drawn(rng, 300)
        possible = possible_classes(probability, calibration, coverage)
        held = possible[np.arange(300), truth]
        covered.append([held[truth == label].mean() for label in (0, 1)])
    for mean in np.mean(covered, axis=0):
        assert coverage - 0.01 < mean < coverage + 0.03


@given(st.integers(1, 30), st.floats(0.5, 0.999), st.integers(0, 2**32 - 1))
def test_more_coverage_excludes_no_more(n: int, coverage: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, probability = drawn(rng, n)
    calibration = calibration_of(truth, probability)
    some = possible_classes(probability, calibration, coverage)
    more = possible_classes(probability, calibration, (1 + coverage) / 2)
    assert (more | ~some).all()


def test_few_images_exclude_nothing() -> None:
    calibration = calibration_of(np.array([0, 1] * 5), np.linspace(0, 1, 10))
    assert possible_classes(np.array([0.0, 0.5, 1.0]), calibration, 0.95).all()


def test_predict_gives_no_label_where_two_are_possible(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    output = tmp_path / "rows.csv"
    command = ("predict", *model, xrays / "test", "--output", output)
    result = run_cli(*command, "--coverage", "0.95")  # too few validation images to exclude a class
    assert result.exit_code in (0, 3), result.stderr
    rows = list(csv.DictReader(output.read_text().splitlines()))
    scored = [row for row in rows if row["status"] != "rejected"]
    assert {(row["status"], row["label"], row["coverage"]) for row in scored} == {
        ("undecided", "", "0.95")
    }
    assert all(row["reason"] == "no one class at coverage 0.95" for row in scored)
    assert f"{len(scored)} undecided" in result.stderr
    mixed = run_cli(*command, "--resume")
    assert mixed.exit_code == 1
    assert "holds rows with coverage = 0.95, not None: name another file" in mixed.stderr
    assert run_cli(*command, "--coverage", "1").exit_code == 2


def test_coverage_of_the_test_images_is_logged(trained: SimpleNamespace) -> None:
    client = mlflow.MlflowClient(trained.tracking_uri)
    (run,) = client.search_runs(["0"], "tags.kind = 'train'")
    assert run.data.metrics["test/coverage_at_0.95"] == 1  # nothing is excluded by so few
    assert run.data.metrics["test/undecided_at_0.95"] == 1
