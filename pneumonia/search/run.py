"""Run a search: train trials until the study has none left, then log the winner."""

import math
import time

from optuna.exceptions import StorageInternalError

from pneumonia.data.dataset import DataSet
from pneumonia.errors import TrackingError
from pneumonia.progress import Progress
from pneumonia.search.launch import OtherWorkers
from pneumonia.search.session import Search
from pneumonia.search.winner import finish
from pneumonia.search.worker import Worker
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.run_lifecycle import run_context

_MIN_TRIALS_PER_WORKER = 4
"""The sampler and the pruner learn nothing from trials that run at the same time."""


def run_search(
    search: Search,
    run_config: RunConfig,
    data: DataSet,
    jobs: int | None,
    progress: Progress | None = None,
) -> TrainingResult | None:
    """Train trials until the study has none left, then log and register the winner.

    Args:
        search: The search, opened.
        run_config: What is searched.
        data: The data.
        jobs: Workers on this machine, of which this process is one; None for as many as make the
            search faster.
        progress: Called with what is done, and how many images of how many.

    Returns:
        The result; None where the timeout has passed and other workers continue.

    Raises:
        KeyboardInterrupt: The running trial was put back into the queue.
        TrainingError: No trial completed.
        TrackingError: The tracking store or the study storage stopped answering.
    """
    timeout = run_config.search.timeout
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    others = OtherWorkers(
        search.run,
        ("train", "--resume", search.run.id, "--join"),
        None if jobs is None else jobs - 1,
        min_per_worker=_MIN_TRIALS_PER_WORKER,
        deadline=deadline,
    )
    queue = search.queue
    with run_context(search.run, shared=queue.others_at_work), others:
        try:
            others.start()
            Worker(search.run, run_config, data, queue, others, progress).work(deadline)
            if queue.unsettled():  # the deadline has passed
                others.wait()
                queue.recover()
                if queue.unsettled():
                    return None
            return finish(search.run, run_config, data, queue, search.claims, progress)
        except StorageInternalError as error:
            # The connection broke within a statement; only new connections are retried.
            raise TrackingError(
                f"the study storage broke off: {str(error.__cause__ or error).splitlines()[0]}; "
                f"resume with 'pneumonia train --resume {search.run.id}'"
            ) from error
