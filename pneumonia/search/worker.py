"""A worker: it takes trials of a study, trains them, and continues those of dead workers."""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from pneumonia.config.training import TrainingSettings
from pneumonia.cores import keeping_share
from pneumonia.data.dataset import DataSet, preprocessing_of
from pneumonia.errors import PneumoniaError, TrackingError, TrainingError
from pneumonia.progress import Progress
from pneumonia.search.folds import Folds
from pneumonia.search.launch import OtherWorkers
from pneumonia.search.queue import TrialFailedError, TrialQueue
from pneumonia.search.report import short, trials_table
from pneumonia.search.space import suggest
from pneumonia.search.study import sampler_of
from pneumonia.search.trials import number_of, reason_of, state_of
from pneumonia.tracking.epochs import EpochLog, checkpoint_of, duration
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.run_config import RunConfig
from pneumonia.tracking.run_lifecycle import children_of, continue_run, left_running
from pneumonia.tracking.runs import Run, find_run
from pneumonia.tracking.training import log_remarks
from pneumonia.training.checkpoint import Epoch
from pneumonia.training.device import choose_engine
from pneumonia.training.loop import Trained, train

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0


class Worker:
    """One of any number of workers on a study, on any number of machines."""

    def __init__(
        self,
        run: Run,
        run_config: RunConfig,
        data: DataSet,
        queue: TrialQueue,
        others: OtherWorkers,
        progress: Progress | None,
    ) -> None:
        self.run, self.queue, self.study = run, queue, queue.study
        self.others = others
        self.experiment, self.search = run_config.experiment, run_config.search
        self.data, self.progress = data, progress
        self.metric = self.experiment.training.metric
        training = self.experiment.training
        self.device = choose_engine(training.device, training.precision).device
        self._overtaken: FrozenTrial | None = None

    def work(self, deadline: float) -> None:
        """Train trials until none is left, or the deadline has passed.

        Waits for the trials of other workers, since these may die.

        Args:
            deadline: Value of ``time.monotonic`` after which it begins no trial.

        Raises:
            KeyboardInterrupt: The running trial was put back into the queue.
            TrackingError: The tracking store stopped answering; the trial was put back likewise.
        """
        while True:
            self._train_waiting(deadline)
            if time.monotonic() > deadline or not self.queue.unsettled():
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _train_waiting(self, deadline: float) -> None:
        """Train trials until none is waiting; those of dead workers wait again."""
        self.queue.recover()
        if not self.queue.n_waiting():
            return
        with keeping_share():
            while time.monotonic() <= deadline:
                if not self.queue.run_next(self._objective, self._on_end):
                    return
                self.queue.recover()

    def _objective(self, trial: optuna.Trial) -> float:
        """Train one trial in a run of its own; returns its value."""
        child, number = self._child_of(trial), number_of(trial)
        try:
            settings = self._settings_of(trial, child, number)
            if self.search.folds > 1:
                return self._score_by_folds(trial, child, settings)
            return self._complete(child, settings, self._train(trial, child, settings))
        except optuna.TrialPruned:
            # MLflow's own convention: mlflow.optuna.storage maps TrialState.PRUNED to KILLED, and
            # mlflow.pyspark.optuna ends a pruned trial's run with that status.
            child.end("KILLED", "pruned")
            raise
        except (KeyboardInterrupt, TrackingError):
            child.end("KILLED", "interrupted")
            raise
        except OptunaError:  # the storage does not answer, or another worker has taken the trial
            raise
        except (PneumoniaError, ValueError, RuntimeError) as error:
            child.tag({"error": f"{type(error).__name__}: {error}"[:5000]})
            child.end("FAILED", "failed")
            raise TrialFailedError(str(error)) from error

    def _child_of(self, trial: optuna.Trial) -> Run:
        """The trial's run: a new one, or that of the attempt before."""
        number = number_of(trial)
        own = {"study": self.study.study_name, "trial": str(number)}
        begun = trial.user_attrs.get("run_id")
        if not begun and trial.number != number:
            # The former worker may have died between creating the run and storing its id.
            begun = left_running(self.run.experiment_id, {"mlflow.parentRunId": self.run.id, **own})
        if begun:
            child = continue_run(begun)
        else:
            child = self.run.child(f"{self.experiment.training.network}-t{number:03d}", own)
        trial.set_user_attr("run_id", child.id)
        return child

    def _settings_of(self, trial: optuna.Trial, child: Run, number: int) -> TrainingSettings:
        """Draw the trial's settings."""
        self.study.sampler = sampler_of(self.search.sampler, number, self.experiment.training.seed)
        drawn = suggest(trial, self.experiment.space)
        child.log_parameters({"data": self.experiment.data.data, **drawn})
        settings = self.experiment.training.with_values(**drawn)
        log.info("%s: %s", child.name, ", ".join(f"{key}={short(drawn[key])}" for key in drawn))
        return settings

    def _score_by_folds(self, trial: optuna.Trial, child: Run, settings: TrainingSettings) -> float:
        """Train once a fold; returns the mean over folds. No network is kept."""
        folds = Folds(
            child,
            settings,
            self.data,
            self.search.folds,
            keep_networks=False,
            progress=self.progress,
        )
        begun = children_of(child, folds.tag)
        done: list[Mapping[str, float]] = []
        started = time.monotonic()
        mean: dict[str, float] = {}
        for name in folds.names:
            run = begun.get(name)
            if run is not None and folds.is_trained(run):
                log.info("%s is trained already", run.name)
            else:
                run = folds.train(name, run)
            fold = folds.read(name, run)
            done.append(fold.best)
            took = time.monotonic() - started
            self._start_others_if_faster(took / len(done), len(done), self.search.folds)
            mean = {
                key: float(np.mean([best[key] for best in done]))
                for key in fold.best
                if all(key in best for best in done)
            }
            if not math.isfinite(mean.get(self.metric, math.nan)):
                raise TrainingError(f"validation {self.metric} was never a number")
            trial.report(mean[self.metric], len(done))
            child.log_metrics({f"fold/{self.metric}": fold.best[self.metric]}, step=len(done))
            if len(done) < self.search.folds and trial.should_prune():
                child.log_metrics({f"best/{key}": value for key, value in mean.items()})
                raise optuna.TrialPruned
        child.log_metrics({f"best/{key}": value for key, value in mean.items()})
        child.end("FINISHED", "complete")
        return mean[self.metric]

    def _train(self, trial: optuna.Trial, child: Run, settings: TrainingSettings) -> Trained:
        epoch_log = EpochLog(child, settings)

        def on_epoch(epoch: Epoch) -> None:
            # First: it fails if another worker has taken the trial.
            trial.report(epoch[f"val/{self.metric}"], int(epoch["epoch"]))
            epoch_log(epoch)
            self._start_others_if_faster(
                epoch["speed/epoch_seconds"], int(epoch["epoch"]), settings.epochs
            )
            if trial.should_prune():
                raise optuna.TrialPruned

        images = self.data.open(preprocessing_of(settings), self.progress)
        checkpoint = checkpoint_of(child, settings, self.data)
        trained = train(settings, images, on_epoch, checkpoint, progress=self.progress)
        log_remarks(child, trained)
        if not math.isfinite(trained.best[f"val/{self.metric}"]):
            raise TrainingError(f"validation {self.metric} was never a number")
        trial.set_user_attr("history", trained.history)
        trial.set_user_attr("best_epoch", trained.best_epoch)
        return trained

    def _start_others_if_faster(self, seconds: float, n_done: int, n_parts: int) -> None:
        """Start other workers if that makes the search faster.

        Args:
            seconds: Seconds that an epoch, or a fold, of this trial took.
            n_done: Epochs or folds of this trial that are trained.
            n_parts: Epochs or folds of a trial.
        """
        if not self.others.number_is_open:
            return
        n_waiting = self.queue.n_waiting()
        seconds_left = seconds * (n_parts * (n_waiting + 1) - n_done)
        self.others.start_if_faster(self.device, n_waiting, seconds_left)

    def _complete(self, child: Run, settings: TrainingSettings, trained: Trained) -> float:
        """Log a trained trial, with its checkpoint if it is the best so far; returns its value."""
        value = trained.best[f"val/{self.metric}"]
        leader = self.queue.best()
        leads = settings.better(value, leader.value if leader else None)
        # An equally good trial may win too: of equal trials the lowest number wins.
        may_win = leads or (leader is not None and value == leader.value)
        if may_win or self.search.keep_checkpoints == "all":
            child.log_checkpoint(trained.network.state_dict(), self.data.settings.class_names)
        child.end("FINISHED", "complete")
        self._overtaken = leader if leads else None
        return value

    def _on_end(self, trial: FrozenTrial) -> None:
        """Remove the local files of a trial whose end is stored, and log the study's state."""
        LocalState(trial.user_attrs["run_id"]).remove()
        if self._overtaken and self.search.keep_checkpoints == "winner":
            find_run(self._overtaken.user_attrs["run_id"]).drop_checkpoint()
        self._overtaken = None
        value = "" if trial.value is None else f", {self.metric} {trial.value:.4f}"
        why = f": {reason_of(trial)}" if reason_of(trial) else ""
        log.info("trial %d %s%s%s", number_of(trial), state_of(trial), value, why)
        trials, leader = self.queue.trials(), self.queue.best()
        done = sum(t.state.is_finished() for t in trials)
        best = ""
        if leader is not None and leader.value is not None:
            self.run.log_metrics({"search/best": leader.value}, step=number_of(trial))
            if number_of(leader) == number_of(trial) and self.search.folds == 1:
                # Steps up to 0, since the winner's own metrics are logged at its best epoch.
                so_far = {f"best/{self.metric}": leader.value}
                self.run.log_metrics(so_far, step=done - len(trials))
            best = f", best {self.metric} {leader.value:.4f} (trial {number_of(leader)})"
        name = self.study.study_name
        left = _seconds_left(trials)
        remaining = f", about {duration(left)} left" if left else ""
        log.info("study %s: %d of %d trials done%s%s", name, done, len(trials), best, remaining)
        self.run.set_description(
            trials_table(self.queue, list(self.experiment.space), self.run.experiment_id)
        )


def _seconds_left(trials: Sequence[FrozenTrial]) -> float:
    """What is left of a study if its trials go on to take as long and as many workers go on."""
    took = [trial.duration.total_seconds() for trial in trials if trial.duration is not None]
    left = sum(not trial.state.is_finished() for trial in trials)
    n_workers = 1 + sum(trial.state == TrialState.RUNNING for trial in trials)
    return left * sum(took) / len(took) / n_workers if took else 0.0
