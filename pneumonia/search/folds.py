"""The folds of a cross-validation or of a trial: a network each, trained in a run of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images, preprocessing_of
from pneumonia.data.splits import patient_folds
from pneumonia.progress import Progress
from pneumonia.tracking.cross_validation import Fold
from pneumonia.tracking.lookup import final_metrics
from pneumonia.tracking.run_lifecycle import continue_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.training import read_network, train_in_run
from pneumonia.training.loop import OnEpoch


class Folds:
    """The images for training and those for validation, split by patient.

    Args:
        parent: The run above those of the folds.
        settings: How to train.
        data: The data.
        n_folds: Number of folds.
        keep_networks: Whether each fold's run keeps its checkpoint, and each fold its network.
        progress: Called with what is done, and how many images of how many.

    Attributes:
        pool: The images of all folds.
        tag: The tag in which their runs have their names.
        names: The folds' names.

    Raises:
        DataError: A class has fewer patients than folds.
    """

    tag = "fold"

    def __init__(
        self,
        parent: Run,
        settings: TrainingSettings,
        data: DataSet,
        n_folds: int,
        *,
        keep_networks: bool,
        progress: Progress | None = None,
    ) -> None:
        self._parent, self._settings, self._data = parent, settings, data
        self._keep_networks, self._progress = keep_networks, progress
        self.pool = _pool_of(data, settings, progress)
        parts = patient_folds(self.pool.files, n_folds, data.settings.split_seed)
        self._parts = {str(number): part for number, part in enumerate(parts)}
        self.names = list(self._parts)

    def is_trained(self, child: Run) -> bool:
        """Whether a fold is trained, and its network kept if it is to be."""
        return child.status == "FINISHED" and (not self._keep_networks or child.has_checkpoint())

    def train(self, name: str, child: Run | None, on_epoch: OnEpoch | None = None) -> Run:
        """Train a fold, or continue where a stopped process left off; returns its run.

        The run has the metrics of its epochs and of its best epoch, as any run that trained.

        Args:
            name: The fold.
            child: Its run, if it was begun.
            on_epoch: Called with each epoch's metrics.

        Raises:
            DeviceError: The device is out of memory.
            TrainingError: The fold cannot be trained.
        """
        if child is None:
            of_fold = "-".join(filter(None, (self._settings.network, self._parent.label, "f")))
            child = self._parent.child(f"{of_fold}{name}", {self.tag: name})
        else:
            child = continue_run(child.id)
        child.log_parameters({"data": self._data.settings.data})
        with _ending(child):
            trained = train_in_run(
                child,
                self._settings,
                self._data,
                self._images(name),
                self._progress,
                on_epoch=on_epoch,
            )
            if self._keep_networks:
                child.log_checkpoint(trained.network.state_dict(), self._data.settings.class_names)
        return child

    def read(self, name: str, child: Run) -> Fold:
        """A fold that is trained.

        Raises:
            TrackingError: The tracking store stopped answering.
        """
        best = {
            key.removeprefix("best/"): value
            for key, value in final_metrics(child).items()
            if key.startswith("best/")
        }
        network = read_network(child, self._settings) if self._keep_networks else None
        return Fold(child, self._images(name), self._parts[name][1], best, network)

    def _images(self, name: str) -> dict[str, Images]:
        left, held_out = self._parts[name]
        return {
            "train": self.pool.part(torch.from_numpy(left)),
            "validation": self.pool.part(torch.from_numpy(held_out)),
        }


def _pool_of(data: DataSet, settings: TrainingSettings, progress: Progress | None) -> Images:
    """The images that folds are made of: those for training and those for validation."""
    opened = data.open(preprocessing_of(settings), progress)
    first, second = opened["train"], opened["validation"]
    return replace(
        first,
        rows=torch.cat([first.rows, second.rows]),
        labels=torch.cat([first.labels, second.labels]),
        files=first.files + second.files,
    )


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
