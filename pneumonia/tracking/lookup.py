"""Looking runs up, at once: who asks here does not wait for a store that is away."""

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from pneumonia.errors import TrackingError
from pneumonia.tracking.outbox import outbox
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import shown_uri

_SCORED = "data.scored"
"""Tag of the test images that a run has scored, by digest."""


def runs_at_work() -> list[Run]:
    """Every run that counts as running, in all experiments, the oldest first.

    Raises:
        TrackingError: The store does not answer.
    """
    client = outbox().client
    try:
        identifiers = [item.experiment_id for item in search_all(client.search_experiments)]
        if not identifiers:
            return []
        found = search_all(
            client.search_runs,
            identifiers,
            "attributes.status = 'RUNNING'",
            order_by=["attributes.start_time", "attributes.run_id"],
        )
        return [Run(run) for run in found]
    except (MlflowException, OSError) as error:
        raise _no_answer(error) from error


def existing_run(run_id: str) -> Run | None:
    """The run of an id; None where the store has none, or it was deleted.

    Raises:
        TrackingError: The store does not answer.
    """
    try:
        found = outbox().client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise _no_answer(error) from error
    except OSError as error:
        raise _no_answer(error) from error
    return None if found.info.lifecycle_stage == LifecycleStage.DELETED else Run(found)


def final_metrics(run: Run) -> dict[str, float]:
    """Each metric of a run, as it was logged last."""
    client = run.outbox.client
    run.outbox.flush(wait=True)
    return dict(run.outbox.ask(lambda: client.get_run(run.id)).data.metrics)


def count_scored(run: Run, digest: str) -> int:
    """Note that a run scores test images, and count the runs that did, this one included.

    A test set that is scored again and again is chosen by, and its results flatter.

    Args:
        run: The run.
        digest: Of the labelled test images.

    Raises:
        TrackingError: The store does not come back.
    """
    run.tag({_SCORED: digest})
    client = run.outbox.client

    def runs_that_did() -> set[str]:
        identifiers = [item.experiment_id for item in search_all(client.search_experiments)]
        query = f"tags.`{_SCORED}` = '{digest}'"
        return {str(r.info.run_id) for r in search_all(client.search_runs, identifiers, query)}

    return len(run.outbox.ask(runs_that_did) | {run.id})


def _no_answer(error: Exception) -> TrackingError:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return TrackingError(f"the tracking store {shown_uri()!r} cannot say ({first}): try again")
