"""Logging epochs: each one, and the best."""

import json
import logging

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import tracking_uri
from pneumonia.training.checkpoint import Checkpoint, Epoch

log = logging.getLogger(__name__)


def log_epoch(run: Run, settings: TrainingSettings, epoch: Epoch) -> None:
    """Log one epoch and report it in a line, unless the run has it already."""
    if not run.log_epoch(epoch):
        return
    log.info(
        "%s epoch %d/%d  train loss %.4f  val loss %.4f  accuracy %.4f  auc %.4f  "
        "sensitivity %.3f  specificity %.3f  %.0f images/s  %.1f s",
        run.name,
        epoch["epoch"],
        settings.epochs,
        epoch["train/loss"],
        epoch["val/loss"],
        epoch["val/accuracy"],
        epoch["val/auc"],
        epoch["val/sensitivity"],
        epoch["val/specificity"],
        epoch["speed/images_per_second"],
        epoch["speed/epoch_seconds"],
    )


def log_best(run: Run, best: Epoch) -> None:
    """Log the best epoch's number and validation metrics as ``best/epoch``, ``best/auc`` etc."""
    run.log_metrics(
        {
            f"best/{key.removeprefix('val/')}": value
            for key, value in best.items()
            if key.startswith("val/") or key == "epoch"
        },
        step=int(best["epoch"]),
    )


def checkpoint_of(run: Run, settings: TrainingSettings, data: DataSet) -> Checkpoint:
    """Where a run's training state is kept; bound to its settings and data."""
    run.local.write_owner(tracking_uri())
    identity = {"data.digest": data.digest, **settings.parameters()}
    return Checkpoint(run.local.checkpoint, json.dumps(identity, sort_keys=True))
