from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.augment import draw_changes
from pneumonia.data.dataset import Images, load_data_set, preprocessing_of
from pneumonia.data.decode import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    decode,
    network_input,
)
from pneumonia.errors import DeviceError, TrainingError, UsageError, WeightsError
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.networks.registry import NETWORKS
from pneumonia.networks.weights import load_weights
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import train
from pneumonia.training.schedule import lr_factor
from pneumonia.training.setup import begin
from pneumonia.training.validation import validate

QUICK = TrainingSettings(image_size=32, epochs=2, batch_size=8, precision="fp32", ema=0.9)


@pytest.fixture(scope="module")
def images(xrays: Path) -> dict[str, Images]:
    preprocessing = Preprocessing(QUICK.image_size)
    return load_data_set(DataSettings(data=str(xrays)), preprocessing).open(preprocessing)


@pytest.mark.parametrize(
    ("name", "parameters"), [("simple_cnn", 104_838_274), ("resnet34", 21_285_698)]
)
def test_networks_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = NETWORKS[name].build(224, 0.5)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_two_logits_at_other_sizes(name: str) -> None:
    network = NETWORKS[name].build(48, 0.5).eval()
    assert network(torch.zeros(2, 3, 48, 48)).shape == (2, 2)
    network.get_submodule(NETWORKS[name].cam_layer)
    assert any(key.startswith(NETWORKS[name].head) for key in network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("network", "precision"), [("resnet34", "fp32"), ("simple_cnn", "bf16")])
def test_the_same_seed_gives_the_same_bits(
    network: str, precision: str, images: dict[str, Images]
) -> None:
    settings = QUICK.with_values(
        network=network, precision=precision, dropout=0.3, augmentation=1.0, flip=0.5, epochs=1
    )
    first, again = (train(settings, images, lambda _epoch: None) for _ in range(2))
    other = train(settings.with_values(seed=1), images, lambda _epoch: None)
    speed = {"speed/images_per_second", "speed/epoch_seconds"}
    for one, two in zip(first.history, again.history, strict=True):
        np.testing.assert_equal(
            {k: v for k, v in one.items() if k not in speed},
            {k: v for k, v in two.items() if k not in speed},
        )
    for key, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[key]), key
    assert first.history[0]["train/loss"] != other.history[0]["train/loss"]


@pytest.mark.slow
# Batch norm and Adam blow up what rounding leaves: the smaller the steps, the less.
@pytest.mark.parametrize(("name", "learning_rate"), [("simple_cnn", 1e-4), ("resnet34", 3e-6)])
def test_training_computes_what_a_plain_loop_does(
    name: str, learning_rate: float, images: dict[str, Images]
) -> None:
    """Against files decoded one by one, torchvision's normalisation, and an unfused optimizer."""
    settings = QUICK.with_values(
        network=name,
        optimizer="adam",
        augmentation=0.0,
        learning_rate=learning_rate,
        ema=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup=0.0,
    )
    history = train(settings, images, lambda _epoch: None).history

    torch.manual_seed(settings.seed)
    network = NETWORKS[name].build(settings.image_size, settings.dropout)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, foreach=False, fused=False
    )
    normalise = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    order = torch.Generator().manual_seed(settings.seed)
    for epoch in history:
        losses = []
        shuffled = torch.randperm(len(images["train"]), generator=order)
        for batch in shuffled.split(settings.batch_size):
            if len(batch) < settings.batch_size:
                continue
            draw_changes(len(batch), order)  # as if to be augmented
            files = [images["train"].files[position] for position in batch]
            grey = [decode(file.path.read_bytes(), preprocessing_of(settings)) for file in files]
            pixels = torch.stack(
                [
                    normalise(torch.from_numpy(image.copy()).expand(3, -1, -1) / 255)
                    for image in grey
                ]
            )  # (B, 3, H, W)
            labels = torch.tensor([file.label for file in files])
            network.train()
            loss = torch.nn.functional.cross_entropy(network(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert epoch["train/loss"] == pytest.approx(np.mean(losses), abs=2e-3), epoch


def test_the_best_epochs_weights_are_kept(
    images: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The returned network is that of the epoch said to be the best, and not the last one."""
    states: list[dict[str, torch.Tensor]] = []

    def validated(network: torch.nn.Module, *arguments: Any) -> dict[str, float]:
        states.append({key: value.clone() for key, value in network.state_dict().items()})
        second = len(states) == 2
        return validate(network, *arguments) | {"val/loss": 0.1 if second else 0.7}

    monkeypatch.setattr("pneumonia.training.loop.validate", validated)
    trained = train(
        QUICK.with_values(epochs=3, metric="loss", ema=0.0), images, lambda _epoch: None
    )
    assert trained.best_epoch == 2
    kept = trained.network.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in states[1].items())
    assert not torch.equal(kept["conv1.weight"], states[2]["conv1.weight"])


@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_when_its_patience_is_over(patience: int, images: dict[str, Images]) -> None:
    """It ends exactly ``patience`` epochs after the best one, long before the last."""
    settings = QUICK.with_values(
        network="simple_cnn",
        epochs=30,
        learning_rate=1e-2,
        metric="loss",
        ema=0.0,
        patience=patience,
    )
    trained = train(settings, images, lambda _epoch: None)
    assert len(trained.history) == trained.best_epoch + patience < settings.epochs


def test_averaged_weights_are_those_of_a_plain_moving_average(images: dict[str, Images]) -> None:
    """After each step the average moves by 1 − ema towards the weights, buffers included."""
    decay = 0.9
    engine = choose_engine("cpu", "fp32")
    settings = QUICK.with_values(ema=decay, network="resnet34", epochs=1)
    state = begin(settings, engine, n_batches=3)
    assert state.average is not None
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        grey, labels = images["train"].batch(torch.arange(8 * step, 8 * step + 8))
        state.optimizer.zero_grad()
        logits = state.network.train()(network_input(grey))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        state.optimizer.step()
        state.average.update_parameters(state.network)
        for key, now in state.network.state_dict().items():
            if step == 0 or not now.is_floating_point():
                expected[key] = now.detach().clone()
            else:
                expected[key] = decay * expected[key] + (1 - decay) * now.detach()
    for key, tensor in state.eval_model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)
    assert not torch.equal(state.eval_model.state_dict()["fc.weight"], state.network.fc.weight)


def test_fp32_on_cuda_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing a GPU turns TF32 off, for matrix products and for convolutions."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    choose_engine("cuda", "fp32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_convolution_in_fp32_on_cuda_is_exact_to_fp32() -> None:
    """Its error against fp64 is fp32's, a hundredth of TF32's."""
    engine = choose_engine("cuda", "fp32")
    inputs, kernel = torch.randn(4, 64, 32, 32), torch.randn(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(inputs.double(), kernel.double())
    with engine.autocast():
        there = torch.nn.functional.conv2d(inputs.to("cuda"), kernel.to("cuda"))
    assert (there.cpu() - exact).abs().max() < 1e-3


def test_images_that_do_not_fit_the_device_say_which_batch_size_to_try(
    images: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer of the images is covered by the out-of-memory message."""

    def exhausted(*_arguments: object, **_options: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Images, "to", exhausted)
    with pytest.raises(DeviceError, match="cpu is out of memory: try --batch-size 4, not 8"):
        train(QUICK, images, lambda _epoch: None)


def test_initial_weights_that_do_not_match_are_logged_before_training(
    images: dict[str, Images], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user reads what was left random before the first epoch, not after the last."""
    from torchvision.models import resnet34

    torch.save(resnet34(weights=None).state_dict(), tmp_path / "w.pt")  # 1000 classes
    settings = QUICK.with_values(network="resnet34", weights=str(tmp_path / "w.pt"), epochs=1)
    logged = []
    trained = train(settings, images, lambda _epoch: logged.append(caplog.text))
    assert "initial weights: fc.weight: (1000, 512) there, (2, 512) here" in logged[0]
    assert len(trained.remarks) == 2


def test_a_diverging_loss_stops_with_its_reason(
    images: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pneumonia.training.loop.network_input",
        lambda grey: torch.full((len(grey), 3, 32, 32), torch.inf),
    )
    with pytest.raises(TrainingError, match="training loss is nan in epoch 1 with learning_rate"):
        train(QUICK, images, lambda _epoch: None)


def test_out_of_memory_says_which_batch_size_to_try(
    images: dict[str, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_arguments: object, **_options: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("pneumonia.training.loop.augment", exhausted)
    with pytest.raises(DeviceError, match="cpu is out of memory: try --batch-size 4, not 8"):
        train(QUICK, images, lambda _epoch: None)


def test_a_state_dict_is_loaded_with_its_head_replaced(tmp_path: Path) -> None:
    from torchvision.models import resnet34

    official = resnet34(weights=None).state_dict()  # 1000 classes
    torch.save({"state_dict": {f"module.{k}": v for k, v in official.items()}}, tmp_path / "w.pt")
    network = NETWORKS["resnet34"].build(64, 0.0)
    remarks = load_weights(network, NETWORKS["resnet34"], str(tmp_path / "w.pt"))
    assert remarks == [
        "fc.weight: (1000, 512) there, (2, 512) here; head left random",
        "fc.bias: (1000,) there, (2,) here; head left random",
    ]
    assert torch.equal(
        network.state_dict()["layer4.2.conv2.weight"], official["layer4.2.conv2.weight"]
    )


def test_weights_that_do_not_fit_or_are_no_tensors_are_refused(tmp_path: Path) -> None:
    entry = NETWORKS["resnet34"]
    network = entry.build(64, 0.0)
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not fit this network"):
        load_weights(network, entry, str(tmp_path / "other.pt"))
    torch.save(Path("code"), tmp_path / "pickle.pt")
    with pytest.raises(WeightsError, match="not a state dict of tensors"):
        load_weights(network, entry, str(tmp_path / "pickle.pt"))
    with pytest.raises(UsageError, match="no weights file"):
        load_weights(network, entry, "missing.pt")
    with pytest.raises(UsageError, match="no ImageNet weights"):
        load_weights(network, NETWORKS["simple_cnn"], "imagenet")


def test_imagenet_weights_come_from_torchs_cache_or_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import resnet34

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    entry = NETWORKS["resnet34"]
    network = entry.build(64, 0.0)
    with pytest.raises(WeightsError, match=r"fetch https://.*resnet34-b627a593.pth .*put it at"):
        load_weights(network, entry, "imagenet")
    state = resnet34(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save(state, tmp_path / "checkpoints" / "resnet34-b627a593.pth")
    assert len(load_weights(network, entry, "imagenet")) == 2
    assert torch.equal(network.state_dict()["conv1.weight"], state["conv1.weight"])


@given(st.sampled_from(["constant", "cosine", "one_cycle"]), st.floats(0, 0.9), st.integers(1, 200))
def test_schedules_stay_between_0_and_the_highest(schedule: str, warmup: float, steps: int) -> None:
    share = lr_factor(schedule, warmup, steps)
    values = [share(step) for step in range(steps + 1)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert max(values) > 0.9


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_metrics_agree_with_counting(pairs: list[tuple[int, float]]) -> None:
    truth = np.array([pair[0] for pair in pairs])
    probability = np.array([pair[1] for pair in pairs])
    metrics = classification_metrics(truth, probability)
    called = probability >= 0.5
    assert metrics["accuracy"] == pytest.approx(np.mean(called == truth))
    if truth.any():
        assert metrics["sensitivity"] == pytest.approx(called[truth == 1].mean())
    if not truth.all():
        assert metrics["specificity"] == pytest.approx(1 - called[truth == 0].mean())


def test_metrics_refuse_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        classification_metrics(np.array([0, 1]), np.array([0.1, np.nan]))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epochs", 0, "epochs = 0 is out of range: give 1 to 10000"),
        ("metric", "aux", "unknown metric 'aux': did you mean 'auc'"),
        ("learning_rate", float("nan"), "learning_rate = nan is out of range"),
        ("batch_size", "many", "batch_size = 'many' is a str, not a int"),
    ],
)
def test_settings_refuse_what_no_run_could_use(key: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TrainingSettings(**{key: value})
