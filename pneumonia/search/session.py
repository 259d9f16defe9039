"""Open a search: begin it, join it beside other workers, or resume it."""

from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from pneumonia.config.space import point_inside
from pneumonia.data.dataset import DataSet
from pneumonia.errors import UsageError
from pneumonia.processes import this_process
from pneumonia.search.queue import TrialQueue
from pneumonia.search.report import result_of
from pneumonia.search.storage import open_storage, queue_of
from pneumonia.search.study import (
    RUN,
    WINNER,
    await_ready,
    check_same,
    create_study,
    known_studies,
    open_study,
)
from pneumonia.search.winner import reopen
from pneumonia.tracking.run_config import RunConfig, log_run_config
from pneumonia.tracking.run_lifecycle import NewRun, continue_run, left_running, start_run
from pneumonia.tracking.runs import Run


@dataclass(frozen=True, slots=True)
class Search:
    """A search that this process works on.

    Attributes:
        run: The MLflow run whose children are the trials.
        queue: The study's trials.
        claims: A queue with one trial; the worker that takes it logs the winner.
    """

    run: Run
    queue: TrialQueue
    claims: TrialQueue


def begin(run_config: RunConfig, data: DataSet, new: NewRun) -> Search:
    """Create the study and its run.

    Raises:
        UsageError: The study exists, or the experiment has nothing to search.
    """
    study = _create(run_config, data)
    if study is None:
        raise UsageError(
            f"study {run_config.search.study!r} exists: continue it with --resume, work on it "
            "beside other workers with --join, or choose another name"
        )
    return _prepare(study, run_config, data, start_run(new))


def join(run_config: RunConfig, data: DataSet, new: NewRun) -> Search:
    """Work on the study beside other workers; the first one creates it.

    Raises:
        UsageError: It has other settings or data, or its creation was not finished.
    """
    if study := _create(run_config, data):
        return _prepare(study, run_config, data, start_run(new))
    study = _open(run_config, data)
    if not await_ready(study):
        raise UsageError(
            f"the process that was creating study {study.study_name!r} died: use --resume first, "
            "which finishes it"
        )
    return _opened(study, run_config)


def resume(run_config: RunConfig, data: DataSet, new: NewRun, run_id: str = "") -> Search:
    """Continue a study in the run it was begun in.

    A study that has its winner already continues in a new run, if trials are left or more are
    asked for.

    Args:
        run_config: What is searched.
        data: The data.
        new: The run to start where a new one is needed.
        run_id: The run that was asked for, if one was.

    Raises:
        UsageError: There is no such study, or it was begun with other settings or data.
    """
    study = _open(run_config, data)
    if not await_ready(study):
        # Its creator may have died before it stored the run id in the study.
        begun = run_id or left_running(new.experiment_id, {"study": study.study_name})
        run = continue_run(begun) if begun else start_run(new)
        return _prepare(study, run_config, data, run)
    queue = queue_of(study, run_config.search.storage)
    if result_of(study) is None:
        queue.fill(run_config.search.trials)
        return _opened(study, run_config)
    waiting = any(trial.state == TrialState.WAITING for trial in queue.trials())
    if not waiting and len(queue.trials()) >= run_config.search.trials:
        raise UsageError(
            f"study {study.study_name!r} is finished, with {len(queue.trials())} trials: ask for "
            "more with --trials"
        )
    _store_creator(study)
    reopen(study)
    return _prepare(study, run_config, data, start_run(new))


def _create(run_config: RunConfig, data: DataSet) -> optuna.Study | None:
    experiment = run_config.experiment
    if not experiment.space:
        raise UsageError(
            f"experiment {experiment.name!r} has no [space] left to search: use --trials 1, or "
            "add one"
        )
    study = create_study(experiment, run_config.search, data.digest)
    if study is not None:
        _store_creator(study)
    return study


def _store_creator(study: optuna.Study) -> None:
    """Store which process creates the study."""
    for key, value in this_process().items():
        study.set_user_attr(key, value)


def _open(run_config: RunConfig, data: DataSet) -> optuna.Study:
    search = run_config.search
    study = open_study(search.study, search.storage)
    if study is None:
        listed = ", ".join(known_studies(open_storage(search.storage))[-5:]) or "none"
        raise UsageError(f"no study {search.study!r} to resume: the storage has {listed}")
    check_same(study, run_config.experiment, search, data.digest)
    return study


def _prepare(study: optuna.Study, run_config: RunConfig, data: DataSet, run: Run) -> Search:
    """Log the run's configuration, and fill the queue; the study is ready once it names its run."""
    search = run_config.search
    try:
        log_run_config(run, run_config, data)
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    queue, claims = queue_of(study, search.storage), _claims(study, run, search.storage)
    claims.fill(1)
    # The experiment's own settings first, so that the winner is never worse than they are.
    point = point_inside(run_config.experiment.space, run_config.experiment.training)
    queue.fill(search.trials, first=point)
    study.set_user_attr(RUN, run.id)
    return Search(run, queue, claims)


def _opened(study: optuna.Study, run_config: RunConfig) -> Search:
    storage = run_config.search.storage
    run = continue_run(study.user_attrs[RUN])
    return Search(run, queue_of(study, storage), _claims(study, run, storage))


def _claims(study: optuna.Study, run: Run, storage: str) -> TrialQueue:
    """The study of one trial beside the study, for one run's winner."""
    beside = optuna.create_study(
        study_name=f"{study.study_name}{WINNER}{run.id[:8]}",
        storage=open_storage(storage),
        direction=study.direction,
        load_if_exists=True,
    )
    return queue_of(beside, storage)
