"""Two trainings at once on one machine, against one alone, in turns.

python -m benchmarks.two_trainings --network resnet34 --data chest_xray
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


def train_once(network: str, data: str, subset: float, together: Barrier) -> float:
    """Images a second of the last epoch: by then all processes know of each other."""
    settings = load_experiment(network, {"epochs": _EPOCHS}).training
    loaded = load_data_set(DataSettings(data=data, subset=subset), preprocessing_of(settings))
    images = loaded.open(preprocessing_of(settings))
    speeds: list[float] = []
    together.wait()
    train(settings, images, lambda epoch: speeds.append(epoch["speed/images_per_second"]))
    return speeds[-1]


def train_at_once(n_processes: int, network: str, data: str, subset: float) -> list[float]:
    """Images a second of each of several processes that train at the same time."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(n_processes) as pool:
        together = manager.Barrier(n_processes)
        given = [(network, data, subset, together)] * n_processes
        return pool.starmap(train_once, given, chunksize=1)


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--subset", default=0.2, show_default=True, help="Share of the data an epoch takes.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each.")
def main(network: str, data: str, subset: float, repeats: int) -> None:
    """Compare each of two trainings at once with one alone."""
    alone, slower, faster = [], [], []
    for _ in range(repeats):
        alone += train_at_once(1, network, data, subset)
        low, high = sorted(train_at_once(2, network, data, subset))
        slower.append(low)
        faster.append(high)
    report(
        "two_trainings",
        [
            Figure("one alone", alone, "images/s"),
            Figure("the slower of two", slower, "images/s"),
            Figure("the faster of two", faster, "images/s"),
            Figure("slower of two over one alone", ratios(slower, alone), limit=">= 0.45"),
        ],
        network=network,
        data=data,
        subset=subset,
    )


if __name__ == "__main__":
    main()
