"""A search: begun, joined or resumed, and run to its end."""

import logging

from pneumonia.config.space import clip_batch_size
from pneumonia.data.dataset import DataSet
from pneumonia.progress import Progress
from pneumonia.search import session
from pneumonia.search.run import run_search
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.run_lifecycle import NewRun
from pneumonia.tracking.runs import OnRun

log = logging.getLogger(__name__)


def search(
    run_config: RunConfig,
    data: DataSet,
    start: str,
    new: NewRun,
    run_id: str,
    jobs: int | None,
    progress: Progress | None,
    on_run: OnRun,
) -> TrainingResult | None:
    """Open a search, and train its trials until none are left.

    Args:
        run_config: What is searched.
        data: The data.
        start: ``begin``, ``join`` or ``resume``.
        new: The run to start where a new one is needed.
        run_id: The run that was asked for, if one was.
        jobs: Workers of a search on this machine, as ``train`` takes it.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the run.

    Returns:
        The result; None where the timeout has passed and other workers continue.

    Raises:
        PneumoniaError: The study cannot be opened, or training failed.
        KeyboardInterrupt: It was interrupted; it can be resumed.
    """
    run_config = _without_large_batches(run_config, len(data.roles["train"]))
    if start == "resume":
        opened = session.resume(run_config, data, new, run_id)
    elif start == "join":
        opened = session.join(run_config, data, new)
    else:
        opened = session.begin(run_config, data, new)
    on_run(opened.run)
    try:
        alone = 1 if start == "join" else None
        result = run_search(opened, run_config, data, jobs or alone, progress)
    except KeyboardInterrupt:
        log.info("Resume it with: pneumonia train --resume %s", opened.run.id)
        raise
    if result is None:
        log.info("The timeout has passed; other workers continue the study.")
    return result


def _without_large_batches(run_config: RunConfig, n_training: int) -> RunConfig:
    experiment = run_config.experiment
    space = clip_batch_size(experiment.space, n_training)
    if space != experiment.space:
        log.info("batch sizes above %d, the number of training images, are not tried", n_training)
    return run_config.with_values(experiment=experiment.with_values(space=space))
