"""Comparing two models, and computing metrics again, from tables of predictions."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.evaluation.comparison import compare_predictions
from pneumonia.evaluation.metrics import predictive_values
from pneumonia.evaluation.predictions import Predictions, read_predictions

Cli = Callable[..., Result]


def _table(*, noise: float, seed: int, n: int = 300, threshold: float = 0.5) -> Predictions:
    """A model that knows the truth but for some noise; two images a patient."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    probability = np.clip(0.5 + (truth - 0.5) * 0.5 + rng.normal(0, noise, n), 0, 1)
    return Predictions(
        [f"x/{i}.png" for i in range(n)],
        [f"p{i // 2}" for i in range(n)],
        [f"{i:05}" for i in range(n)],
        truth,
        probability,
        threshold,
        ("NORMAL", "PNEUMONIA"),
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 1))
def test_a_model_is_not_better_than_itself(seed: int, noise: float) -> None:
    table = _table(noise=noise, seed=seed, n=60)
    comparison = compare_predictions(table, table)
    assert all(row.interval == (0, 0) for row in comparison.differences.values())
    assert comparison.verdict("auc", 0.01) == "non-inferior"
    assert comparison.verdict("auc", 0.0) == "undecided"
    assert comparison.mcnemar_p == 1
    assert len(comparison.disagreements) == 0


def test_two_models_without_an_error_on_few_images_are_not_known_to_be_alike() -> None:
    """Nor one that is always wrong and another that is always right to differ by just 1."""
    few, other = (_table(noise=0.01, seed=seed, n=16) for seed in (0, 1))
    comparison = compare_predictions(few, other)
    q = 1 - 0.025 ** (1 / 8)  # of eight pairs of patients that all score alike
    for metric in ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        assert comparison.differences[metric].interval == pytest.approx((-q, q)), metric
        assert comparison.verdict(metric, 0.01) == "undecided"
    assert comparison.verdict("f1", 0.01) == "undecided"
    assert comparison.auc is not None
    assert (comparison.auc.low, comparison.auc.high) == pytest.approx((-q, q))
    more = compare_predictions(*(_table(noise=0.01, seed=seed, n=1000) for seed in (0, 1)))
    assert more.verdict("auc", 0.01) == "non-inferior"
    wrong = compare_predictions(few, replace(few, probability=1 - few.probability))
    assert wrong.differences["auc"].interval == pytest.approx((1 - 2 * q, 1))
    assert wrong.verdict("auc", 0.01) == "better"


def test_the_better_model_is_found_both_ways() -> None:
    good, bad = _table(noise=0.1, seed=1), _table(noise=0.5, seed=2)
    comparison, reverse = compare_predictions(good, bad), compare_predictions(bad, good)
    for metric in ("auc", "accuracy", "loss", "brier"):
        assert comparison.verdict(metric, 0.01) == "better"
        assert reverse.verdict(metric, 0.01) == "worse"
    right = [table.decisions == table.truth for table in (good, bad)]
    assert comparison.only_first_right == (right[0] & ~right[1]).sum()
    assert comparison.only_second_right == (right[1] & ~right[0]).sum()
    assert comparison.mcnemar_p < 0.001


def test_mcnemar_is_exact() -> None:
    table = _table(noise=0.0, seed=0, n=40)
    flipped = table.probability.copy()
    flipped[:5] = 1 - flipped[:5]
    other = replace(table, probability=flipped)
    # Of five images that one alone calls right: two sides of a fair coin's five heads.
    assert compare_predictions(table, other).mcnemar_p == pytest.approx(2 * 0.5**5)


def test_pairs_are_compared_image_by_image() -> None:
    """A difference that every image shares is sure, though each model alone is not."""
    first = _table(noise=0.3, seed=3)
    second = replace(first, probability=first.probability * 0.9)
    low, high = compare_predictions(first, second).differences["auc"].interval
    assert low == high == 0


def test_predictive_values_follow_bayes() -> None:
    # Altman and Bland (1994): sensitivity 0.9 and specificity 0.9 at 1 % give a value of 0.083.
    positive, negative = predictive_values(0.9, 0.9, 0.01)
    assert positive == pytest.approx(0.009 / (0.009 + 0.099))
    assert negative == pytest.approx(0.891 / (0.891 + 0.001))
    assert np.isnan(predictive_values(0.0, 1.0, 0.5)[0])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Where the images of a small table are."""
    (tmp_path / "x").mkdir()
    for number in range(300):
        pixels = np.full((64, 48), number % 256, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x" / f"{number}.png")
    return tmp_path


def _write(path: Path, table: Predictions) -> Path:
    path.write_text(table.as_csv())
    return path


def test_two_files_are_compared(
    images: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli
) -> None:
    monkeypatch.chdir(images)
    shuffled = np.random.default_rng(0).permutation(300).tolist()
    good = _write(images / "good.csv", _table(noise=0.1, seed=1))
    bad = _write(images / "bad.csv", _table(noise=0.5, seed=2, threshold=0.4).part(shuffled))
    result = run_cli("compare", good, bad, "--require", "better", "--gallery", "differ.png")
    assert result.exit_code == 0, result.stderr
    assert "300 images of 150 patients" in result.stdout
    assert "verdict   better by auc" in result.stdout
    with Image.open("differ.png") as drawn:
        assert drawn.width > 400

    result = run_cli("compare", bad, good, "--require", "non-inferior")
    assert result.exit_code == 3
    assert "verdict   worse" in result.stdout
    assert "the first model is not non-inferior by auc" in result.stderr

    assert run_cli("compare", bad, good, "--metric", "ac").exit_code == 2
    fewer = _write(images / "fewer.csv", _table(noise=0.1, seed=1).part(range(10)))
    result = run_cli("compare", good, fewer)
    assert result.exit_code == 1
    assert "of which 10 are the same: score both on one data set" in result.stderr
    table = _table(noise=0.1, seed=1)
    other = _write(images / "other.csv", replace(table, truth=1 - table.truth))
    assert "name different classes" in run_cli("compare", good, other).stderr
    (images / "no.csv").write_text("path,probability\na,0.5\n")
    assert "is no table of predictions" in run_cli("compare", good, images / "no.csv").stderr
    assert "there is no file 'away.csv'" in run_cli("compare", good, "away.csv").stderr


def test_a_model_is_compared_with_a_file_and_scored_again(
    trained: SimpleNamespace, tmp_path: Path, run_cli: Cli
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    (run,) = mlflow.MlflowClient().search_runs(["0"], "tags.kind = 'train'")
    text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/predictions_test.csv")
    table = mlflow.load_table("predictions_test.json", [run.info.run_id])
    pd.testing.assert_frame_equal(table, pd.read_csv(io.StringIO(text)))
    copy = tmp_path / "copy.csv"
    copy.write_text(text)
    store = ("--tracking-uri", trained.tracking_uri)
    result = run_cli("compare", "models:/resnet34/1", copy, *store)
    assert result.exit_code == 0, result.stderr
    assert "verdict   non-inferior" in result.stdout
    result = run_cli("compare", run.info.run_id, copy, "--role", "training", *store)
    assert "has no predictions_training.csv" in result.stderr

    table = read_predictions(text, "copy")
    assert table.as_csv() == text
    for source in (copy, "models:/resnet34/1"):
        result = run_cli("evaluate", "--predictions", source, "--prevalence", "0.1", *store)
        assert result.exit_code == 0, result.stderr
        said = dict(re.findall(r"^(\w+) +([\d.]+|nan)", result.stdout, re.MULTILINE))
        for name in ("auc", "accuracy", "sensitivity", "specificity", "brier"):
            assert float(said[name]) == pytest.approx(run.data.metrics[f"test/{name}"], abs=1e-4)
        assert "npv at prevalence 0.1" in result.stdout
    result = run_cli("evaluate", "--predictions", copy, "--threshold", "0", *store)
    assert "sensitivity        1.0000" in result.stdout
    assert run_cli("evaluate").exit_code == 2
