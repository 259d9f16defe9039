"""MLflow's share of an epoch, and the seconds a winner takes to log and register; on two stores.

python -m benchmarks.tracking --epoch-seconds 60 --repeats 5

One store is an sqlite file, the other an ``mlflow server`` on this machine, started for it and
stopped afterwards. The time that training waits and the time until all is delivered are measured
separately: they would differ if anything were delivered in the background.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.report import Figure, report
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import load_data_set, preprocessing_of
from pneumonia.evaluation.gate import Gate
from pneumonia.evaluation.metrics import classification_metrics
from pneumonia.tracking.epochs import log_epoch
from pneumonia.tracking.model_files import ModelConfig
from pneumonia.tracking.models import log_model
from pneumonia.tracking.registry import register
from pneumonia.tracking.run_lifecycle import NewRun, start_run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.setup import build_network
from tests.faults.server import Server

_GATE = Gate("layer2", torch.zeros(80, 80), torch.zeros(2, 128), torch.eye(128), 1.0, 2.0, 0.0, 0.5)
"""As large as that of ResNet34."""

_VALIDATION = {"auc": 0.9, "sensitivity": 0.9, "specificity": 0.8, "balanced_accuracy": 0.85}


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds on one store, one a repeat.

    Attributes:
        held: How long an epoch's logging holds training up.
        delivered: How long an epoch's logging takes until it is all in the store.
        logging: Seconds of ``log_model``.
        register_winner: Seconds of ``register``.
    """

    held: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    logging: list[float] = field(default_factory=list)
    register_winner: list[float] = field(default_factory=list)

    def measure(self, uri: str, settings: TrainingSettings, epochs: int, example: bytes) -> None:
        """Log one run of so many epochs, and its model."""
        # Choosing a store leaves them behind, and they would decide where models are registered.
        for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
            os.environ.pop(name, None)
        connect(uri)
        run = start_run(NewRun("benchmark", {}, choose_experiment("benchmark")))
        measured = an_epoch()
        started = time.perf_counter()
        for epoch in range(1, epochs + 1):
            log_epoch(run, settings, {**measured, "epoch": epoch})
        self.held.append((time.perf_counter() - started) / epochs)
        run.outbox.flush(wait=True)
        self.delivered.append((time.perf_counter() - started) / epochs)

        network = build_network(settings).eval()
        config = ModelConfig(settings.network, settings.image_size, "stretch", ("a", "b"))
        started = time.perf_counter()
        logged = log_model(run, network, config, _GATE, step=epochs, example=example)
        self.logging.append(time.perf_counter() - started)
        started = time.perf_counter()
        register(logged, run, config.network, metric="auc", validation=_VALIDATION, tags={})
        self.register_winner.append(time.perf_counter() - started)
        run.end("FINISHED")

    def figures(self, store: str, epoch_seconds: float) -> list[Figure]:
        """What to print of it."""
        held = [seconds / epoch_seconds for seconds in self.held]
        delivered = [seconds / epoch_seconds for seconds in self.delivered]
        relative = f"of an epoch of {epoch_seconds:g} s"
        return [
            Figure(f"{store}: training held up", held, relative, "< 0.01"),
            Figure(f"{store}: until delivered", delivered, relative, "< 0.01"),
            Figure(f"{store}: an epoch's logging", self.held, "s"),
            Figure(f"{store}: log_model", self.logging, "s"),
            Figure(f"{store}: register", self.register_winner, "s"),
        ]


def an_epoch() -> Epoch:
    """Metrics as an epoch has them."""
    truth = np.arange(100) % 2
    scores = classification_metrics(truth, np.random.default_rng(0).random(100))
    speed = {"speed/images_per_second": 100.0, "speed/epoch_seconds": 60.0}
    training = {"train/loss": 0.3, "train/accuracy": 0.9, "learning_rate": 1e-3}
    return {**training, **speed, **{f"val/{key}": value for key, value in scores.items()}}


@contextmanager
def _stores() -> Iterator[dict[str, str]]:
    """Two empty stores' URIs; all that is written goes with them."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        os.environ["PNEUMONIA_STATE"] = str(folder / "state")
        server = Server(folder)
        server.start()
        try:
            yield {"sqlite": f"sqlite:///{folder}/mlflow.db", "server": server.url}
        finally:
            server.stop()


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=128, show_default=True)
@click.option("--data", default=DEMO, show_default=True, help="Where the input example is from.")
@click.option("--epochs", default=50, show_default=True, help="Epochs that a run logs.")
@click.option("--epoch-seconds", default=60.0, show_default=True, help="What shares are of.")
@click.option("--repeats", default=5, show_default=True, help="Runs on each store, in turn.")
def main(
    network: str, image_size: int, data: str, epochs: int, epoch_seconds: float, repeats: int
) -> None:
    """Log runs and models to both stores in turn, and print how long it took."""
    logging.getLogger("pneumonia").setLevel(logging.WARNING)
    settings = TrainingSettings(network=network, image_size=image_size, epochs=epochs)
    images = load_data_set(DataSettings(data=data), preprocessing_of(settings))
    example = images.roles["test"][0].path.read_bytes()
    with _stores() as stores:
        measured = {store: Measured() for store in stores}
        for _ in range(repeats):
            for store, uri in stores.items():
                measured[store].measure(uri, settings, epochs, example)
    figures = [f for store in measured for f in measured[store].figures(store, epoch_seconds)]
    report("tracking", figures, network=network, epochs=epochs, repeats=repeats)


if __name__ == "__main__":
    main()
