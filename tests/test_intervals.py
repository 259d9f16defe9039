"""Metrics against scikit-learn, and intervals against their definitions and published packages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn import metrics as sk

from pneumonia.evaluation.intervals import (
    auc_interval,
    bootstrap_intervals,
    compare_aucs,
    exact_interval,
    resampled_weights,
    value_text,
)
from pneumonia.evaluation.metrics import classification_metrics, weighted_metrics


def example(
    n: int, seed: int = 0, digits: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and probabilities that rank them better than chance, with ties."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3 != 0
    probability = np.clip(rng.normal(0.35 + 0.3 * truth, 0.25), 0, 1).round(digits)
    return truth.astype(np.int64), probability


@pytest.mark.parametrize("threshold", [0.5, 0.23, 0.0])
def test_metrics_are_those_of_scikit_learn(threshold: float) -> None:
    """Each metric that scikit-learn defines has its value, at any threshold."""
    truth, probability = example(200)
    called = (probability >= threshold).astype(int)
    clipped = np.clip(probability, 1e-12, 1 - 1e-12)
    expected = {
        "loss": sk.log_loss(truth, clipped),
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(truth, called, pos_label=0),
        "precision": sk.precision_score(truth, called),
        "f1": sk.f1_score(truth, called),
        "mcc": sk.matthews_corrcoef(truth, called),
        "auc": sk.roc_auc_score(truth, probability),
        "average_precision": sk.average_precision_score(truth, probability),
        "brier": sk.brier_score_loss(truth, probability),
    }
    found = classification_metrics(truth, probability, threshold)
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    if 0 < called.sum() < len(called):
        assert found["npv"] == pytest.approx(sk.precision_score(truth, called, pos_label=0))


@given(st.data())
def test_a_weight_counts_an_image_as_often_as_repeating_it(data: st.DataObject) -> None:
    """The vectorised metrics of a resample are those of the images it holds."""
    n = data.draw(st.integers(4, 30))
    truth, probability = example(n, seed=data.draw(st.integers(0, 99)), digits=1)
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    if not times.any():
        times[0] = 1
    repeated = classification_metrics(np.repeat(truth, times), np.repeat(probability, times))
    weighted = weighted_metrics(truth, probability, times[np.newaxis].astype(float))
    for name, value in repeated.items():
        assert weighted[name][0] == pytest.approx(value, nan_ok=True), name


def test_patients_are_drawn_whole() -> None:
    """All images of a patient are drawn equally often, and as many patients as there are."""
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = np.concatenate(list(resampled_weights(patients, 500, seed=1)))  # (R, n)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_repeated_images_of_a_patient_do_not_narrow_the_interval() -> None:
    """Ten copies of each image by the same patient leave the interval as it was."""
    truth, probability = example(60)
    names = [str(number) for number in range(60)]
    once = bootstrap_intervals(truth, probability, names)
    tenfold = bootstrap_intervals(np.tile(truth, 10), np.tile(probability, 10), names * 10)
    by_image = bootstrap_intervals(
        np.tile(truth, 10), np.tile(probability, 10), [str(number) for number in range(600)]
    )
    assert tenfold["auc"] == pytest.approx(once["auc"], abs=1e-9)
    width = once["auc"][1] - once["auc"][0]
    assert by_image["auc"][1] - by_image["auc"][0] < 0.5 * width


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Of 200 samples about 95 % have the population's accuracy within the interval."""
    population, scores = example(100_000, seed=9)
    accuracy = classification_metrics(population, scores)["accuracy"]
    rng, inside = np.random.default_rng(3), 0
    for _ in range(200):
        chosen = rng.choice(len(population), 150)
        low, high = bootstrap_intervals(
            population[chosen], scores[chosen], [str(n) for n in range(150)], resamples=300
        )["accuracy"]
        inside += low <= accuracy <= high
    assert 0.90 <= inside / 200 <= 0.99


@pytest.mark.parametrize("seed", range(5))
def test_every_value_lies_in_its_interval(seed: int) -> None:
    """Of well calibrated probabilities too, to whose error every resample adds."""
    rng = np.random.default_rng(seed)
    probability = np.sort(rng.beta(0.4, 0.4, 180))
    truth = np.diff(np.floor(probability.cumsum()), prepend=0).astype(np.int64)
    patients = [str(n // 2) for n in range(180)]
    values = classification_metrics(truth, probability)
    for name, (low, high) in bootstrap_intervals(truth, probability, patients).items():
        assert low <= values[name] <= high, name


def test_a_share_without_exception_is_not_certain() -> None:
    """Of eight patients who are all called right, as in a test set of 16 images."""
    truth = np.repeat([0, 1], [8, 16]).astype(np.int64)
    patients = [str(n) for n in range(8)] + [f"ill {n // 2}" for n in range(16)]
    found = bootstrap_intervals(truth, truth * 0.9, patients)
    exact = binomtest(8, 8).proportion_ci(method="exact")
    for name in ("sensitivity", "specificity", "precision", "npv"):
        assert found[name] == pytest.approx((exact.low, exact.high)), name
    assert found["accuracy"][0] == pytest.approx(binomtest(16, 16).proportion_ci().low)
    none = bootstrap_intervals(truth, 1.0 - truth, patients)
    assert none["sensitivity"] == pytest.approx((0, 1 - exact.low))


def test_no_metric_of_a_set_without_errors_is_certain() -> None:
    """Nor is that of a set where all is wrong; calibration errors do vary."""
    truth = np.repeat([0, 1], [8, 16]).astype(np.int64)
    patients = [str(n) for n in range(24)]
    for probability in (0.05 + truth * 0.9, 0.95 - truth * 0.9):
        values = classification_metrics(truth, probability)
        found = bootstrap_intervals(truth, probability, patients)
        for name in ("auc", "balanced_accuracy"):
            exact = exact_interval(round(8 * values[name]), 8)
            assert found[name] == pytest.approx(exact), name
        assert np.isnan([found["f1"], found["mcc"]]).all()
        assert auc_interval(truth, probability) == pytest.approx(found["auc"])
        assert value_text(values["f1"], found["f1"]) == f"{values['f1']:.3f}"


def test_the_interval_of_a_perfect_auc_holds_the_true_one() -> None:
    """Of many small sets from two classes that overlap, those without an error are not certain."""
    rng, truth = np.random.default_rng(0), np.repeat([0, 1], 8).astype(np.int64)
    perfect = inside = 0
    for _ in range(500):
        probability = expit(rng.normal(truth * 3.0, 1.0))
        if probability[truth == 1].min() > probability[truth == 0].max():
            perfect += 1
            low, high = auc_interval(truth, probability)
            inside += low <= norm.cdf(3 / np.sqrt(2)) <= high
    assert perfect > 100
    assert inside == perfect


def test_delong_is_that_of_a_published_package() -> None:
    """Variance and test agree with MLstatkit, which is installed for the tests."""
    mlstatkit = pytest.importorskip("MLstatkit", reason="MLstatkit is not installed")
    truth, first = example(150)
    _, second = example(150, seed=5)
    _, p_value, interval, _, auc, other, *_ = mlstatkit.Delong_test(truth, first, second)
    compared = compare_aucs(truth, first, second)
    assert compared.p_value == pytest.approx(p_value, abs=1e-6)
    assert compared.difference == pytest.approx(auc - other)
    assert auc == pytest.approx(classification_metrics(truth, first)["auc"])
    assert auc_interval(truth, first) == pytest.approx(interval, abs=1e-6)


def test_equal_predictions_do_not_differ() -> None:
    """A model compared with itself has no difference, and no test of it."""
    truth, probability = example(50)
    compared = compare_aucs(truth, probability, probability)
    assert (compared.difference, compared.low, compared.high) == (0, 0, 0)
    assert np.isnan(compared.p_value)
