"""Our pipeline against the usual torchvision recipe, in turns: same network, size and images.

python -m benchmarks.against_usual --network resnet34 --data chest_xray
"""

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
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import train


def usual_images_per_second(network: str, folder: Path, image_size: int, n_steps: int) -> float:
    """Images a second of the usual recipe, its workers' start left out."""
    model, optimizer = usual_recipe.build(network, image_size)
    loader = usual_recipe.training_loader(folder, image_size)
    steps = usual_recipe.steps(model, optimizer, loader)
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
def main(network: str, image_size: int, data: str, steps: int, repeats: int) -> None:
    """Compare images a second at one size and batch; what else is different is the recipe."""
    settings = load_experiment(
        network, {"image_size": image_size, "batch_size": usual_recipe.BATCH_SIZE, "epochs": 1}
    ).training
    loaded = load_data_set(DataSettings(data=data), preprocessing_of(settings))
    images = loaded.open(preprocessing_of(settings))
    n_images = min(len(images["train"]), (steps + 1) * usual_recipe.BATCH_SIZE)
    few = {role: part.part(torch.arange(min(len(part), n_images))) for role, part in images.items()}
    usual, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = usual_recipe.image_folder(loaded.roles["train"], Path(name))
        for _ in range(repeats):
            usual.append(usual_images_per_second(network, folder, image_size, steps))
            history = train(settings, few, lambda _epoch: None).history
            ours.append(history[-1]["speed/images_per_second"])
    report(
        "against_usual",
        [
            Figure("usual recipe, fp32", usual, "images/s"),
            Figure("ours", ours, "images/s"),
            Figure(
                "ours over usual",
                ratios(ours, usual),
                limit=">= 2.2 on the CPU for resnet34, more for simple_cnn",
            ),
        ],
        network=network,
        image_size=image_size,
        batch_size=usual_recipe.BATCH_SIZE,
        precision=choose_engine("auto", "auto").precision,
        data=data,
    )


if __name__ == "__main__":
    main()
