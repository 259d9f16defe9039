"""The input gate: what looks like no chest X-ray, or unlike the training images, is rejected."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from PIL import Image

import pneumonia
from pneumonia.data.dataset import Images
from pneumonia.data.decode import Preprocessing, decode, decode_checked
from pneumonia.data.demo import write_demo_set
from pneumonia.data.folders import ImageFile, find_images
from pneumonia.evaluation.gate import Gate
from pneumonia.evaluation.gate_fitting import REJECTED, WARNED, fit_gate, gate_rates
from pneumonia.networks.registry import NETWORKS
from pneumonia.training.device import choose_engine

Cli = Callable[..., Result]
SIDE = 64


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images]:
    """Some hundred synthetic images, in two halves."""
    folder = tmp_path_factory.mktemp("gate") / "demo"
    write_demo_set(folder, patients=160, size=SIDE)
    files = find_images(folder, ("NORMAL", "PNEUMONIA"), "").images
    halves = {"train": files[::2], "validation": files[1::2]}
    return {role: images_of(some) for role, some in halves.items()}


def images_of(files: list[ImageFile]) -> Images:
    """The images of files."""
    grey = [decode(file.path.read_bytes(), Preprocessing(SIDE)) for file in files]
    labels = torch.tensor([file.label for file in files])
    pixels = torch.from_numpy(np.stack(grey))
    return Images(pixels, torch.arange(len(files)), labels, tuple(files))


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def fitted(request: pytest.FixtureRequest, demo: dict[str, Images]) -> tuple[torch.nn.Module, Gate]:
    """Each network, untrained, and its gate."""
    torch.manual_seed(0)
    entry = NETWORKS[request.param]
    network = entry.build(SIDE, 0.0).eval()
    gate = fit_gate(
        network, entry.gate_layer, demo["train"], demo["validation"], choose_engine("cpu", "fp32")
    )
    return network, gate


def rates(fitted: tuple[torch.nn.Module, Gate], grey: torch.Tensor) -> tuple[float, float]:
    """Shares of images, uint8 (n, H, W), that are rejected, and warned of."""
    images = Images(grey, torch.arange(len(grey)), torch.zeros(len(grey)), ())
    return gate_rates(*fitted, images, choose_engine("cpu", "fp32"))


def test_validation_images_pass_but_for_the_stated_share(
    fitted: tuple[torch.nn.Module, Gate], demo: dict[str, Images]
) -> None:
    rejected, warned = rates(fitted, demo["validation"].pixels)
    one = 1 / len(demo["validation"])
    assert rejected <= 2 * REJECTED + one
    assert warned <= WARNED + one


def test_noise_and_turned_and_inverted_images_are_rejected(
    fitted: tuple[torch.nn.Module, Gate], demo: dict[str, Images]
) -> None:
    grey = demo["validation"].pixels
    noise = torch.randint(0, 256, (20, SIDE, SIDE), dtype=torch.uint8)
    assert rates(fitted, noise)[0] == 1
    for turns in (1, 2, 3):
        assert rates(fitted, torch.rot90(grey, turns, (1, 2)))[0] > 0.95
    assert rates(fitted, 255 - grey)[0] > 0.95


def test_reasons_name_the_pose(
    fitted: tuple[torch.nn.Module, Gate], demo: dict[str, Images]
) -> None:
    _, gate = fitted
    image = demo["train"].pixels[:1]
    poses = {
        "turned by 90° to the left": torch.rot90(image, 1, (1, 2)),  # counter-clockwise
        "upside down": torch.rot90(image, 2, (1, 2)),
        "turned by 90° to the right": torch.rot90(image, -1, (1, 2)),
        "inverted: bright where an X-ray is dark": 255 - image,
    }
    for reason, grey in poses.items():
        assert gate.reasons(grey, torch.zeros(1))[0] == [reason]
    noise = torch.randint(0, 256, (200, SIDE, SIDE), dtype=torch.uint8)
    assert set(gate.reasons(noise, torch.zeros(200))[0]) <= {"unlike the training images", ""}
    far = torch.tensor([gate.unlike * 1.01])
    assert gate.reasons(image, far) == (["unlike the training images"], [""])
    unusual = torch.tensor([(gate.unusual + gate.unlike) / 2])
    assert gate.reasons(image, unusual) == ([""], ["unusual"])
    assert gate.reasons(image, torch.tensor([float("nan")]))[0] != [""]


def test_distances_are_those_of_mahalanobis(
    fitted: tuple[torch.nn.Module, Gate],
) -> None:
    _, gate = fitted
    features = torch.randn(5, gate.class_means.shape[1], generator=torch.Generator().manual_seed(0))
    for found, one in zip(gate.distance(features).tolist(), features.double(), strict=True):
        apart = (one - gate.class_means.double()).numpy()
        precision = gate.precision.double().numpy()
        wanted = min(float(np.sqrt(d @ precision @ d)) for d in apart)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_few_validation_images_set_no_bound(demo: dict[str, Images]) -> None:
    network = NETWORKS["resnet34"].build(SIDE, 0.0).eval()
    few = demo["validation"].part(torch.arange(30))
    gate = fit_gate(network, "layer2", demo["train"], few, choose_engine("cpu", "fp32"))
    assert gate.unlike == gate.unusual == np.inf
    assert gate.reasons(demo["train"].pixels[:1], torch.tensor([1e9])) == ([""], [""])


def encoded(image: Image.Image, folder: Path, name: str) -> bytes:
    image.save(folder / name)
    return (folder / name).read_bytes()


@pytest.mark.parametrize("ending", ["png", "jpeg", "webp", "tiff", "bmp"])
def test_what_can_be_no_xray_is_objected_to(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (100, 100), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(levels).resize((20, 20)).resize((100, 100)))
    grey = Image.fromarray(smooth)
    colours = Image.merge("RGB", [grey, grey.rotate(90), grey.rotate(180)])
    marked = grey.convert("RGB")
    marked.paste("red", (0, 0, 12, 12))
    reasons = {
        "": [grey, grey.convert("RGB"), marked],
        "in colour, as no X-ray is": [colours],
        "blank": [Image.new("L", (100, 100), 90)],
        "nothing but black and white": [Image.fromarray((smooth > 120).astype(np.uint8) * 255)],
        "300×60 pixels, proportions that no chest X-ray has": [grey.resize((300, 60))],
    }
    for wanted, images in reasons.items():
        for image in images:
            if ending in ("jpeg", "webp") and "black and white" in wanted:
                continue  # compression blurs its edges
            content = encoded(image, tmp_path, f"image.{ending}")
            found, reason = decode_checked(content, Preprocessing(100))
            assert reason == wanted
            assert (found == decode(content, Preprocessing(100))).all()


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture in colour."""
    red, green = np.mgrid[0:200, 0:200]
    picture = np.stack([red, green, 255 - red], axis=2).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def test_a_rejected_image_gets_no_probability(
    trained: SimpleNamespace, xrays: Path, photograph: Path, run_cli: Cli, tmp_path: Path
) -> None:
    image = next((xrays / "test").rglob("*.jpeg"))
    command = ("predict", "--model-uri", "models:/resnet34/1", image, photograph)
    options = ("--tracking-uri", trained.tracking_uri)
    result = run_cli(*command, *options)
    assert result.exit_code == 3
    assert "1 rejected" in result.stderr
    kept, rejected = csv.DictReader(result.stdout.splitlines())
    assert kept["status"] == "ok"
    assert kept["probability"] != ""
    assert (rejected["status"], rejected["label"], rejected["probability"]) == ("rejected", "", "")
    assert rejected["reason"] == "in colour, as no X-ray is"
    assert len(rejected["sha256"]) == 64
    result = run_cli(*command, *options, "--no-gate")
    assert result.exit_code == 0
    assert [row["status"] for row in csv.DictReader(result.stdout.splitlines())] == ["ok", "ok"]
    result = run_cli("explain", *command[1:], *options, "--output", tmp_path / "maps")
    assert result.exit_code == 3
    assert "in colour, as no X-ray is" in result.stderr


def test_the_served_model_has_the_same_gate(
    trained: SimpleNamespace, xrays: Path, photograph: Path
) -> None:
    import mlflow

    mlflow.set_tracking_uri(trained.tracking_uri)
    upright = next((xrays / "test").rglob("*.jpeg"))
    inverted = photograph.with_name("inverted.png")
    Image.fromarray(255 - np.asarray(Image.open(upright).convert("L"))).save(inverted)
    files = [upright, photograph, inverted]
    served = mlflow.pyfunc.load_model("models:/resnet34/1")
    sent = pd.DataFrame({"image": [file.read_bytes() for file in files]})
    model = pneumonia.load_model("models:/resnet34/1")
    for gate in (True, False):
        answers = served.predict(sent, params={"gate": gate}).to_dict("records")
        rows = list(pneumonia.predict(model, files, gate=gate, precision="fp32"))
        for answer, row in zip(answers, rows, strict=True):
            assert (answer["status"], answer["reason"]) == (row["status"], row["reason"])
            assert answer["label"] == row["label"]
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert served.predict(sent)["status"].tolist() == ["ok", "rejected", "rejected"]


def test_rejection_rates_are_logged(trained: SimpleNamespace) -> None:
    import mlflow

    mlflow.set_tracking_uri(trained.tracking_uri)
    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.kind = 'train'", output_format="list"
    )
    assert 0 <= run.data.metrics["test/gate_rejected"] <= 1
    assert 0 <= run.data.metrics["test/gate_warned"] <= 1
