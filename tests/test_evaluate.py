"""``evaluate``: a model on each part of a data set, at any threshold, with the classes by name."""

import csv
import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from click.testing import Result
from mlflow.entities import Run

from pneumonia import evaluate, load_model, predict
from pneumonia.errors import UsageError
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.store import connect

Cli = Callable[..., Result]

URI = "models:/resnet34/1"


@pytest.fixture
def model(trained: SimpleNamespace) -> LoadedModel:
    connect(trained.tracking_uri)
    return load_model(URI)


@pytest.fixture
def run_evaluate(trained: SimpleNamespace, run_cli: Cli) -> Cli:
    def run(*arguments: object) -> Result:
        store = ("--tracking-uri", trained.tracking_uri, "--experiment-name", "evaluations")
        return run_cli("evaluate", "--model-uri", URI, *arguments, *store)

    return run


def run_of(result: Result, trained: SimpleNamespace) -> Run:
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(trained.tracking_uri)
    experiment = client.get_experiment_by_name("evaluations")
    runs = client.search_runs([experiment.experiment_id])
    return next(run for run in runs if run.info.run_id in result.stdout + result.stderr)


def accuracy(model: LoadedModel, folder: Path) -> float:
    rows = list(predict(model, [folder], precision="fp32"))
    return float(np.mean([row["label"] == Path(row["path"]).parent.name for row in rows]))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_is_scored_under_its_own_name(
    split: str, model: LoadedModel, trained: SimpleNamespace, xrays: Path, run_evaluate: Cli
) -> None:
    """Only figures of the test images are called ``test/…``, and all agree with ``predict``."""
    run = run_of(run_evaluate("--data", xrays, "--split", split), trained)
    role = "test" if split == "test" else f"{split}_split"
    (scored,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (scored.name, scored.digest) == (f"xrays/{split}", run.data.params["dataset/digest"])
    value = f"accuracy {run.data.metrics[f'{role}/accuracy']:.3f} ("
    assert run.data.tags["mlflow.note.content"].startswith(value)
    assert run.data.metrics[f"{role}/accuracy"] == pytest.approx(accuracy(model, xrays / split))
    assert {key.partition("/")[0] for key in run.data.metrics} == {role}
    low, high = (run.data.metrics[f"{role}/auc_{end}"] for end in ("low", "high"))
    assert 0 <= low <= run.data.metrics[f"{role}/auc"] <= high <= 1


def test_a_flat_folder_tests_the_model(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_evaluate: Cli
) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        shutil.copytree(xrays / "test" / label, tmp_path / label)
    run = run_of(run_evaluate("--data", tmp_path, "--split", "all"), trained)
    assert "test/accuracy" in run.data.metrics


def test_other_splits_are_not_even_read(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_evaluate: Cli
) -> None:
    """An unreadable training image does not keep the test images from being scored."""
    shutil.copytree(xrays, tmp_path / "set")
    (tmp_path / "set" / "train" / "NORMAL" / "junk.jpeg").write_bytes(b"junk")
    shutil.rmtree(tmp_path / "set" / "val" / "PNEUMONIA")
    run = run_of(run_evaluate("--data", tmp_path / "set", "--split", "test"), trained)
    assert "test/auc" in run.data.metrics
    failed = run_evaluate("--data", tmp_path / "set", "--split", "train")
    assert failed.exit_code == 1
    assert "junk.jpeg" in failed.stderr


def test_a_pattern_finds_the_patients_in_file_names(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_evaluate: Cli
) -> None:
    """The warning that names tell no patient recommends this option."""
    for number, file in enumerate(sorted((xrays / "train").rglob("*.jpeg"))):
        target = tmp_path / file.parent.name / f"{number % 4}_{number}.jpeg"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)
    pattern = "(?P<patient>[0-9]+)_"
    result = run_evaluate("--data", tmp_path, "--split", "all", "--patient-pattern", pattern)
    run = run_of(result, trained)
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/predictions_test.csv")
    assert {row["patient"] for row in csv.DictReader(io.StringIO(text))} == set("0123")


@pytest.mark.parametrize(("threshold", "sensitivity"), [(0, 1.0), (1, 0.0)])
def test_the_threshold_asked_for_is_used_and_logged(
    threshold: float,
    sensitivity: float,
    trained: SimpleNamespace,
    xrays: Path,
    run_evaluate: Cli,
) -> None:
    """Zero is a threshold like any other."""
    run = run_of(run_evaluate("--data", xrays, "--threshold", threshold), trained)
    assert float(run.data.params["threshold"]) == threshold
    assert run.data.metrics["test/sensitivity"] == sensitivity
    assert run.data.metrics["test/specificity"] == 1 - sensitivity


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 7.0])
def test_what_is_no_threshold_is_refused(
    threshold: float, model: LoadedModel, xrays: Path, run_evaluate: Cli
) -> None:
    """By the commands and by the Python functions."""
    assert run_evaluate("--data", xrays, "--threshold", threshold).exit_code == 2
    with pytest.raises(UsageError, match="threshold"):
        evaluate(model, str(xrays), threshold=threshold)
    with pytest.raises(UsageError, match="threshold"):
        next(predict(model, [xrays / "test"], threshold=threshold))


@pytest.mark.parametrize("classes", ["PNEUMONIA,NORMAL", "pneumonia, normal", "NORMAL,PNEUMONIA"])
def test_classes_are_matched_by_name_in_any_order(
    classes: str, model: LoadedModel, trained: SimpleNamespace, xrays: Path, run_evaluate: Cli
) -> None:
    run = run_of(run_evaluate("--data", xrays, "--classes", classes), trained)
    assert run.data.metrics["test/accuracy"] == pytest.approx(accuracy(model, xrays / "test"))


def test_class_folders_may_be_named_otherwise(
    model: LoadedModel, trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_evaluate: Cli
) -> None:
    """A folder is given its class by name, so no order can swap them."""
    shutil.copytree(xrays / "test" / "NORMAL", tmp_path / "healthy")
    shutil.copytree(xrays / "test" / "PNEUMONIA", tmp_path / "sick")
    named = ("--classes", "sick=PNEUMONIA,healthy=NORMAL")
    run = run_of(run_evaluate("--data", tmp_path, "--split", "all", *named), trained)
    assert run.data.metrics["test/accuracy"] == pytest.approx(accuracy(model, xrays / "test"))
    for wrong in ("healthy,sick", "PNEUMONIA,healthy", "healthy=NORMAL,sick=NORMAL"):
        refused = run_evaluate("--data", tmp_path, "--split", "all", "--classes", wrong)
        assert refused.exit_code == 2
        assert "the model tells NORMAL from PNEUMONIA" in refused.stderr
