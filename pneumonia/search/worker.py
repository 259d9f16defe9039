"""A worker: it takes trials of a study, trains them, and goes on where others died."""

import logging
import math
import time

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pneumonia.config.training import TrainingSettings
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, preprocessing_of
from pneumonia.errors import PneumoniaError, TrackingError
from pneumonia.search.queue import TrialQueue, first_number, reason_of, state_of
from pneumonia.search.ranking import short, trials_table
from pneumonia.search.space import suggest
from pneumonia.search.study import sampler_of
from pneumonia.tracking.epochs import checkpoint_of, log_epoch
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.runs import Run, continue_run, find_run, left_running
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.loop import Trained, train

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0


class Worker:
    """Works on one study; any number of them may, on any number of machines."""

    def __init__(
        self,
        run: Run,
        run_config: RunConfig,
        data: DataSet,
        queue: TrialQueue,
        progress: Progress | None,
    ) -> None:
        self.run, self.queue, self.study = run, queue, queue.study
        self.experiment, self.search = run_config.experiment, run_config.search
        self.data, self.progress = data, progress
        self.metric = self.experiment.training.metric

    def work(self) -> None:
        """Train trials until none is left, or ``timeout`` has passed.

        Waits for trials that others have, since they may die.

        Raises:
            KeyboardInterrupt: The present trial was put back into the queue.
            TrackingError: The same, since the tracking store does not come back.
        """
        timeout = math.inf if self.search.timeout is None else self.search.timeout
        deadline = time.monotonic() + timeout
        while True:
            self.queue.recover()
            late = time.monotonic() > deadline
            if not late and (trial := self.queue.take()):
                self._run(trial)
            elif late or not self.queue.unsettled():
                return
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _run(self, trial: optuna.Trial) -> None:
        child, number = None, first_number(self.queue.stored(trial))
        with self.queue.beating(trial):
            try:
                child = self._child_of(trial, number)
                self._work_on(trial, child, number)
            except (KeyboardInterrupt, TrackingError):
                if child and not self.queue.stored(trial).state.is_finished():
                    child.end("KILLED", "interrupted")
                self.queue.give_back(trial)
                raise
            except UpdateFinishedTrialError:
                log.warning("trial %d is another worker's: no word had come from this one", number)
                return
        child.local.remove()
        self._tell_of(self.queue.stored(trial))

    def _work_on(self, trial: optuna.Trial, child: Run, number: int) -> None:
        try:
            settings, trained = self._train(trial, child, number)
        except optuna.TrialPruned:
            child.end("KILLED", "pruned")
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except TrackingError:
            raise
        except (PneumoniaError, ValueError, RuntimeError) as error:
            child.tag({"error": f"{type(error).__name__}: {error}"[:5000]})
            child.end("FAILED", "failed")
            self.queue.fail(trial, str(error))
        else:
            self._complete(trial, child, settings, trained)

    def _child_of(self, trial: optuna.Trial, number: int) -> Run:
        """The trial's run: a new one, or that of the worker that had the trial before."""
        own = {"study": self.study.study_name, "trial": str(number)}
        begun = trial.user_attrs.get("run_id")
        if not begun and trial.number != number:
            # The worker before may have died between making the run and noting it.
            begun = left_running(self.run.experiment_id, {"mlflow.parentRunId": self.run.id, **own})
        if begun:
            child = continue_run(begun)
        else:
            child = self.run.child(f"{self.experiment.training.network}-t{number:03d}", own)
        trial.set_user_attr("run_id", child.id)
        return child

    def _train(
        self, trial: optuna.Trial, child: Run, number: int
    ) -> tuple[TrainingSettings, Trained]:
        self.study.sampler = sampler_of(number, self.experiment.training.seed)
        drawn = suggest(trial, self.experiment.space)
        child.log_parameters(drawn)
        settings = self.experiment.training.with_values(**drawn)
        log.info("%s: %s", child.name, ", ".join(f"{key}={short(drawn[key])}" for key in drawn))

        def on_epoch(epoch: Epoch) -> None:
            # First of all, since it fails where the trial is another worker's by now.
            trial.report(epoch[f"val/{self.metric}"], int(epoch["epoch"]))
            log_epoch(child, settings, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        images = self.data.open(preprocessing_of(settings), self.progress)
        checkpoint = checkpoint_of(child, settings, self.data)
        return settings, train(settings, images, on_epoch, checkpoint)

    def _complete(
        self, trial: optuna.Trial, child: Run, settings: TrainingSettings, trained: Trained
    ) -> None:
        """Record a completed trial, and its checkpoint if it is the best so far."""
        value = trained.best[f"val/{self.metric}"]
        best = {key: number for key, number in trained.best.items() if key.startswith("val/")}
        child.log_metrics({f"best/{key.removeprefix('val/')}": best[key] for key in best})
        trial.set_user_attr("history", trained.history)
        trial.set_user_attr("best_epoch", trained.best_epoch)
        leader = self.queue.best()
        leads = settings.better(value, leader.value if leader else None)
        # One that is as good may win as well: its number may be the lower.
        may_win = leads or (leader is not None and value == leader.value)
        if may_win or self.search.keep_checkpoints == "all":
            child.log_checkpoint(trained.network.state_dict(), self.data.settings.class_names)
        child.end("FINISHED", "complete")
        self.study.tell(trial, value, skip_if_finished=True)
        if leads:
            self.run.log_metrics(best, step=first_number(self.queue.stored(trial)))
            if leader and self.search.keep_checkpoints == "winner":
                find_run(leader.user_attrs["run_id"]).drop_checkpoint()

    def _tell_of(self, trial: FrozenTrial) -> None:
        value = "" if trial.value is None else f", {self.metric} {trial.value:.4f}"
        why = f": {reason_of(trial)}" if reason_of(trial) else ""
        log.info("trial %d %s%s%s", first_number(trial), state_of(trial), value, why)
        trials = self.queue.trials()
        leader = self.queue.best()
        log.info(
            "study %s: %d of %d trials done%s",
            self.study.study_name,
            sum(t.state.is_finished() for t in trials),
            len(trials),
            f", best {self.metric} {leader.value:.4f} (trial {first_number(leader)})"
            if leader
            else "",
        )
        self.run.set_description(
            trials_table(self.queue, list(self.experiment.space), self.run.experiment_id)
        )
