"""Drift of a batch's probabilities from those of the validation images."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.evaluation.conformal import calibration_of
from pneumonia.evaluation.drift import LARGEST_INDEX, ScoreDrift
from pneumonia.tracking.models import load_model
from pneumonia.tracking.store import connect
from pneumonia.workflows.log_prediction import log_prediction
from pneumonia.workflows.predict import predict, predict_to_file


def scores_of(n_images: int, seed: int, *, positive: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = (generator.random(n_images) < positive).astype(np.int64)
    logit = generator.normal(2.0 * (2 * truth - 1), 1.5)
    return truth, 1 / (1 + np.exp(-logit))


def drift_of(batch: np.ndarray, *, prevalence: float = 0.5) -> ScoreDrift:
    drift = ScoreDrift(calibration_of(*scores_of(600, 0)), prevalence)
    for start in range(0, len(batch), 64):
        drift.add(batch[start : start + 64])
    return drift


def test_the_index_is_that_of_its_definition() -> None:
    batch = scores_of(5000, 1, positive=0.9)[1]
    drift = drift_of(batch)
    truth, reference = scores_of(600, 0)
    edges = [-1, *drift.edges, 2]
    of_batch = np.histogram(batch, edges)[0] / len(batch)
    weights = np.where(truth == 1, 0.5 / truth.sum(), 0.5 / (1 - truth).sum())
    expected = np.histogram(reference, edges, weights=weights)[0]
    by_hand = ((of_batch - expected) * np.log(of_batch / expected)).sum()
    assert len(drift.expected) == 10
    assert drift.expected == pytest.approx(0.1, abs=0.01)
    assert drift.index == pytest.approx(by_hand, rel=0.02)
    assert drift.index > drift.bound == LARGEST_INDEX


def test_chance_alone_seldom_passes_the_bound_however_small_the_batch() -> None:
    for n_images in (1, 5, 20, 100, 1000):
        drifts = [drift_of(scores_of(n_images, seed)[1]) for seed in range(1, 201)]
        assert np.mean([drift.index > drift.bound for drift in drifts]) <= 0.03


def test_a_stated_prevalence_is_what_is_expected() -> None:
    batch = scores_of(3000, 1, positive=0.1)[1]
    assert drift_of(batch).index > drift_of(batch).bound
    assert drift_of(batch, prevalence=0.1).index < 0.05


def test_a_model_that_is_always_certain_has_no_drift_among_equal_scores() -> None:
    """Rounding keeps a validation image's 0.9999999 where a new image's is."""
    truth = np.arange(400) % 2
    certain = np.where(truth == 1, 1 - 1e-9, 1e-9)
    drift = ScoreDrift(calibration_of(truth, certain), 0.5)
    drift.add(np.where(truth == 1, 1 - 3e-8, 2e-8))
    assert drift.index == pytest.approx(0, abs=1e-6)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
    st.lists(st.floats(0, 1), max_size=50),
    st.floats(0.01, 0.99),
)
def test_the_index_is_a_number_for_any_scores(
    negative: list[float], positive: list[float], batch: list[float], prevalence: float
) -> None:
    truth = np.array([0] * len(negative) + [1] * len(positive))
    drift = ScoreDrift(calibration_of(truth, np.array(negative + positive)), prevalence)
    drift.add(np.array(batch))
    assert drift.counts.sum() == len(batch)
    assert drift.expected.sum() == pytest.approx(1)
    assert np.isnan(drift.index) if not batch else drift.index >= 0


@pytest.mark.parametrize(("prevalence", "drifted"), [(None, False), (0.02, True)])
def test_a_tracked_batch_logs_its_drift_and_warns(
    trained: SimpleNamespace,
    xrays: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    prevalence: float | None,
    drifted: bool,
) -> None:
    connect(trained.tracking_uri)
    loaded = load_model("models:/resnet34/1")
    images = [xrays / "train"] * 4
    rows = list(predict(loaded, images, gate=False))
    probability = np.array([row["probability"] for row in rows])
    truth = (probability > np.median(probability)).astype(np.int64)  # classes well apart
    calibration = calibration_of(truth, probability)
    config = replace(loaded.config, calibration=calibration, prevalence=float(truth.mean()))
    model = replace(loaded, config=config)
    output = tmp_path / "rows.csv"
    counts = predict_to_file(model, images, output, gate=False, prevalence=prevalence)

    client = mlflow.MlflowClient(trained.tracking_uri)
    run_id = log_prediction(model, images, output, counts)
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["drift/stability_index"] > metrics["drift/bound"]) is drifted
    assert ("population stability index" in caplog.text) is drifted
    rates = {key: value for key, value in metrics.items() if key.startswith("rate/")}
    assert sum(rates.values()) - rates["rate/warning"] == pytest.approx(1)
    assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/drift.png"]
