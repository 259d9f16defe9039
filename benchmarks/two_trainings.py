"""Two trainings at once on one machine, against one alone, in turns.

python -m benchmarks.two_trainings --network resnet34 --data chest_xray --image-size 80
"""

import multiprocessing
from multiprocessing.synchronize import Barrier

import click

from benchmarks.report import Figure, ratios, report
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.training.loop import train

_EPOCHS = 3


def train_once(network: str, image_size: int, data: str, subset: float, together: Barrier) -> float:
    """Images a second of the last epoch: by then all processes know of each other."""
    given = {"epochs": _EPOCHS, "image_size": image_size}
    settings = load_experiment(network, given).training
    loaded = load_data_set(DataSettings(data=data, subset=subset), preprocessing_of(settings))
    images = loaded.open(preprocessing_of(settings))
    speeds: list[float] = []
    together.wait()
    train(settings, images, lambda epoch: speeds.append(epoch["speed/images_per_second"]))
    return speeds[-1]


def train_at_once(
    n_processes: int, network: str, image_size: int, data: str, subset: float
) -> list[float]:
    """Images a second of each of several processes that train at the same time."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(n_processes) as pool:
        together = manager.Barrier(n_processes)
        given = [(network, image_size, data, subset, together)] * n_processes
        return pool.starmap(train_once, given, chunksize=1)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=80, show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--subset", default=0.2, show_default=True, help="Share of the data an epoch takes.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
def main(network: str, image_size: int, data: str, subset: float, repeats: int) -> None:
    """Compare each of two trainings at once with one alone."""
    alone, slower, faster, both = [], [], [], []
    for _ in range(repeats):
        alone += train_at_once(1, network, image_size, data, subset)
        low, high = sorted(train_at_once(2, network, image_size, data, subset))
        slower.append(low)
        faster.append(high)
        both.append(low + high)
    report(
        "two_trainings",
        [
            Figure("one alone", alone, "images/s"),
            Figure("the slower of two", slower, "images/s"),
            Figure("the faster of two", faster, "images/s"),
            Figure("slower of two over one alone", ratios(slower, alone), limit=">= 0.45"),
            Figure("both of two over one alone", ratios(both, alone)),
        ],
        network=network,
        image_size=image_size,
        data=data,
        subset=subset,
    )


if __name__ == "__main__":
    main()
