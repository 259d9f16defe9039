"""Training in a run: logged as it goes, resumable, and its network read back."""

from collections.abc import Mapping

import torch
from torch import nn

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images
from pneumonia.progress import Progress
from pneumonia.tracking.epochs import EpochLog, checkpoint_of
from pneumonia.tracking.runs import Run
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.distributed import ALONE, Ranks
from pneumonia.training.loop import OnEpoch, Trained, train
from pneumonia.training.setup import build_network


def train_in_run(
    run: Run,
    settings: TrainingSettings,
    data: DataSet,
    images: Mapping[str, Images],
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a network, or continue where a stopped process left off, and log each epoch.

    Args:
        run: The run to log to; its checkpoint is the one to continue from.
        settings: How to train.
        data: The data set of the images.
        images: The ``train`` and ``validation`` images.
        progress: Called with how many images of an epoch are trained on.
        ranks: The processes to train with; rank 0 calls this.
        on_epoch: Called with each epoch's metrics once they are logged.

    Raises:
        DeviceError, TrainingError, UsageError, KeyboardInterrupt: As ``training.loop.train``.
        TrackingError: The tracking store stopped answering.
    """
    checkpoint = checkpoint_of(run, settings, data)
    epoch_log = EpochLog(run, settings)

    def log_epoch(epoch: Epoch) -> None:
        epoch_log(epoch)
        if on_epoch is not None:
            on_epoch(epoch)

    trained = train(settings, images, log_epoch, checkpoint, ranks, progress)
    log_remarks(run, trained)
    return trained


def log_remarks(run: Run, trained: Trained) -> None:
    """Log what did not match in the initial weights, if anything."""
    if trained.remarks:
        run.log_text("\n".join(trained.remarks) + "\n", "weights.txt")


def read_network(run: Run, settings: TrainingSettings) -> nn.Module:
    """The network that a run logged, in evaluation mode.

    Raises:
        TrackingError: The tracking store stopped answering.
    """
    network = build_network(settings)
    network.load_state_dict(run.read_checkpoint())
    return network.to(memory_format=torch.channels_last).eval()
