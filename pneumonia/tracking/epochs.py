"""Logging epochs: each one, and the best."""

import json
import logging

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import tracking_uri
from pneumonia.training.checkpoint import Checkpoint, Epoch

log = logging.getLogger(__name__)


class EpochLog:
    """Logs each epoch of one training, and the best so far as soon as it is known."""

    def __init__(self, run: Run, settings: TrainingSettings) -> None:
        self._best: Epoch | None = None
        self._run = run
        self._settings = settings

    def __call__(self, epoch: Epoch) -> None:
        """Log an epoch's metrics."""
        chosen_by = f"val/{self._settings.metric}"
        before = None if self._best is None else self._best[chosen_by]
        if self._settings.better(epoch[chosen_by], before):
            self._best = epoch
            log_best(self._run, self._settings, epoch)
        log_epoch(self._run, self._settings, epoch)


def log_epoch(run: Run, settings: TrainingSettings, epoch: Epoch) -> None:
    """Log one epoch and report it in a line, unless the run has it already."""
    if run.log_epoch(epoch):
        log.info("%s", epoch_line(run.label, settings.epochs, epoch))


def epoch_line(label: str, n_epochs: int, epoch: Epoch) -> str:
    """An epoch in a line that a terminal of 80 columns can show.

    Args:
        label: What tells a trial, fold or seed from others; empty for a single training.
        n_epochs: Epochs in all.
        epoch: The epoch's metrics.
    """
    number = int(epoch["epoch"])
    left = (n_epochs - number) * epoch["speed/epoch_seconds"]
    parts = [
        f"{label} epoch {number}/{n_epochs}".lstrip(),
        f"loss {epoch['train/loss']:.3f}",
        f"val {epoch['val/loss']:.3f}",
        f"auc {epoch['val/auc']:.4f}",
        f"sens {epoch['val/sensitivity']:.2f}",
        f"spec {epoch['val/specificity']:.2f}",
        f"{epoch['speed/images_per_second']:.0f}/s" if not left else f"{duration(left)} left",
    ]
    # A worker's number may come before a label, as in "[2] t012 epoch".
    return (" " if label else "  ").join(parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, as ``45s``, ``12m`` or ``3.5h``."""
    if seconds < 100:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 6000 else f"{seconds / 3600:.1f}h"


def log_best(run: Run, settings: TrainingSettings, best: Epoch) -> None:
    """Log the best epoch's validation metrics as ``best/auc`` etc., and its number.

    The metric that chose it comes first: MLflow's comparison of runs opens with the first one.
    """
    chosen_by = f"val/{settings.metric}"
    ordered = {chosen_by: best[chosen_by], **best}
    metrics = {
        f"best/{key.removeprefix('val/')}": value
        for key, value in ordered.items()
        if key.startswith("val/")
    }
    run.log_metrics({**metrics, "best/epoch": best["epoch"]}, step=int(best["epoch"]))


def checkpoint_of(run: Run, settings: TrainingSettings, data: DataSet) -> Checkpoint:
    """Where a run's training state is kept; bound to its settings and data."""
    run.local.write_owner(tracking_uri())
    identity = {"data.digest": data.digest, **settings.parameters()}
    return Checkpoint(run.local.checkpoint, json.dumps(identity, sort_keys=True))
