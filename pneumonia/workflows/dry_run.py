"""``--dry-run``: what a command would train on and for how long, from a few real steps."""

from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from pneumonia.config.experiment import load_experiment
from pneumonia.data.dataset import Images, preprocessing_of
from pneumonia.evaluation.stress import CHANGES, IMAGES_A_CLASS
from pneumonia.progress import Progress
from pneumonia.tracking.epochs import duration
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import train
from pneumonia.workflows.prepare import load_data

_N_BATCHES = 4
"""Batches of each of the two epochs; the first one warms up, and the second one is timed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a command would take.

    Attributes:
        network: What it would train.
        n_trainings: How many times: trials, folds or seeds.
        epochs: Epochs of each, without early stopping or pruning.
        n_images: Training images of an epoch.
        images_per_second: In training.
        seconds: In all, one training after the other.
        memory: Bytes, at least, of this process or of the GPU.
        device: Where it would compute.
    """

    network: str
    n_trainings: int
    epochs: int
    n_images: int
    images_per_second: float
    seconds: float
    memory: int
    device: str

    @property
    def report(self) -> str:
        """The estimate in lines of 80 columns."""
        each = f"{self.epochs} epochs of {self.n_images:,} images"
        times = f"{self.n_trainings} trainings of " if self.n_trainings > 1 else ""
        return (
            f"would train {self.network}: {times}{each}\n"
            f"speed       {self.images_per_second:.0f} images/s on {self.device}\n"
            f"time        about {duration(self.seconds)} with one worker\n"
            f"memory      {self.memory / 2**30:.1f} GiB or more\n"
            "Nothing was logged. Leave --dry-run out to start."
        )

    def as_json(self) -> dict[str, Any]:
        """The estimate for a program."""
        return asdict(self)


def dry_run(
    *,
    experiment: str = "auto",
    trials: int = 1,
    folds: int = 1,
    seeds: int = 1,
    timeout: float | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Estimate:
    """Check settings and data, train a few batches, and estimate the whole. No run is made.

    The estimate is for the experiment's own settings: what a search draws may be quicker or slower,
    and its pruning saves time.

    Args:
        experiment: Name of an experiment file, path of one, or ``auto``.
        trials: Trials of a search.
        folds: Folds of a cross-validation.
        seeds: Seeds of a training.
        timeout: Seconds after which a search begins no further trial.
        progress: Called with what is done, and how many images of how many.
        **settings: Training and data settings by name; the others are the experiment's.

    Raises:
        PneumoniaError: A setting, the data or the training failed.
    """
    chosen = load_experiment(experiment, settings)
    training = chosen.training
    data = load_data(chosen, progress, tracked=False)
    images = data.open(preprocessing_of(training), progress)
    n_training, n_validation = len(images["train"]), len(images["validation"])
    if folds > 1:
        pool = n_training + n_validation
        n_training, n_validation = pool - pool // folds, pool // folds
    few = {
        role: _few(images[role], _N_BATCHES * training.batch_size)
        for role in ("train", "validation")
    }
    warm = training.with_values(epochs=2, patience=0, metric="loss")
    second = train(warm, few, lambda _epoch: None, progress=progress).history[-1]
    rate = second["speed/images_per_second"]
    n_timed = len(few["train"]) // training.batch_size * training.batch_size
    scoring = len(few["validation"]) / max(second["speed/epoch_seconds"] - n_timed / rate, 1e-3)
    engine = choose_engine(training.device, training.precision)
    an_epoch = n_training / rate + n_validation / scoring
    n_stressed = 2 * IMAGES_A_CLASS * (1 + len(CHANGES)) + n_validation + len(data.roles["test"])
    by_folds = trials > 1 and folds > 1  # then the winner is trained once more
    n_trainings = trials * folds * seeds + by_folds
    seconds_each = training.epochs * an_epoch
    seconds = n_trainings * seconds_each
    if timeout is not None and trials > 1:  # the last trial may have begun just before it
        seconds = min(seconds, timeout + (folds + by_folds) * seconds_each)
    n_stress_tests = folds if trials == 1 and folds > 1 else seeds
    return Estimate(
        network=training.network,
        n_trainings=n_trainings,
        epochs=training.epochs,
        n_images=n_training,
        images_per_second=rate,
        seconds=seconds + n_stress_tests * n_stressed / scoring,
        memory=_memory(engine.device),
        device=f"{engine.device} in {engine.precision}",
    )


def _few(images: Images, wanted: int) -> Images:
    """As many images as wanted, half of each class if there are so many, or all of them."""
    if wanted >= len(images):
        return images
    by_class = images.labels.argsort()
    half = wanted // 2
    return images.part(torch.cat([by_class[:half], by_class[-half:]]))


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
