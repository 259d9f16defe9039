"""Seconds of training to a validation AUC, the experiment's recipe against the usual one.

python -m benchmarks.time_to_quality --network resnet34 --data chest_xray --seeds 3
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import click
import torch
from torch import nn

from benchmarks import usual_recipe
from benchmarks.report import Figure, ratios, report
from pneumonia.config.data import DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images, load_data_set, preprocessing_of
from pneumonia.data.decode import Preprocessing
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.device import Engine, choose_engine
from pneumonia.training.loop import train
from pneumonia.training.validation import validate

LEVELS = (0.98, 0.99)
Course = list[tuple[float, float]]
"""Seconds of training so far, validation left out, and the validation AUC then reached."""


class _ReachedError(Exception):
    """The highest level is reached."""


def course_of_ours(settings: TrainingSettings, images: Mapping[str, Images]) -> Course:
    """Train as the experiment says until the highest level; every epoch is validated."""
    n_images = len(images["train"]) // settings.batch_size * settings.batch_size
    course: Course = []

    def on_epoch(epoch: Epoch) -> None:
        before = course[-1][0] if course else 0.0
        course.append((before + n_images / epoch["speed/images_per_second"], epoch["val/auc"]))
        click.echo(f"  ours, epoch {len(course)}: AUC {epoch['val/auc']:.4f}", err=True)
        if epoch["val/auc"] >= max(LEVELS):
            raise _ReachedError

    with suppress(_ReachedError):
        train(settings, images, on_epoch)
    return course


def course_of_usual(
    network: str, folder: Path, validation: Images, most_steps: int, seed: int, counting: Engine
) -> Course:
    """Train the usual way until the highest level; validated three times an epoch, in its favour.

    Its steps are counted in the engine's precision, and each takes the time of one in fp32.
    """
    torch.manual_seed(seed)
    model, optimizer = usual_recipe.build(network)
    loader = usual_recipe.training_loader(folder)
    seconds_a_step = fp32_seconds_a_step(network, folder)
    course: Course = []
    for number, _ in enumerate(
        usual_recipe.steps(_Autocast(model, counting), optimizer, loader), 1
    ):
        if number % (len(loader) // 3) == 0:
            auc = validate(model, validation, counting)["val/auc"]
            course.append((number * seconds_a_step, auc))
            click.echo(f"  usual, step {number}: AUC {auc:.4f}", err=True)
            if auc >= max(LEVELS) or number >= most_steps:
                return course
    raise AssertionError("the usual recipe has no end of its own")


def fp32_seconds_a_step(network: str, folder: Path, n: int = 8) -> float:
    """Time of a step of the usual recipe, its workers' start left out."""
    steps = _usual_steps(network, folder)
    next(steps)
    started = time.perf_counter()
    for _ in range(n):
        next(steps)
    return (time.perf_counter() - started) / n


def _usual_steps(network: str, folder: Path) -> Iterator[float]:
    return usual_recipe.steps(*usual_recipe.build(network), usual_recipe.training_loader(folder))


class _Autocast(nn.Module):
    """A network in another precision, which takes and gives fp32."""

    def __init__(self, network: nn.Module, engine: Engine) -> None:
        super().__init__()
        self.network, self.engine = network, engine

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        with self.engine.autocast():
            logits: torch.Tensor = self.network(pixels)
        return logits.float()


def seconds_to(level: float, course: Course) -> float:
    """Seconds to a level; infinite where it was not reached."""
    return next((seconds for seconds, auc in course if auc >= level), float("inf"))


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--data", required=True, help="A folder of real X-rays: the demo set is too easy.")
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--recipe",
    type=click.Choice(["both", "ours", "usual"]),
    default="both",
    show_default=True,
)
@click.option("--most-epochs", default=6, show_default=True, help="Where the usual recipe ends.")
@click.option(
    "--count-in",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Precision in which the usual recipe's steps are counted; bf16 takes half as long.",
)
def main(network: str, data: str, seeds: int, recipe: str, most_epochs: int, count_in: str) -> None:
    """Train with several seeds and compare the medians."""
    settings = load_experiment(network, {}).training
    figures: list[Figure] = []
    courses: dict[str, list[Course]] = {"ours": [], "usual": []}
    for seed in range(seeds):
        if recipe != "usual":
            ours = load_experiment(network, {"seed": seed}).training
            courses["ours"].append(course_of_ours(ours, _opened(data, preprocessing_of(ours))[1]))
        if recipe != "ours":
            loaded, images = _opened(data, Preprocessing(usual_recipe.IMAGE_SIZE))
            with tempfile.TemporaryDirectory() as name:
                folder = usual_recipe.image_folder(loaded.roles["train"], Path(name))
                most = most_epochs * len(images["train"]) // usual_recipe.BATCH_SIZE
                engine = choose_engine("cpu", count_in)
                courses["usual"].append(
                    course_of_usual(network, folder, images["validation"], most, seed, engine)
                )
    for level in LEVELS:
        reached = {who: [seconds_to(level, course) for course in courses[who]] for who in courses}
        figures += [
            Figure(f"{who} to AUC {level}", seconds, "s")
            for who, seconds in reached.items()
            if seconds
        ]
        if recipe == "both":
            figures.append(
                Figure(
                    f"usual over ours, AUC {level}",
                    ratios(reached["usual"], reached["ours"]),
                    limit=">= 6",
                )
            )
    report(
        "time_to_quality",
        figures,
        network=network,
        image_size=settings.image_size,
        epochs=settings.epochs,
        data=data,
        usual_steps_counted_in=count_in,
    )


def _opened(data: str, preprocessing: Preprocessing) -> tuple[DataSet, dict[str, Images]]:
    loaded = load_data_set(DataSettings(data=data), preprocessing)
    return loaded, loaded.open(preprocessing)


if __name__ == "__main__":
    main()
