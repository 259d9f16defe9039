"""The stress test, the operating point and the calibration: on arrays, and in what train logs."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import log_loss

from pneumonia.config.training import TrainingSettings
from pneumonia.errors import UsageError
from pneumonia.evaluation.calibration import fit_temperature, scaled
from pneumonia.evaluation.operating_point import choose_operating_point
from pneumonia.evaluation.scaling import LogitScaling
from pneumonia.evaluation.stress import CHANGES, CLEAN, StressTest
from pneumonia.tracking.models import load_model

Cli = Callable[..., Result]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_the_shape_and_is_the_same_each_time(name: str) -> None:
    levels = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(1)) * 255
    changed = CHANGES[name](levels)
    assert changed.shape == levels.shape
    assert torch.equal(changed, CHANGES[name](levels))
    assert (changed - levels).abs().mean() > 1  # it changes something
    assert torch.isfinite(changed).all()


def test_crops_show_the_side_they_keep() -> None:
    left_to_right = torch.linspace(0, 255, 100).expand(1, 100, 100)
    top_to_bottom = left_to_right.transpose(1, 2)
    assert CHANGES["left cropped"](left_to_right)[0, 50, 0] == pytest.approx(255 * 0.15, abs=3)
    assert CHANGES["right cropped"](left_to_right)[0, 50, -1] == pytest.approx(255 * 0.85, abs=3)
    assert CHANGES["top cropped"](top_to_bottom)[0, 0, 50] == pytest.approx(255 * 0.2, abs=3)
    assert CHANGES["bottom cropped"](top_to_bottom)[0, -1, 50] == pytest.approx(255 * 0.8, abs=3)
    for change in ("zoom out", "border masked"):
        changed = CHANGES[change](torch.full((1, 100, 100), 200.0))[0]
        assert changed[0].max() == 0
        assert changed[50, 50] == pytest.approx(200)


def test_a_summary_is_of_the_changes_alone() -> None:
    truth = np.array([0, 0, 1, 1])
    good, bad = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.2, 0.8, 0.1])
    test = StressTest(truth, ("a", "b", "c", "d"), {CLEAN: good, "one": good, "other": bad})
    assert test.summary(0.5) == {
        "auc_worst": 0.25,
        "auc_mean": 0.625,
        "balanced_accuracy_worst": 0.5,
        "balanced_accuracy_mean": 0.75,
    }


def _drawn(n: int, seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities whose logits are too large by a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    truth = (rng.random(n) < expit(logits)).astype(np.int64)
    return truth, expit(logits * temperature)


@given(st.integers(0, 10_000), st.floats(0.3, 3))
def test_the_temperature_lowers_the_loss(seed: int, sharpness: float) -> None:
    truth, probability = _drawn(400, seed, sharpness)
    temperature = fit_temperature(truth, probability[np.newaxis], float(truth.mean()))
    calibrated = scaled(probability, LogitScaling(temperature))
    assert log_loss(truth, calibrated) <= log_loss(truth, probability) + 1e-6
    assert (np.argsort(calibrated) == np.argsort(probability)).all()


def test_the_temperature_that_made_probabilities_too_sure_is_found() -> None:
    truth, probability = _drawn(20_000, seed=3, temperature=2.5)
    found = fit_temperature(truth, probability[np.newaxis], float(truth.mean()))
    assert found == pytest.approx(2.5, rel=0.05)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_no_threshold_has_a_better_balanced_accuracy_over_the_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat([0, 1], 30))
    probabilities = np.clip(0.5 + (truth - 0.5) * 0.3 + rng.normal(0, 0.2, (4, 60)), 0, 1)
    patients = [str(number // 2) for number in range(60)]
    point = choose_operating_point("stress", truth, probabilities, patients)

    def averaged(threshold: float) -> float:
        called = probabilities >= threshold  # (4, 60)
        return float((called[:, truth == 1].mean() + (~called[:, truth == 0]).mean()) / 2)

    best = max(averaged(threshold) for threshold in np.arange(1, 1000) / 1000)
    assert averaged(point.threshold) == pytest.approx(best)
    assert point.interval[0] <= point.interval[1]


def test_a_rule_keeps_the_sensitivity_asked_for() -> None:
    truth, probability = _drawn(2000, seed=1)
    patients = [str(number) for number in range(2000)]
    found = {}
    for rule in ("sensitivity>=0.95", "specificity>=0.95", "youden", "accuracy", "0.3"):
        point = choose_operating_point(rule, truth, probability[np.newaxis], patients)
        called = probability >= point.threshold
        found[rule] = called[truth == 1].mean(), 1 - called[truth == 0].mean(), point.threshold
    assert found["sensitivity>=0.95"][0] >= 0.95
    assert found["specificity>=0.95"][1] >= 0.95
    assert found["sensitivity>=0.95"][1] > 0.3  # and gives away no more than it must
    assert found["0.3"][2] == 0.3
    assert sum(found["youden"][:2]) >= sum(found["accuracy"][:2])


def test_few_images_give_a_wide_interval_and_a_warning() -> None:
    truth, probability = _drawn(24, seed=2)
    patients = [str(number) for number in range(24)]
    few = choose_operating_point("youden", truth, probability[np.newaxis], patients)
    assert "is uncertain" in few.warning
    assert not choose_operating_point("0.4", truth, probability[np.newaxis], patients).warning


@pytest.mark.parametrize("rule", ["best", "1.5", "nan", "sensitivity>=1.2", "sensitivity", "-1"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match=r"give stress, youden, accuracy, sensitivity>=0\.95"):
        TrainingSettings(threshold=rule)


def test_a_number_in_a_file_is_a_threshold() -> None:
    assert TrainingSettings(threshold=0.4).threshold == "0.4"


def test_the_model_carries_its_threshold_and_all_say_it(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    client = mlflow.MlflowClient(trained.tracking_uri)
    (run,) = client.search_runs(["0"], "tags.kind = 'train'")
    metrics = run.data.metrics
    threshold = metrics["threshold"]
    assert metrics["threshold_low"] <= threshold <= metrics["threshold_high"]
    assert f"at threshold {threshold:g}" in trained.result.stdout
    assert "stress    AUC of changed validation images" in trained.result.stdout
    assert metrics["stress/auc_worst"] <= metrics["stress/auc_mean"]

    mlflow.set_tracking_uri(trained.tracking_uri)
    table = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/stress.csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["change"] for row in rows] == [CLEAN, *CHANGES]
    version = client.get_model_version("resnet34", "1")
    assert version.tags["threshold"] == f"{threshold:g}"
    mlflow.set_registry_uri(trained.tracking_uri)
    assert load_model("models:/resnet34/1").config.threshold == threshold

    # The same images, by the command for new ones: the same probabilities and decisions.
    output = tmp_path / "rows.jsonl"
    uri = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    result = run_cli("predict", *uri, xrays / "test", "--precision", "fp32", "--output", output)
    assert result.exit_code == 0, result.stderr
    scored = {row["path"]: row for row in map(json.loads, output.read_text().splitlines())}
    logged = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/predictions_test.csv")
    for row in csv.DictReader(io.StringIO(logged)):
        assert scored[row["path"]]["probability"] == pytest.approx(float(row["probability"]))
        assert scored[row["path"]]["label"] == row["decision"]


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_the_stress_test_may_choose_the_epoch(xrays: Path, run_cli: Cli) -> None:
    quick = ("--epochs", "2", "--image-size", "32", "--batch-size", "8")
    result = run_cli("train", "--data", xrays, *quick, "--metric", "stress", "--threshold", "0.4")
    assert result.exit_code == 0, result.stderr
    assert "at threshold 0.4" in result.stdout
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    history = [m.value for m in client.get_metric_history(run.info.run_id, "val/stress")]
    assert len(history) == 2
    assert run.data.metrics["best/stress"] == max(history)
    assert client.get_model_version("resnet34", "1").tags["val.stress"] == repr(max(history))
