"""The folds of a cross-validation or of a trial: trained one after the other, a run each."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pneumonia.config.training import TrainingSettings
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, Images, preprocessing_of
from pneumonia.data.splits import patient_folds
from pneumonia.tracking.cross_validation import Fold
from pneumonia.tracking.lookup import final_metrics
from pneumonia.tracking.run_lifecycle import children_of, continue_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.training import read_network, train_in_run

log = logging.getLogger(__name__)


def pool_of(data: DataSet, settings: TrainingSettings, progress: Progress | None) -> Images:
    """The images that folds are made of: those for training and those for validation."""
    opened = data.open(preprocessing_of(settings), progress)
    first, second = opened["train"], opened["validation"]
    return replace(
        first,
        rows=torch.cat([first.rows, second.rows]),
        labels=torch.cat([first.labels, second.labels]),
        files=first.files + second.files,
    )


def train_folds(
    parent: Run,
    settings: TrainingSettings,
    data: DataSet,
    pool: Images,
    n_folds: int,
    *,
    keep_networks: bool,
    progress: Progress | None = None,
) -> Iterator[Fold]:
    """Train once a fold. A fold that a stopped process has trained, or begun, is not begun anew.

    A fold's run has the metrics of its epochs and of its best epoch, as any run that trained.

    Args:
        parent: The run above.
        settings: How to train.
        data: The data.
        pool: The images to split by patient.
        n_folds: Number of folds.
        keep_networks: Whether each run keeps its checkpoint, and each fold its network.
        progress: Told what is done, and how many images of how many.

    Raises:
        DataError: A class has fewer patients than folds.
        DeviceError: The device is out of memory.
        TrainingError: A fold cannot be trained.
    """
    children = children_of(parent, "fold")
    parts = patient_folds(pool.files, n_folds, data.settings.split_seed)
    for number, (left, held_out) in enumerate(parts):
        images = {
            "train": pool.part(torch.from_numpy(left)),
            "validation": pool.part(torch.from_numpy(held_out)),
        }
        child = children.get(str(number))
        if child and child.status == "FINISHED" and (child.has_checkpoint() or not keep_networks):
            log.info("%s is trained already", child.name)
            network = read_network(child, settings) if keep_networks else None
            yield Fold(child, images, held_out, _best_of(child), network)
            continue
        name = "-".join(filter(None, (settings.network, parent.label, f"f{number}")))
        child = continue_run(child.id) if child else parent.child(name, {"fold": str(number)})
        child.log_parameters({"data": data.settings.data})
        with _ending(child):
            trained = train_in_run(child, settings, data, images, progress)
            if keep_networks:
                child.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
        best = {
            key.removeprefix("val/"): value
            for key, value in trained.best.items()
            if key.startswith("val/")
        }
        yield Fold(child, images, held_out, best, trained.network if keep_networks else None)


def _best_of(child: Run) -> dict[str, float]:
    return {
        key.removeprefix("best/"): value
        for key, value in final_metrics(child).items()
        if key.startswith("best/")
    }


@contextmanager
def _ending(child: Run) -> Iterator[None]:
    """End a fold's run as the block ends; its checkpoint stays on this machine if it failed."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        child.end("KILLED" if interrupted else "FAILED", "interrupted" if interrupted else "failed")
        raise
    child.end("FINISHED", "complete")
    child.outbox.flush(wait=True)
    child.local.remove()
