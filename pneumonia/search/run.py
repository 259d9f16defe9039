"""Conducting a search: this process works on the study until the study has its winner."""

from optuna.exceptions import StorageInternalError

from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet
from pneumonia.errors import TrackingError
from pneumonia.search.session import Search
from pneumonia.search.winner import finish
from pneumonia.search.worker import Worker
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.runs import run_context


def run_search(
    search: Search, run_config: RunConfig, data: DataSet, progress: Progress | None = None
) -> TrainingResult | None:
    """Train trials until the study has none left; then see to its winner.

    Returns:
        The result; None where the time is over and other workers go on.

    Raises:
        KeyboardInterrupt: The present trial was put back into the queue.
        TrainingError: No trial completed.
        TrackingError: The tracking store went away and did not come back, or the study's did.
    """
    queue = search.queue
    with run_context(search.run, shared=queue.others_at_work):
        try:
            Worker(search.run, run_config, data, queue, progress).work()
            if queue.unsettled():
                return None
            return finish(search.run, run_config, data, queue, search.claims, progress)
        except StorageInternalError as error:
            # Where it was away for a while it was waited for; this was in the middle of an answer.
            raise TrackingError(
                f"the study storage broke off ({str(error.__cause__ or error).splitlines()[0]}): "
                f"go on with 'pneumonia train --resume {search.run.id}'"
            ) from error
