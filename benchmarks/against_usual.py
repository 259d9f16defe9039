"""Our pipeline against the usual torchvision recipe, in turns: same network, size and images.

python -m benchmarks.against_usual --network resnet34 --data chest_xray
python -m benchmarks.against_usual --data chest_xray --image-size 80 --tuned
"""

import statistics
import tempfile
import time
from pathlib import Path

import click
import torch

from benchmarks import usual_recipe
from benchmarks.report import Figure, ratios, report
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.loop import train


def usual_images_per_second(
    network: str, folder: Path, image_size: int, n_steps: int, workers: int, tuned: Engine | None
) -> float:
    """Images a second of the usual recipe, its workers' start left out.

    Args:
        network: The network's name.
        folder: The images, as ImageFolder wants them.
        image_size: Side of the input.
        n_steps: Steps to time.
        workers: Of the DataLoader.
        tuned: The precision of the tuned recipe; None for the usual one.
    """
    model, optimizer = usual_recipe.build(network, image_size, tuned=tuned is not None)
    loader = usual_recipe.training_loader(folder, image_size, workers=workers)
    steps = usual_recipe.steps(model, optimizer, loader, tuned)
    next(steps)
    started = time.perf_counter()
    for _ in range(n_steps):
        next(steps)
    return n_steps * usual_recipe.BATCH_SIZE / (time.perf_counter() - started)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=usual_recipe.IMAGE_SIZE, show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--steps", default=8, show_default=True, help="Steps a turn, after a first one.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
@click.option("--tuned", is_flag=True, help="The usual recipe with all that makes it faster.")
def main(
    network: str, image_size: int, data: str, steps: int, repeats: int, *, tuned: bool
) -> None:
    """Compare images a second at one size and batch; what else is different is the recipe."""
    settings = load_experiment(
        network, {"image_size": image_size, "batch_size": usual_recipe.BATCH_SIZE, "epochs": 1}
    ).training
    loaded = load_data_set(DataSettings(data=data), preprocessing_of(settings))
    images = loaded.open(preprocessing_of(settings))
    n_images = min(len(images["train"]), (steps + 1) * usual_recipe.BATCH_SIZE)
    few = {role: part.part(torch.arange(min(len(part), n_images))) for role, part in images.items()}
    # Not timed, since the usual recipe's first step is not: it imports what an optimizer needs.
    one_step = few["train"].part(torch.arange(usual_recipe.BATCH_SIZE))
    train(settings, {**few, "train": one_step}, lambda _epoch: None)
    engine = choose_engine("auto", "auto") if tuned else None
    ours: list[float] = []
    usual: dict[int, list[float]] = {workers: [] for workers in ((0, 1, 2) if tuned else (2,))}
    with tempfile.TemporaryDirectory() as name:
        folder = usual_recipe.image_folder(loaded.roles["train"], Path(name))
        for _ in range(repeats):
            for workers, rates in usual.items():
                rates.append(
                    usual_images_per_second(network, folder, image_size, steps, workers, engine)
                )
            history = train(settings, few, lambda _epoch: None).history
            ours.append(history[-1]["speed/images_per_second"])
    best = max(usual.values(), key=statistics.median)
    limit = ">= 1.2" if tuned else ">= 2.2 on the CPU for resnet34, more for simple_cnn"
    kind = f"tuned, {engine.precision}" if engine else "fp32"
    report(
        "against_usual",
        [
            *(
                Figure(f"usual recipe, {kind}, {workers} workers", rates, "images/s")
                for workers, rates in usual.items()
            ),
            Figure("ours", ours, "images/s"),
            Figure("ours over usual", ratios(ours, best), limit=limit),
        ],
        network=network,
        image_size=image_size,
        batch_size=usual_recipe.BATCH_SIZE,
        precision=choose_engine("auto", "auto").precision,
        data=data,
    )


if __name__ == "__main__":
    main()
