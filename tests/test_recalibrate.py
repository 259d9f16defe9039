"""``recalibrate``: a model's probabilities and threshold for images of another source."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from pneumonia import load_model
from pneumonia.config.data import DataSettings
from pneumonia.data.dataset import open_split
from pneumonia.data.decode import network_input
from pneumonia.data.demo import write_demo_set
from pneumonia.errors import CheckError, DataError
from pneumonia.evaluation.calibration import scaled
from pneumonia.evaluation.decide import decide
from pneumonia.evaluation.recalibration import fit_scaling, recalibrate
from pneumonia.tracking.models import log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.store import connect
from pneumonia.tracking.trained_on import find_known_images

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images that no model was trained on."""
    folder = tmp_path_factory.mktemp("source") / "hospital"
    write_demo_set(folder, patients=40, size=64, seed=7)
    return folder


@pytest.fixture(scope="module")
def informed(
    trained: SimpleNamespace, hospital: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A model that tells most of the hospital's images apart, and is too sure of pneumonia."""
    folder = tmp_path_factory.mktemp("informed")
    connect(trained.tracking_uri)
    model = load_model("models:/resnet34/1")
    settings = DataSettings(data=str(hospital))
    images = open_split(settings, model.config.preprocessing, "all").images
    grey, labels = images.batch(torch.arange(len(images)))
    network: Any = model.network
    head = network.fc
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        features = network(network_input(grey)).double().numpy()  # (n, 512)
    network.fc = head
    wrong = np.random.default_rng(0).random(len(labels)) < 0.1
    target = np.where(wrong ^ (labels.numpy() == 1), 1.0, -1.0)
    centre = features.mean(axis=0)
    weight = np.linalg.lstsq(features - centre, target, rcond=1e-6)[0]
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.stack([-2 * weight, 2 * weight])))
        bias = 2 * float(weight @ centre)
        head.bias.copy_(torch.tensor([bias, 5 - bias]))
    uri = f"sqlite:///{folder}/mlflow.db"
    connect(uri)
    assert model.gate is not None
    with parent_run(NewRun("informed", {"kind": "train"}, "0")) as run:
        example = images.files[0].path.read_bytes()
        logged = log_model(run, network, model.config, model.gate, step=0, example=example)
        validation = dict.fromkeys(("auc", "sensitivity", "specificity", "balanced_accuracy"), 0.9)
        register(logged, run, "resnet34", metric="auc", validation=validation, tags={})
    return SimpleNamespace(folder=folder, tracking_uri=uri)


@pytest.fixture
def run_recalibrate(informed: SimpleNamespace, hospital: Path, run_cli: Cli) -> Cli:
    def run(*arguments: object, version: int = 1) -> Result:
        model = ("--model-uri", f"models:/resnet34/{version}")
        where = ("--tracking-uri", informed.tracking_uri)
        return run_cli("recalibrate", *model, "--data", hospital, *where, *arguments)

    return run


def rows_of(run_cli: Cli, model_uri: str, store: SimpleNamespace, folder: Path) -> list[Any]:
    where = ("--model-uri", model_uri, "--tracking-uri", store.tracking_uri)
    result = run_cli("predict", *where, "--no-gate", "--precision", "fp32", folder)
    assert result.exit_code == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_a_new_version_has_the_same_network_and_other_probabilities(
    informed: SimpleNamespace, hospital: Path, run_cli: Cli, run_recalibrate: Cli
) -> None:
    result = run_recalibrate("--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    before, after = found["before"]["metrics"], found["after"]["metrics"]
    scaling = found["scaling"]
    assert after["brier"] < before["brier"]
    assert after["balanced_accuracy"] > before["balanced_accuracy"]
    assert "version 1 stays champion" in found["verdict"]

    was = rows_of(run_cli, "models:/resnet34/1", informed, hospital)
    now = rows_of(run_cli, found["model_uri"], informed, hospital)
    for old, new in zip(was, now, strict=True):
        unscaled = logit(float(old["probability"])) * float(old["temperature"])
        expected = unscaled / scaling["temperature"] + scaling["intercept"]
        assert logit(float(new["probability"])) == pytest.approx(expected, abs=1e-5)
        label = decide(float(new["probability"]), found["point"]["threshold"])
        assert new["label"] == ("NORMAL", "PNEUMONIA")[label]
        assert float(new["intercept"]) == scaling["intercept"]

    connect(informed.tracking_uri)
    client = mlflow.MlflowClient()
    version = client.get_model_version("resnet34", found["model_uri"].rpartition("/")[2])
    assert version.tags["recalibrated_from"] == "models:/resnet34/1"
    assert "not for images of other sources" in version.description
    run = client.get_run(version.run_id)
    assert run.data.metrics["after/brier"] == after["brier"]
    assert (
        f"**After**, cross-fitted: accuracy {after['accuracy']:.3f}"
        in run.data.tags["mlflow.note.content"]
    )
    low, high = (run.data.metrics[f"after/brier_{end}"] for end in ("low", "high"))
    assert low <= after["brier"] <= high
    artifacts = {item.path for item in client.list_artifacts(version.run_id)}
    assert {"report.html", "predictions_recalibration.csv"} <= artifacts
    again = run_cli(
        "evaluate", "--predictions", run.info.run_id, "--role", "recalibration", "--json"
    )
    assert json.loads(again.stdout)["metrics"] == pytest.approx(after)


def test_mlflow_serves_what_predict_says(
    informed: SimpleNamespace, hospital: Path, run_cli: Cli, run_recalibrate: Cli
) -> None:
    uri = json.loads(run_recalibrate("--json").stdout)["model_uri"]
    rows = rows_of(run_cli, uri, informed, hospital / "test")
    connect(informed.tracking_uri)
    served = mlflow.pyfunc.load_model(uri)
    images = [Path(row["path"]).read_bytes() for row in rows]
    answers = served.predict({"image": images}, params={"gate": False})
    assert list(answers["label"]) == [row["label"] for row in rows]
    expected = [float(row["probability"]) for row in rows]
    assert list(answers["probability"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_an_exported_file_has_the_new_probabilities(
    informed: SimpleNamespace, hospital: Path, tmp_path: Path, run_cli: Cli, run_recalibrate: Cli
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs ONNX: pip install 'pneumonia[onnx]'")
    pytest.importorskip("onnxscript", reason="needs ONNX: pip install 'pneumonia[onnx]'")
    uri = json.loads(run_recalibrate("--json").stdout)["model_uri"]
    target = tmp_path / "model.onnx"
    where = ("--model-uri", uri, "--tracking-uri", informed.tracking_uri)
    assert run_cli("export", *where, "--output", target).exit_code == 0
    connect(informed.tracking_uri)
    preprocessing = load_model(uri).config.preprocessing
    settings = DataSettings(data=str(hospital))
    images = open_split(settings, preprocessing, "test").images
    grey, _ = images.batch(torch.arange(len(images)))
    session = runtime.InferenceSession(target, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"grey": grey.float().numpy()})
    by_path = {row["path"]: row for row in rows_of(run_cli, uri, informed, hospital / "test")}
    expected = [float(by_path[str(file.path)]["probability"]) for file in images.files]
    assert list(found) == pytest.approx(expected, abs=1e-4)


def test_images_that_trained_the_model_are_refused(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """Its probabilities are too sure of them."""
    where = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    result = run_cli("recalibrate", *where, "--data", xrays)
    assert result.exit_code == 1
    assert "was trained on 50 of these" in result.stderr
    shutil.copytree(xrays / "train", tmp_path / "copied")
    result = run_cli("recalibrate", *where, "--data", tmp_path / "copied")
    assert result.exit_code == 1
    assert "was trained on 46 of these 55" in result.stderr


def test_images_that_tested_the_model_are_known(trained: SimpleNamespace, xrays: Path) -> None:
    connect(trained.tracking_uri)
    model = load_model("models:/resnet34/1")
    settings = DataSettings(data=str(xrays))
    found = {}
    for split in ("train", "val", "test"):
        images = open_split(settings, model.config.preprocessing, split).images
        known = find_known_images(model, images)
        found[split] = (len(images), known.n_training, known.n_test)
    n_train, n_validation = found["train"][0], found["val"][0]
    assert sum(of_training for _, of_training, _ in found.values()) == 50
    assert n_train + n_validation == 59
    assert found["test"] == (10, 0, 10)


def test_other_classes_than_the_models_are_no_images_to_calibrate_by(
    run_recalibrate: Cli,
) -> None:
    """Labels that say the opposite are not fitted by a negative slope."""
    result = run_recalibrate("--classes", "NORMAL=PNEUMONIA,PNEUMONIA=NORMAL")
    assert result.exit_code == 3
    assert "does not separate the classes of these images" in result.stderr


@pytest.mark.parametrize("rule", ["stress", "sensitivty>=0.9", "1.5"])
def test_what_is_no_rule_here_is_refused(rule: str, run_recalibrate: Cli) -> None:
    result = run_recalibrate("--threshold", rule)
    assert result.exit_code == 2
    assert f"threshold = '{rule}'" in result.stderr


def test_a_model_without_a_list_of_its_images_says_so(run_recalibrate: Cli) -> None:
    result = run_recalibrate("--register", "false", "--threshold", "sensitivity>=0.9")
    assert result.exit_code == 0, result.stderr
    assert "no list tells whether the model was trained on some of these" in result.stdout
    assert "not registered, as asked" in result.stdout
    assert "by sensitivity>=0.9" in result.stdout


def _drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, calibrated probabilities, and patients with two images each."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, n)
    truth = (rng.random(n) < expit(logits)).astype(np.int64)
    return truth, expit(logits), [f"p{i // 2}" for i in range(n)]


@given(seed=st.integers(0, 99), slope=st.floats(0.3, 3), shift=st.floats(-4, 4))
def test_the_scaling_that_spoilt_probabilities_is_undone(
    seed: int, slope: float, shift: float
) -> None:
    truth, probability, _ = _drawn(4000, seed)
    spoilt = expit(logit(probability) * slope + shift)
    restored = scaled(spoilt, fit_scaling(truth, spoilt))
    as_it_was = scaled(probability, fit_scaling(truth, probability))
    assert restored == pytest.approx(as_it_was, abs=5e-3)


def test_perfectly_separated_classes_get_finite_probabilities() -> None:
    truth = np.repeat([0, 1], 50).astype(np.int64)
    probability = np.where(truth == 1, 1 - 1e-9, 1e-9)
    found = scaled(probability, fit_scaling(truth, probability))
    assert found[0] == pytest.approx(1 / 52, abs=1e-3)
    assert found[-1] == pytest.approx(51 / 52, abs=1e-3)


def test_each_image_is_scored_by_a_fit_without_its_patient() -> None:
    truth, probability, patients = _drawn(400, seed=1)
    found = recalibrate(truth, probability, patients, "youden")
    assert len({(p, f) for p, f in zip(patients, found.fold, strict=True)}) == 200
    for number in range(5):
        others = found.fold != number
        scaling = fit_scaling(truth[others], probability[others])
        assert found.probability[~others] == pytest.approx(scaled(probability[~others], scaling))
        assert len(set(found.threshold[~others])) == 1


def test_too_few_patients_are_refused_however_many_their_images() -> None:
    truth, probability, _ = _drawn(400, seed=1)
    patients = [f"p{i % 9}" if label else f"q{i}" for i, label in enumerate(truth)]
    with pytest.raises(DataError, match="9 patients with positive images are too few"):
        recalibrate(truth, probability, patients, "youden")


def test_probabilities_that_tell_nothing_are_refused() -> None:
    truth, _, patients = _drawn(400, seed=1)
    with pytest.raises(CheckError, match="AUC"):
        recalibrate(truth, np.random.default_rng(0).random(400), patients, "youden")
