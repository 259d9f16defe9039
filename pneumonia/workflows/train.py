"""One training run, from its first epoch or its last checkpoint to the registered model."""

import logging
from functools import partial

from pneumonia.config.checking import as_parameters
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet
from pneumonia.tracking.epochs import checkpoint_of, log_epoch
from pneumonia.tracking.results import TrainingResult, description, log_result
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.runs import Run
from pneumonia.training.distributed import ALONE, Ranks
from pneumonia.training.loop import train

log = logging.getLogger(__name__)


def run_training(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train with the fixed settings; then score, log and register. Rank 0 calls this.

    Raises:
        TrainingError: Training failed.
        TrackingError: The tracking store went away and did not come back.
    """
    experiment, settings = run_config.experiment, run_config.experiment.training
    run_config.keep(run)
    log_beginning(run, run_config, data)
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
    result = log_result(
        run, data, images, settings, trained, register_winner=run_config.register_winner
    )
    run.tag({"trial.state": "complete"})
    run.set_description(description(settings, data, trained, result))
    return result


def log_beginning(run: Run, run_config: RunConfig, data: DataSet) -> None:
    """Log what is known before the first epoch: the data, and all resolved settings."""
    run.log_data_set(data)
    run.log_parameters(as_parameters(run_config.experiment.training))
    run.log_parameters(as_parameters(run_config.experiment.data))
