"""One network trained in one run: fitted, scored, logged and registered."""

import logging

from pneumonia.data.dataset import DataSet, load_data_set, preprocessing_of
from pneumonia.progress import Progress
from pneumonia.tracking.results import TrainingResult, description, log_result
from pneumonia.tracking.run_config import RunConfig, log_run_config
from pneumonia.tracking.run_lifecycle import NewRun, continue_run, resumable, start_run
from pneumonia.tracking.runs import OnRun, Run
from pneumonia.tracking.training import train_in_run
from pneumonia.training import loop
from pneumonia.training.device import choose_engine
from pneumonia.training.distributed import ALONE, Ranks, joined


def train_once(
    run_config: RunConfig,
    data: DataSet,
    new: NewRun,
    run_id: str,
    progress: Progress | None,
    on_run: OnRun,
) -> TrainingResult:
    """Start a run, or continue one, and train in it; under torchrun beside the other ranks.

    Args:
        run_config: What is trained.
        data: The data.
        new: The run to start where none is continued.
        run_id: The run to continue; empty for none.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the run.

    Raises:
        PneumoniaError: The run cannot be continued, or training failed.
        KeyboardInterrupt: It was interrupted; it can be resumed.
    """
    training = run_config.experiment.training
    device = choose_engine(training.device, training.precision).device
    # All ranks join before the run is created: if one cannot, no run is left behind.
    with joined(device) as ranks:
        run = continue_run(run_id, alone=True) if run_id else start_run(new)
        on_run(run)
        with resumable(run, "train"):
            return train_run(run, run_config, data, ranks, progress)


def train_run(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
    on_epoch: loop.OnEpoch | None = None,
) -> TrainingResult:
    """Train with the fixed settings, then score, log and register the network. Rank 0 calls this.

    Raises:
        TrainingError: Training failed.
        TrackingError: The tracking store went away and did not come back.
    """
    settings = run_config.experiment.training
    log_run_config(run, run_config, data)
    images = data.open(preprocessing_of(settings), progress)
    trained = train_in_run(run, settings, data, images, progress, ranks, on_epoch)
    run.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
    result = log_result(
        run, data, images, settings, trained, register_winner=run_config.register_winner
    )
    result.log(run)
    run.tag({"trial.state": "complete"})
    run.set_description(description(settings, data, trained, result))
    return result


def train_as_follower(run_config: RunConfig) -> None:
    """Train in step with rank 0, which alone logs: the same settings and images, silently.

    Raises:
        PneumoniaError: The data or training failed.
    """
    logging.getLogger("pneumonia").setLevel(logging.ERROR)
    training = run_config.experiment.training
    device = choose_engine(training.device, training.precision).device
    images = load_data_set(run_config.experiment.data, preprocessing_of(training)).open(
        preprocessing_of(training)
    )
    with joined(device) as ranks:
        loop.train(training, images, lambda _epoch: None, ranks=ranks)
