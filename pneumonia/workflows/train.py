"""``pneumonia train``: one training run or a search, started, joined or resumed."""

from typing import Any

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.data.dataset import DataSet
from pneumonia.errors import UsageError
from pneumonia.progress import Progress
from pneumonia.search.storage_url import storage_url
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_config import (
    RunConfig,
    kept_tracking_uri,
    run_config_to_resume,
)
from pneumonia.tracking.run_lifecycle import NewRun
from pneumonia.tracking.runs import OnRun, find_run
from pneumonia.tracking.store import choose_experiment, connect
from pneumonia.tracking.store_uri import local_database
from pneumonia.training.distributed import torchrun_ranks
from pneumonia.workflows.prepare import load_data
from pneumonia.workflows.train_once import train_as_follower, train_once


def train(
    *,
    experiment: str = "auto",
    jobs: int | None = None,
    join: bool = False,
    resume: bool = False,
    register: bool = True,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
    **settings: Any,
) -> TrainingResult | None:
    """Train a network, or search for the best settings, and register the winner.

    Args:
        experiment: Name of an experiment file, path of one, or ``auto``.
        jobs: Workers of a search on this machine, of which this process is one; None for as many
            as make the search faster, and for one beside others that ``join``.
        join: Whether to work on the study beside other workers; the first one creates it.
        resume: Whether to continue the study.
        register: Whether to register the winner.
        tracking_uri: MLflow tracking URI; then ``MLFLOW_TRACKING_URI``; then ``./mlflow.db``.
        experiment_name: MLflow experiment to log to; then ``MLFLOW_EXPERIMENT_ID``; then
            ``MLFLOW_EXPERIMENT_NAME``; then ``Default``.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the MLflow run as soon as there is one.
        **settings: Settings by name, such as ``data``, ``epochs`` and ``trials``: those of
            ``TrainingSettings`` and ``DataSettings``, whose others are the experiment's, and
            those of ``SearchSettings``.

    Returns:
        The result; None where ``timeout`` has passed and other workers continue, and on all ranks
        but the first under torchrun.

    Raises:
        PneumoniaError: A setting, the data, training or the tracking store failed.
        KeyboardInterrupt: The run was interrupted; it can be resumed.
    """
    searching = {k: settings.pop(k) for k in SearchSettings.model_fields if k in settings}
    search = SearchSettings(**searching)
    if (resume or join) and not search.study:
        raise UsageError(
            f"--{'join' if join else 'resume'} needs the name of the study: add --study NAME"
        )
    run_config = RunConfig(
        experiment=load_experiment(experiment, settings),
        search=search.with_values(storage=storage_url(search.storage)),
        register_winner=register,
    )
    if search.trials > 1 or (jobs or 1) > 1:
        run_config = run_config.as_search()
    refuse_folds_alone(search, jobs)
    if torchrun_ranks().is_first:
        connect(tracking_uri)
    start = "join" if join else "resume" if resume else "begin"
    return _run(
        run_config,
        start,
        experiment_name=experiment_name,
        jobs=jobs,
        progress=progress,
        on_run=on_run,
    )


def refuse_folds_alone(search: SearchSettings, jobs: int | None) -> None:
    """Refuse folds without a search whose trials they would score.

    Raises:
        UsageError: That is what was asked for.
    """
    if search.folds > 1 and search.trials == 1 and (jobs or 1) == 1 and not search.study:
        raise UsageError(
            "--folds scores the trials of a search: add --trials, or use 'pneumonia cross-validate'"
        )


def resume_run(
    run_id: str,
    *,
    join: bool = False,
    jobs: int | None = None,
    timeout: float | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    on_run: OnRun | None = None,
) -> TrainingResult | None:
    """Continue a run that was stopped, with the settings it was started with.

    Args:
        run_id: The MLflow run of a training or a search.
        join: Whether this process is one worker beside others.
        jobs: Workers of a search on this machine, as ``train`` takes it.
        timeout: Seconds after which a search begins no further trial; else as it was started with.
        tracking_uri: MLflow tracking URI; then the one the run was started with.
        progress: Called with what is done, and how many images of how many.
        on_run: Called with the run that continues.

    Returns:
        As ``train``.

    Raises:
        PneumoniaError: The run cannot be continued, or training failed.
        KeyboardInterrupt: The run was interrupted; it can be resumed again.
    """
    first = torchrun_ranks().is_first
    if first:
        connect(tracking_uri or _present_uri(run_id))
    run_config = run_config_to_resume(run_id, local=not first)
    if run_config.cross_validating:
        raise UsageError(
            f"run {run_id} is a cross-validation: 'pneumonia cross-validate --resume {run_id}' "
            "continues it"
        )
    if run_config.seeds > 1:
        raise UsageError(
            f"run {run_id} trains with several seeds: 'pneumonia train --seeds {run_config.seeds} "
            f"--resume {run_id}' continues it"
        )
    if timeout is not None:
        if not run_config.searching:
            raise UsageError(f"run {run_id} is no search: leave --timeout out")
        searched = run_config.search.with_values(timeout=timeout)
        run_config = run_config.with_values(search=searched)
    start = "join" if join else "resume"
    return _run(run_config, start, run_id=run_id, jobs=jobs, progress=progress, on_run=on_run)


def _present_uri(run_id: str) -> str | None:
    """The store a run was started in, unless that was a file which is no longer there."""
    uri = kept_tracking_uri(run_id)
    database = local_database(uri) if uri else None
    return None if database and not database.is_file() else uri


def _run(
    run_config: RunConfig,
    start: str,
    *,
    run_id: str = "",
    experiment_name: str | None = None,
    jobs: int | None,
    progress: Progress | None,
    on_run: OnRun | None,
) -> TrainingResult | None:
    ranks = torchrun_ranks()
    if ranks.size > 1 and run_config.searching:
        raise UsageError("torchrun trains one network: start a search without it")
    if not ranks.is_first:
        train_as_follower(run_config)
        return None
    # Before the images are decoded, so that a wrong name is reported at once.
    experiment_id = find_run(run_id).experiment_id if run_id else choose_experiment(experiment_name)
    data = load_data(run_config.experiment, progress, quiet=bool(run_id) and start == "join")
    on_run = on_run or (lambda _run: None)
    new = _new_run(run_config, data, experiment_id)
    if not run_config.searching:
        return train_once(run_config, data, new, run_id, progress, on_run)
    # Optuna takes a second to import, which a single training does not need.
    from pneumonia.workflows.search import search

    return search(run_config, data, start, new, run_id, jobs, progress, on_run)


def _new_run(run_config: RunConfig, data: DataSet, experiment_id: str) -> NewRun:
    network, search = run_config.experiment.training.network, run_config.search
    if run_config.searching:
        tags = {"network": network, "kind": "search", "study": search.study}
        return NewRun(f"{network}-{data.name}-x{search.trials}", tags, experiment_id)
    tags = {"network": network, "kind": "train", "world_size": str(torchrun_ranks().size)}
    return NewRun(f"{network}-{data.name}", tags, experiment_id)
