"""One training run, from its first epoch or its last checkpoint to the registered model."""

import logging
from functools import partial

from pneumonia.checking import as_parameters
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet
from pneumonia.search.invocation import Invocation
from pneumonia.search.outcome import Outcome, describe, log_outcome
from pneumonia.search.progress import checkpoint_of, log_epoch
from pneumonia.tracking.runs import Run
from pneumonia.training.distributed import ALONE, Ranks
from pneumonia.training.loop import train

log = logging.getLogger(__name__)


def run_training(
    run: Run,
    invocation: Invocation,
    data: DataSet,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Outcome:
    """Train with the fixed settings; then score, log and register. Rank 0 calls this.

    Raises:
        TrainingError: Training failed.
        TrackingError: The tracking store went away and did not come back.
    """
    experiment, settings = invocation.experiment, invocation.experiment.training
    invocation.keep(run)
    log_beginning(run, invocation, data)
    run.log_parameters({"experiment": experiment.name, "trials": 1})
    images = data.open(settings.preprocessing, progress)
    checkpoint = checkpoint_of(run, settings, data)
    trained = train(settings, images, partial(log_epoch, run, settings), checkpoint, ranks)
    if trained.remarks:
        run.log_text("\n".join(trained.remarks) + "\n", "weights.txt")
        log.info(
            "initial weights: %d tensors did not match, such as %s",
            len(trained.remarks),
            trained.remarks[0],
        )
    run.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
    outcome = log_outcome(run, data, images, settings, trained, registering=invocation.registering)
    run.tag({"trial.state": "complete"})
    run.describe(describe(settings, data, trained, outcome))
    return outcome


def log_beginning(run: Run, invocation: Invocation, data: DataSet) -> None:
    """Log what is known before the first epoch: the data, and all resolved settings."""
    run.log_data_set(data)
    run.log_parameters(as_parameters(invocation.experiment.training))
    run.log_parameters(as_parameters(invocation.experiment.data))
