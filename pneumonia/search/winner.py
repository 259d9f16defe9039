"""The winner of a study: chosen by validation, scored, logged and registered once."""

import logging
import time
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet, Images, preprocessing_of
from pneumonia.errors import TrainingError
from pneumonia.evaluation.study_figures import (
    Importance,
    optimisation_history,
    parameter_importance,
)
from pneumonia.evaluation.trial_figures import (
    TrialShown,
    parallel_coordinates,
    slices,
    trial_curves,
)
from pneumonia.progress import Progress
from pneumonia.search.importance import importance_sentence, importances_of
from pneumonia.search.page import study_page
from pneumonia.search.queue import TrialQueue
from pneumonia.search.report import count_states, result_of, trials_table
from pneumonia.search.study import RESULT, RUN
from pneumonia.search.trials import number_of, reason_of, state_of
from pneumonia.tracking.epochs import log_best
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.results import TrainingResult, description, log_result
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.runs import Run, find_run
from pneumonia.tracking.training import read_network, train_in_run
from pneumonia.training.loop import Trained

log = logging.getLogger(__name__)


def finish(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    queue: TrialQueue,
    claims: TrialQueue,
    progress: Progress | None = None,
) -> TrainingResult:
    """Log the winner, or wait until another worker has logged it.

    Args:
        run: The search's run, which ends with its winner.
        run_config: What was searched.
        data: The data.
        queue: The study's trials.
        claims: A queue with one trial. The worker that takes it logs the winner; if it dies,
            another worker takes the trial.
        progress: Called with how many images are decoded.

    Raises:
        TrainingError: No trial completed.
        TrackingError: The tracking store stopped answering.
    """

    def log_winner(_claim: optuna.Trial) -> float:
        result = _log_winner(run, run_config, data, queue, progress)
        run.end("FINISHED", "complete")
        run.outbox.flush(wait=True)
        queue.study.set_user_attr(RESULT, result.as_json())
        return 0.0

    while not (known := queue.study.user_attrs.get(RESULT)):
        claims.recover()
        if claims.run_next(log_winner):
            continue
        if not claims.unsettled() and result_of(queue.study) is None:
            raise TrainingError(
                "no worker could log the winner: each one stopped before it finished"
            )
        time.sleep(0.5)
    return TrainingResult.from_json(known)


def reopen(study: optuna.Study) -> None:
    """Remove the result and its run from the study, which continues in another run."""
    study.set_user_attr(RUN, None)
    study.set_user_attr(RESULT, None)


def _log_winner(
    run: Run, run_config: RunConfig, data: DataSet, queue: TrialQueue, progress: Progress | None
) -> TrainingResult:
    experiment, trials = run_config.experiment, queue.trials()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    winner = queue.best()
    if winner is None:
        reasons = [reason_of(t) or state_of(t) for t in trials]
        raise TrainingError(f"no trial of {len(trials)} completed: {reasons[-1]}")
    # A worker that died may have logged a part of this; a continued run logs nothing twice.
    run.continued = True
    _deliver_leftovers(run, trials)
    settings = experiment.training.with_values(**winner.params)
    child = find_run(winner.user_attrs["run_id"])
    number = str(number_of(winner))
    run.tag({"winner.run_id": child.id, "winner.trial": number})
    run.log_parameters({f"winner/{key}": value for key, value in winner.params.items()})
    importances = importances_of(queue.study)
    if page := study_page(queue.study, f"val/{settings.metric}"):
        run.log_text(page, "figures/search.html")
    _log_figures(run, trials, importances, settings, number_of(winner), run_config.search.folds)
    images = data.open(preprocessing_of(settings), progress)
    trained = _trained(run, run_config, data, images, winner, progress)
    result = log_result(
        run, data, images, settings, trained, register_winner=run_config.register_winner
    )
    table = trials_table(queue, list(experiment.space), run.experiment_id)
    link = f"[Trial {number}](#/experiments/{run.experiment_id}/runs/{child.id})"
    found = f"{link} won among {count_states(trials)}. {importance_sentence(importances)}\n"
    run.set_description(description(settings, data, trained, result, found) + f"\n{table}")
    if run_config.search.keep_checkpoints == "winner":
        _drop_checkpoints([t for t in complete if t.number != winner.number])
    return result


def _trained(
    run: Run,
    run_config: RunConfig,
    data: DataSet,
    images: Mapping[str, Images],
    winner: FrozenTrial,
    progress: Progress | None,
) -> Trained:
    """The winner as it was trained; trained now where trials were scored by folds."""
    settings = run_config.experiment.training.with_values(**winner.params)
    if run_config.search.folds > 1:
        log.info("training the winner on the training images, in the search's own run")
        trained = train_in_run(run, settings, data, images, progress)
        run.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
        return trained
    attributes = winner.user_attrs
    network = read_network(find_run(attributes["run_id"]), settings)
    trained = Trained(network, attributes["history"], attributes["best_epoch"], [])
    log_best(run, settings, trained.best)
    return trained


def _deliver_leftovers(run: Run, trials: list[FrozenTrial]) -> None:
    """Deliver what dead workers of this machine had not logged, and remove their local files."""
    for trial in trials:
        if child := trial.user_attrs.get("run_id"):
            run.outbox.adopt(child)
            LocalState(child).remove()


def _drop_checkpoints(losers: list[FrozenTrial]) -> None:
    """Remove the checkpoints of other trials: two workers may each have had the best at once."""
    for trial in losers:
        child = find_run(trial.user_attrs["run_id"])
        if child.has_checkpoint():
            child.drop_checkpoint()


def _log_figures(
    run: Run,
    trials: list[FrozenTrial],
    importances: Sequence[Importance],
    settings: TrainingSettings,
    best: int,
    folds: int,
) -> None:
    metric = f"val/{settings.metric}"
    figure = optimisation_history(
        [trial.value for trial in trials],
        [state_of(trial) for trial in trials],
        metric=metric,
        maximize=settings.higher_is_better,
    )
    run.log_figure(figure, "optimisation_history")
    run.log_figure(parameter_importance(importances, metric=metric), "parameter_importance")
    shown = [_shown(trial) for trial in trials]
    step = "fold" if folds > 1 else "epoch"
    run.log_figure(trial_curves(shown, best, metric=metric, step=step), "trial_curves")
    run.log_figure(slices(shown, best, metric=metric), "slices")
    figure = parallel_coordinates(shown, best, metric=metric, maximize=settings.higher_is_better)
    run.log_figure(figure, "parallel_coordinates")


def _shown(trial: FrozenTrial) -> TrialShown:
    logarithmic = frozenset(
        name for name, of in trial.distributions.items() if getattr(of, "log", False)
    )
    value = trial.value if trial.state == TrialState.COMPLETE else None
    number = number_of(trial)
    return TrialShown(number, value, trial.intermediate_values, trial.params, logarithmic)
