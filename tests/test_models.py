import ast
import base64
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result
from mlflow import MlflowClient
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.errors import UsageError
from pneumonia.evaluation.grad_cam import grad_cam
from pneumonia.evaluation.predict import RECOMPUTE_MARGIN
from pneumonia.networks.registry import NETWORKS
from pneumonia.prediction.batch import PredictionCounts, score
from pneumonia.prediction.spark import score_on_spark
from pneumonia.tracking.model_source import scoring_source
from pneumonia.tracking.models import load_model, runs_known_code
from pneumonia.tracking.store import connect
from pneumonia.training.loop import train

Cli = Callable[..., Result]
URI = "models:/resnet34/1"


def rows_of(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def predict(run_cli: Cli, trained: SimpleNamespace, *arguments: object, **options: str) -> Result:
    return run_cli(
        "predict", "--model-uri", URI, "--tracking-uri", trained.tracking_uri, *arguments, **options
    )


def test_predict_gives_a_row_an_image(trained: SimpleNamespace, xrays: Path, run_cli: Cli) -> None:
    result = predict(run_cli, trained, xrays / "test", "--batch-size", 7)
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result)
    assert [row["path"] for row in rows] == [
        str(p) for p in sorted((xrays / "test").rglob("*.jpeg"))
    ]
    assert {row["model"] for row in rows} == {URI}
    for row in rows:
        positive = float(row["probability"]) >= float(row["threshold"])
        assert row["label"] == ("PNEUMONIA" if positive else "NORMAL")
    latest = run_cli(
        "predict",
        "--model-uri",
        "models:/resnet34/latest",
        "--tracking-uri",
        trained.tracking_uri,
        xrays / "test",
    )
    assert rows_of(latest)[0]["model"] == URI


def test_the_threshold_decides_the_label(
    trained: SimpleNamespace, xrays: Path, run_cli: Cli
) -> None:
    labels = {
        threshold: {
            row["label"]
            for row in rows_of(predict(run_cli, trained, xrays / "val", "--threshold", threshold))
        }
        for threshold in (0, 1)
    }
    assert labels == {0: {"PNEUMONIA"}, 1: {"NORMAL"}}


def test_other_formats_and_standard_input(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    files = sorted((xrays / "val").rglob("*.jpeg"))
    lines = "\n".join(map(str, files))
    by_csv = rows_of(predict(run_cli, trained, "-", input=lines))
    jsonl = predict(run_cli, trained, "-", "--format", "jsonl", input=lines)
    by_jsonl = [json.loads(line) for line in jsonl.stdout.splitlines()]
    output = tmp_path / "rows.parquet"
    predict(run_cli, trained, *files, "--format", "parquet", "--output", output)
    by_parquet = pq.read_table(output).to_pylist()
    assert by_jsonl == by_parquet
    assert [float(row["probability"]) for row in by_csv] == [r["probability"] for r in by_jsonl]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.slow
def test_labels_are_those_of_fp32_whatever_the_precision(
    trained: SimpleNamespace, xrays: Path
) -> None:
    connect(trained.tracking_uri)
    model, files = load_model(URI), sorted((xrays / "train").rglob("*.jpeg"))[:24]

    def scored(precision: str, threshold: float) -> list[dict[str, Any]]:
        batches = score(model, files, precision=precision, threshold=threshold)
        return [row for rows in batches for row in rows]

    exact = scored("fp32", 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumonia.evaluation.predict.RECOMPUTE_MARGIN", 0.0)
        fast = scored("bf16", 0.5)
    moved = [abs(a["probability"] - b["probability"]) for a, b in zip(exact, fast, strict=True)]
    assert 0 < max(moved) < RECOMPUTE_MARGIN
    for threshold in (row["probability"] for row in exact):  # the hardest there are
        labels = [row["label"] for row in scored("bf16", threshold)]
        assert labels == [row["label"] for row in scored("fp32", threshold)]


def test_track_logs_the_batch(trained: SimpleNamespace, xrays: Path, run_cli: Cli) -> None:
    import mlflow

    result = predict(run_cli, trained, xrays / "val", "--track", "--experiment-name", "batches")
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(trained.tracking_uri)
    experiment = client.get_experiment_by_name("batches")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["model_uri"] == URI
    counts = [n for key, n in run.data.metrics.items() if key.startswith("count/")]
    assert sum(counts) == len(rows_of(result))


SERVE = """
import sys, json
sys.modules["pneumonia"] = None  # importing it fails, as where it is not installed
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/resnet34/1")
paths = sys.argv[2:]
images = [open(path, "rb").read() for path in paths] + [b"not an image"]
print(model.predict(pd.DataFrame({"image": images})).to_json(orient="records"))
"""


@pytest.mark.slow
def test_the_model_loads_without_this_package_and_gives_the_same_probabilities(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    files = sorted(map(str, (xrays / "test").rglob("*.jpeg")))
    done = subprocess.run(
        [sys.executable, "-c", SERVE, trained.tracking_uri, *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *served, undecodable = json.loads(done.stdout.splitlines()[-1])
    own = rows_of(predict(run_cli, trained, *files, "--precision", "fp32"))
    assert [row["label"] for row in served] == [row["label"] for row in own]
    np.testing.assert_allclose(
        [row["probability"] for row in served],
        [float(row["probability"]) for row in own],
        atol=1e-5,
    )
    assert undecodable["label"] == ""
    assert undecodable["probability"] is None
    assert undecodable["reason"] == "neither an image file nor base64 text"


@pytest.mark.usefixtures("workplace")
def test_the_served_model_takes_base64_and_paths(trained: SimpleNamespace, xrays: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(trained.tracking_uri)
    model = mlflow.pyfunc.load_model(URI)
    path = next((xrays / "val" / "NORMAL").iterdir())
    forms = [path.read_bytes(), base64.b64encode(path.read_bytes()).decode(), str(path)]
    answers = model.predict(pd.DataFrame({"image": forms}))
    assert len(set(answers["probability"])) == 1
    strict = model.predict(pd.DataFrame({"image": forms}), params={"threshold": 1.0})
    assert set(strict["label"]) == {"NORMAL"}
    assert set(strict["threshold"]) == {1.0}


def test_explain_writes_an_overlay_an_image(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    output = tmp_path / "maps"
    result = run_cli(
        "explain",
        "--model-uri",
        URI,
        "--tracking-uri",
        trained.tracking_uri,
        xrays / "val",
        "--output",
        output,
    )
    assert result.exit_code == 0, result.stderr
    overlays = sorted(output.iterdir())
    assert len(overlays) == len(list((xrays / "val").rglob("*.jpeg")))
    assert Image.open(overlays[0]).mode == "RGB"


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_depend_on_the_weights(name: str) -> None:
    grey = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = NETWORKS[name].build(64, 0.0).eval()
        maps.append(grad_cam(network, [NETWORKS[name].cam_layer], grey))
        assert maps[-1].shape == (2, 64, 64)
        assert maps[-1].min() >= 0
        assert maps[-1].max() <= 1
    assert np.abs(maps[0] - maps[1]).mean() > 0.01


def blobs(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Noise, with a bright disc on the left or the right in every positive image."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(100, 25, (n, 64, 64))
    labels, centres = np.arange(n) % 2, rng.integers(14, 50, (n, 2))
    rows, columns = np.mgrid[:64, :64]
    for image, label, (y, x) in zip(grey, labels, centres, strict=True):
        if label:
            image[...] += 70 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 6**2))
    pixels = torch.from_numpy(grey.clip(0, 255).astype(np.uint8))
    return pixels, torch.from_numpy(labels), centres


@pytest.mark.slow
def test_maps_point_at_what_was_learnt() -> None:
    from pneumonia.data.dataset import Images

    def images(seed: int, n: int) -> Images:
        pixels, labels, _ = blobs(seed, n)
        return Images(pixels, torch.arange(n), labels, ())

    settings = TrainingSettings(
        network="simple_cnn",
        image_size=64,
        epochs=4,
        batch_size=8,
        learning_rate=3e-4,
        augmentation=0.0,
        precision="fp32",
        device="cpu",
    )
    trained = train(
        settings, {"train": images(0, 160), "validation": images(1, 60)}, lambda _: None
    )
    assert trained.best["val/auc"] > 0.95
    pixels, labels, centres = blobs(2, 40)
    heats = grad_cam(trained.network, [NETWORKS["simple_cnn"].cam_layer], pixels[labels == 1])
    found = [np.unravel_index(heat.argmax(), heat.shape) for heat in heats]
    distances = np.linalg.norm(np.array(found) - centres[labels.numpy() == 1], axis=1)
    assert np.median(distances) < 10


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_another_network_differ(name: str) -> None:
    """What depends on the image alone, as an edge detector does, explains nothing."""
    grey, _, _ = blobs(0, 8)
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = NETWORKS[name].build(grey.shape[-1], 0.0).eval()
        maps.append(grad_cam(network, [NETWORKS[name].cam_layer], grey))
    # Adebayo et al. 2018: maps that survive a randomisation of the weights are no explanation.
    correlations = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(*maps, strict=True)
    ]
    assert np.nanmean(correlations) < 0.7


def test_demo_opacities_are_recorded_where_maps_can_be_checked(xrays: Path) -> None:
    recorded = json.loads((xrays / "opacities.json").read_text())
    data = load_data_set(DataSettings(data=str(xrays)), Preprocessing(32))
    sick = [i for images in data.roles.values() for i in images if i.label == 1]
    assert all(recorded[str(image.path.relative_to(xrays))] for image in sick)


def test_modules_of_the_scoring_source_do_not_share_names() -> None:
    """They become one module, in which the last definition of a name would win."""
    for network in NETWORKS:
        tree = ast.parse(scoring_source(network))
        defined = [
            name.id
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        ]
        defined += [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not any(ast.unparse(one) == "overload" for one in node.decorator_list)
        ]
        assert len(defined) > 50
        shared = {name for name in defined if defined.count(name) > 1}
        assert not shared


@pytest.mark.parametrize("name", ["weights.pt", "config.json", "gate.pt"])
def test_a_model_whose_files_were_changed_is_refused(
    name: str, trained: SimpleNamespace, xrays: Path, run_cli: Cli
) -> None:
    client = MlflowClient(trained.tracking_uri)
    version = client.get_model_version("resnet34", "1")
    (file,) = trained.folder.glob(f"mlruns/**/{version.source.rpartition('/')[2]}/**/{name}")
    whole = file.read_bytes()
    logged = version.source
    try:
        file.write_bytes(whole.replace(b"resnet34", b"resnet43") + b" ")
        for uri in (URI, logged):
            result = run_cli(
                *("predict", xrays / "val", "--model-uri", uri),
                *("--tracking-uri", trained.tracking_uri),
            )
            assert result.exit_code == 1
            assert f"the files of model '{uri}' are not those that were logged" in result.stderr
    finally:
        file.write_bytes(whole)
    assert predict(run_cli, trained, xrays / "val").exit_code in (0, 3)


def test_reading_a_model_draws_no_random_weights(trained: SimpleNamespace) -> None:
    connect(trained.tracking_uri)
    before = torch.get_rng_state()
    network = load_model(URI).network
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.is_meta for weight in network.state_dict().values())


def test_the_code_of_a_model_is_compared_before_it_runs(trained: SimpleNamespace) -> None:
    connect(trained.tracking_uri)
    model = load_model(URI)
    assert runs_known_code(model)
    (file,) = trained.folder.glob("mlruns/**/scoring.py")
    whole = file.read_text()
    try:
        file.write_text(whole + "print('mine')\n")
        assert not runs_known_code(model)
        with pytest.raises(UsageError, match="add --trust-model-code"):
            score_on_spark(model, [], Path("rows"), "local[1]", PredictionCounts())
    finally:
        file.write_text(whole)


def test_a_stated_prevalence_moves_probabilities_and_no_label(
    trained: SimpleNamespace, xrays: Path, run_cli: Cli
) -> None:
    before = rows_of(predict(run_cli, trained, xrays / "test"))
    rare = rows_of(predict(run_cli, trained, xrays / "test", "--prevalence", "0.01"))
    connect(trained.tracking_uri)
    fitted_at = load_model(URI).config.prevalence
    assert 0 < fitted_at < 1
    for old, new in zip(before, rare, strict=True):
        assert (old["label"], old["status"]) == (new["label"], new["status"])
        for column in ("probability", "threshold"):
            if old[column]:
                # Bayes' rule: the likelihood ratio stays, the odds of being ill differ.
                p = float(old[column])
                ill, well = p / fitted_at * 0.01, (1 - p) / (1 - fitted_at) * 0.99
                assert float(new[column]) == pytest.approx(ill / (ill + well), abs=1e-9)
    assert predict(run_cli, trained, xrays / "test", "--prevalence", "0").exit_code == 2
