"""What test_distributed runs in two ranks, where a command alone cannot show it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pneumonia.config.data import DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.evaluation import predict
from pneumonia.training import loop, setup
from pneumonia.training.checkpoint import Checkpoint
from pneumonia.training.distributed import ALONE, Ranks, joined
from pneumonia.training.loop import Trained
from tests.faults.commands import pneumonia

SETTINGS = TrainingSettings(
    image_size=32,
    epochs=2,
    batch_size=8,
    precision="fp32",
    class_weights="balanced",
    label_smoothing=0.1,
    flip=0.5,
    clip_norm=1.0,
    ema=0.9,
)


def compare(folder: Path, results: Path) -> None:
    """Compare two ranks with one process, and a stopped training with one that ran through.

    Args:
        folder: The images.
        results: JSON file to write what was found to.
    """
    preprocessing = Preprocessing(SETTINGS.image_size)
    data = DataSettings(data=str(folder), subset=0.5)
    images = load_data_set(data, preprocessing).open(preprocessing)

    def train(settings: TrainingSettings, ranks: Ranks, kept: Checkpoint | None = None) -> Trained:
        return loop.train(settings, images, lambda _epoch: None, kept, ranks)

    with joined(torch.device("cpu")) as ranks:
        with pytest.MonkeyPatch.context() as patch:
            in_float64(patch)
            together = train(SETTINGS, ranks)
            exactness = difference(train(SETTINGS, ALONE), together) if ranks.is_first else None

        settings = SETTINGS.with_values(dropout=0.3)
        through = train(settings, ranks)
        kept = Checkpoint(results.with_name("checkpoint.pt"), "test")
        with pytest.MonkeyPatch.context() as patch:
            if not ranks.is_first:
                on_call(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(KeyboardInterrupt):
                train(settings, ranks, kept)
        # Only rank 0 knows of the checkpoint, as in a command.
        continued = train(settings, ranks, kept if ranks.is_first else None)
        stopped_and_continued = ranks.gather(difference(through, continued))
    if ranks.is_first:
        found = {
            "images": {role: len(of_role) for role, of_role in images.items()},
            "keys": list(through.network.state_dict()),
            "one process against two, in float64": exactness,
            "stopped and continued, by rank": stopped_and_continued,
        }
        results.write_text(json.dumps(found))


def in_float64(patch: pytest.MonkeyPatch) -> None:
    """Train in float64, whose rounding is too small to hide a mistake."""
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for module, name in (
        (setup, "build_network"),
        (loop, "network_input"),
        (loop, "loss_weights"),
        (predict, "network_input"),
    ):
        plain = getattr(module, name)
        patch.setattr(module, name, lambda *given, plain=plain: plain(*given).double())


def on_call(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Act in the middle of a training step, counted from 1."""
    augment, calls = loop.augment, []

    def acting(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == number:
            act()
        return augment(*arguments, **options)

    patch.setattr(loop, "augment", acting)


def difference(one: Trained, other: Trained) -> tuple[float, float]:
    """The largest difference of a weight, and of a metric of an epoch."""
    theirs = other.network.state_dict()
    weights = max(
        (tensor - theirs[key]).abs().max().item()
        for key, tensor in one.network.state_dict().items()
    )
    assert len(one.history) == len(other.history)
    metrics = max(
        abs(value - epoch[key])
        for before, epoch in zip(one.history, other.history, strict=True)
        for key, value in before.items()
        if not key.startswith("speed/") and value == value  # noqa: PLR0124 - not NaN
    )
    return weights, metrics


def fail(command: list[str]) -> None:
    """Run a command, which fails on rank 1."""

    def broken() -> None:
        raise ValueError("its cable is loose")

    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            on_call(patch, 3, broken)
        pneumonia(command)
