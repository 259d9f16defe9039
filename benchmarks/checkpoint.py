"""The cost of the resumable checkpoint that each epoch ends with, as a share of that epoch.

python -m benchmarks.checkpoint --network resnet34 --images 4037
"""

import tempfile
import time
from pathlib import Path

import click
import torch

from benchmarks.report import Figure, report
from benchmarks.throughput import bare_images_per_second
from pneumonia.config.experiment import load_experiment
from pneumonia.training.checkpoint import Checkpoint
from pneumonia.training.device import choose_engine
from pneumonia.training.distributed import ALONE
from pneumonia.training.setup import begin


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--images", default=4037, show_default=True, help="Training images of an epoch.")
@click.option("--steps", default=6, show_default=True, help="Steps by which an epoch is timed.")
@click.option("--repeats", default=5, show_default=True, help="Checkpoints written.")
def main(network: str, images: int, steps: int, repeats: int) -> None:
    """Compare the seconds that a checkpoint and an epoch take, by the network's experiment."""
    settings = load_experiment(network, {}).training
    engine = choose_engine("auto", "auto")
    epoch_seconds = images / bare_images_per_second(settings, engine, steps)
    state = begin(settings, engine, n_batches=images // settings.batch_size)
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()  # from here on it has moments to keep
    # The worst case: the best weights are an earlier epoch's, and are written beside the present.
    state.end_epoch({"val/auc": 0.9}, best=True)
    state.end_epoch({"val/auc": 0.8}, best=False)
    seconds = []
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", "benchmark")
        for _ in range(repeats):
            started = time.perf_counter()
            checkpoint.save(state, ALONE)
            seconds.append(time.perf_counter() - started)
        size = checkpoint.path.stat().st_size
    report(
        "checkpoint",
        [
            Figure("checkpoint", seconds, "s"),
            Figure("epoch", [epoch_seconds], "s"),
            Figure(
                "checkpoint over epoch",
                [second / epoch_seconds for second in seconds],
                limit="< 0.02",
            ),
        ],
        network=network,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        images=images,
        precision=engine.precision,
        megabytes=round(size / 1e6, 1),
    )


if __name__ == "__main__":
    main()
