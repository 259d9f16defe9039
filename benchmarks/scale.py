"""How cost grows with the number of images, image size, trials, and epochs logged to one run.

python -m benchmarks.scale --axis images --axis trials --largest 10000

Each axis gives the cost of one unit at several sizes, and the exponent e of a fit of whole cost to
size^e. Images are small PNGs of noise: each must differ, since equal ones are decoded once.
"""

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import optuna
from PIL import Image

from benchmarks.report import Figure, report
from benchmarks.throughput import bare_images_per_second
from benchmarks.tracking import an_epoch
from pneumonia.config.data import DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.config.space import Space
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.search.queue import TrialQueue
from pneumonia.search.report import trials_table
from pneumonia.search.space import suggest
from pneumonia.search.storage import queue_of
from pneumonia.search.study import create_study, sampler_of
from pneumonia.tracking.run_lifecycle import NewRun, start_run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.training.device import choose_engine

Costs = dict[str, dict[int, float]]
"""Whole seconds by what was done, and by size."""


def images(folder: Path, largest: int) -> Costs:
    """Open a data set: for the first time, which decodes it, and again."""
    first, again = {}, {}
    rng = np.random.default_rng(0)
    for size in _up_to((1_000, 10_000, 100_000), largest):
        os.environ["PNEUMONIA_CACHE"] = str(folder / f"cache-{size}")
        data = folder / f"images-{size}"
        for number in range(size):
            label, stem = ("NORMAL", "IM-") if number % 2 else ("PNEUMONIA", "person")
            name = f"{stem}{number // 4:06}{'-' if number % 2 else '_bacteria_'}{number:06}.png"
            path = data / "train" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(noise).save(path, compress_level=1)
        settings, preprocessing = DataSettings(data=str(data)), preprocessing_of(TrainingSettings())
        first[size] = _seconds(lambda: load_data_set(settings, preprocessing))  # noqa: B023 - called at once
        again[size] = _seconds(lambda: load_data_set(settings, preprocessing))  # noqa: B023 - likewise
    return {"open a data set the first time, an image": first, "open it again, an image": again}


def pixels(_folder: Path, largest: int) -> Costs:
    """Train with images of several sizes."""
    engine = choose_engine("auto", "auto")
    seconds = {}
    for side in _up_to((64, 96, 128, 192), largest):
        settings = TrainingSettings(image_size=side, batch_size=16)
        seconds[side**2] = 1 / bare_images_per_second(settings, engine, 3)
    return {"train on an image, a pixel": seconds}


def trials(folder: Path, largest: int) -> Costs:
    """Take, draw, report and end a trial beside those that have ended, and as many more alike."""
    experiment, costs = load_experiment("demo", {}), {}
    storage = f"sqlite:///{folder}/optuna.db"
    for size in _up_to((10, 100, 500), largest):
        study = create_study(experiment, SearchSettings(study=str(size), storage=storage), "")
        assert study is not None
        queue = queue_of(study, storage)
        queue.fill(1)
        _seconds_of_trial(queue, experiment.space, 0)
        (done,) = study.trials
        # As training leaves them, with their history.
        history = [an_epoch()] * experiment.training.epochs
        for number in range(1, size):
            done.user_attrs = {**done.user_attrs, "number": number, "history": history}
            study.add_trial(done)
        queue.fill(size + 5)
        taken = [_seconds_of_trial(queue, experiment.space, size + n) for n in range(5)]
        # The median, since the first that is not drawn at random imports what the sampler needs.
        costs[size] = statistics.median(taken) * size
    return {"a trial": costs}


def _seconds_of_trial(queue: TrialQueue, space: Space, number: int) -> float:
    began = time.perf_counter()
    queue.recover()

    def objective(trial: optuna.Trial) -> float:
        queue.study.sampler = sampler_of("tpe", number, 0)
        value = float(suggest(trial, space)["augmentation"])
        trial.report(value, 1)
        trial.should_prune()
        queue.best()
        return value

    queue.run_next(objective)
    trials_table(queue, list(space), "0")
    return time.perf_counter() - began


def metrics(folder: Path, largest: int) -> Costs:
    """Log epochs to one run; and what it would cost were each as dear as those of its end."""
    connect(f"sqlite:///{folder}/mlflow.db")
    run = start_run(NewRun("benchmark", {}, choose_experiment("benchmark")))
    measured = an_epoch()
    sizes = _up_to((100, 1_000, 5_000), largest)
    taken = []
    for number in range(1, sizes[-1] + 1):
        began = time.perf_counter()
        run.log_epoch({**measured, "epoch": number})
        taken.append(time.perf_counter() - began)
    run.end("FINISHED")
    return {
        "log an epoch": {n: sum(taken[:n]) for n in sizes},
        "log an epoch at the end": {n: sum(taken[n - n // 10 : n]) * 10 for n in sizes},
    }


_AXES: dict[str, Callable[[Path, int], Costs]] = {
    "images": images,
    "pixels": pixels,
    "trials": trials,
    "metrics": metrics,
}


def _up_to(sizes: Sequence[int], largest: int) -> list[int]:
    """The sizes that are not too large; at least two, since a line is laid through them."""
    small = [size for size in sizes if size <= largest]
    return small if len(small) > 1 else [largest // 10, largest]


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _figures(repeats: Sequence[Costs]) -> list[Figure]:
    """The cost of a unit at each size, and the exponent."""
    figures = []
    for what, one in repeats[0].items():
        costs = [repeat[what] for repeat in repeats]
        sizes = list(one)
        for size in sizes:
            each = [1000 * cost[size] / size for cost in costs]
            figures.append(Figure(f"{what}, of {size:,}", each, "ms"))
        logs = [np.log([cost[size] for size in sizes]) for cost in costs]
        exponents = [float(np.polyfit(np.log(sizes), whole, 1)[0]) for whole in logs]
        figures.append(Figure(f"{what}: exponent", exponents, limit="<= 1.1"))
    return figures


@click.command()
@click.option("--axis", "axes", multiple=True, type=click.Choice(list(_AXES)), default=list(_AXES))
@click.option("--largest", default=100_000, show_default=True, type=click.IntRange(min=500))
@click.option("--repeats", default=3, show_default=True)
def main(axes: tuple[str, ...], largest: int, repeats: int) -> None:
    """Print the cost of a unit along each axis, and how the whole grows."""
    logging.getLogger("pneumonia").setLevel(logging.WARNING)
    figures: list[Figure] = []
    for axis in axes:
        costs = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(dir=Path.home()) as name:
                os.environ["PNEUMONIA_STATE"] = f"{name}/state"
                costs.append(_AXES[axis](Path(name), largest))
        figures += _figures(costs)
    report("scale", figures, axes=" ".join(axes), largest=largest, repeats=repeats)


if __name__ == "__main__":
    main()
