"""Running an experiment: one training run, or an Optuna study over the experiment's space."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from pneumonia.checking import as_parameters
from pneumonia.data.cache import Progress
from pneumonia.data.dataset import DataSet, Images
from pneumonia.data.preprocessing import Preprocessing
from pneumonia.errors import PneumoniaError, TrainingError, UsageError
from pneumonia.evaluation.study_figures import optimisation_history, parameter_importance
from pneumonia.search.experiment import Experiment
from pneumonia.search.outcome import Outcome, in_words, log_outcome
from pneumonia.search.space import inside, suggest
from pneumonia.search.study import STATES, SearchSettings, open_study, short, trials_table
from pneumonia.tracking.runs import Run, find_run
from pneumonia.training.loop import Trained, build_network, train
from pneumonia.training.settings import TrainingSettings
from pneumonia.training.state import Epoch

log = logging.getLogger(__name__)


def run_experiment(
    run: Run,
    experiment: Experiment,
    data: DataSet,
    search: SearchSettings,
    *,
    registering: bool,
    progress: Progress | None = None,
) -> Outcome:
    """Train, or search and take the winner; then score, log and register it.

    Raises:
        TrainingError: Training failed, or no trial of the search completed.
        UsageError: The study exists and is not to be resumed, or cannot be.
    """
    run.log_data_set(data)
    run.log_parameters(as_parameters(experiment.training))
    run.log_parameters(as_parameters(experiment.data))
    run.log_parameters({"experiment": experiment.name, "trials": search.trials})
    if search.trials > 1 or search.resume:
        if not experiment.space:
            raise UsageError(
                f"experiment {experiment.name!r} has no [space] left to search: use --trials 1, or "
                "give it one"
            )
        return _Search(run, experiment, data, search, progress).conduct(registering=registering)
    settings = experiment.training
    images = _open(data, settings, progress)
    trained = train(settings, images, partial(log_epoch, run, settings))
    _log_remarks(run, trained)
    run.log_checkpoint(trained.network.state_dict(), data.settings.class_names)
    outcome = log_outcome(run, data, images, settings, trained, registering=registering)
    run.tag({"trial.state": "complete"})
    run.describe(describe(settings, data, trained, outcome))
    return outcome


def describe(settings: TrainingSettings, data: DataSet, trained: Trained, outcome: Outcome) -> str:
    """The run's description in Markdown."""
    value = trained.best[f"val/{settings.metric}"]
    return (
        f"**{settings.network}** on {data.name}: validation {settings.metric} **{value:.4f}** at "
        f"epoch {trained.best_epoch} of {len(trained.history)}.\n\n"
        f"Test, scored once: {in_words(outcome)} (95 % Wilson intervals).\n\n"
        f"Model: `{outcome.model_uri}` ({outcome.verdict}).\n"
    )


class _Search:
    """One study, its parent run, and the best trial so far."""

    def __init__(
        self,
        run: Run,
        experiment: Experiment,
        data: DataSet,
        search: SearchSettings,
        progress: Progress | None,
    ) -> None:
        self.run, self.experiment, self.data, self.search = run, experiment, data, search
        self.progress = progress
        self.metric = experiment.training.metric
        self.study = open_study(experiment, search, data.digest, run.id)

    def conduct(self, *, registering: bool) -> Outcome:
        """Run the trials that are left, then log the winner."""
        self.run.tag({"study": self.study.study_name})
        done = [t for t in self.study.trials if t.state.is_finished()]
        if not self.study.trials:
            # The experiment's own settings first: a search never ends worse than they are.
            point = inside(self.experiment.space, self.experiment.training)
            self.study.enqueue_trial(point, skip_if_exists=True)
        left = self.search.trials - len(done)
        if left > 0:
            self.study.optimize(
                self._objective,
                n_trials=left,
                timeout=self.search.timeout,
                catch=(PneumoniaError,),
                callbacks=[lambda _study, trial: self._after(trial)],
            )
        complete = [t for t in self.study.trials if t.state == TrialState.COMPLETE]
        if not complete:
            reasons = [t.user_attrs.get("reason", STATES[t.state]) for t in self.study.trials]
            raise TrainingError(
                f"no trial of {len(reasons)} completed: {reasons[-1] if reasons else 'none began'}"
            )
        return self._log_winner(self.study.best_trial, registering=registering)

    def _objective(self, trial: optuna.Trial) -> float:
        name = f"{self.experiment.training.network}-t{trial.number:03d}"
        child = self.run.child(name, {"study": self.study.study_name, "trial": str(trial.number)})
        trial.set_user_attr("run_id", child.id)
        try:
            drawn = suggest(trial, self.experiment.space)
            child.log_parameters(drawn)
            settings = replace(self.experiment.training, **drawn)
            log.info("%s: %s", name, ", ".join(f"{key}={short(drawn[key])}" for key in drawn))

            def on_epoch(epoch: Epoch) -> None:
                log_epoch(child, settings, epoch)
                trial.report(epoch[f"val/{self.metric}"], int(epoch["epoch"]))
                if trial.should_prune():
                    raise optuna.TrialPruned

            trained = train(settings, _open(self.data, settings, self.progress), on_epoch)
        except optuna.TrialPruned:
            child.end("KILLED", "pruned")
            raise
        except KeyboardInterrupt:
            child.end("KILLED", "interrupted")
            raise
        except Exception as error:
            trial.set_user_attr("reason", str(error))
            child.tag({"error": str(error)[:5000]})
            child.end("FAILED", "failed")
            if isinstance(error, (ValueError, RuntimeError)):
                raise TrainingError(f"{type(error).__name__}: {error}") from error
            raise
        return self._keep(trial, child, settings, trained)

    def _keep(
        self, trial: optuna.Trial, child: Run, settings: TrainingSettings, trained: Trained
    ) -> float:
        """Record a completed trial, and its checkpoint if it is the best so far."""
        value = trained.best[f"val/{self.metric}"]
        child.log_metrics(
            {
                f"best/{key.removeprefix('val/')}": number
                for key, number in trained.best.items()
                if key.startswith("val/")
            }
        )
        trial.set_user_attr("history", trained.history)
        trial.set_user_attr("best_epoch", trained.best_epoch)
        finished = [t for t in self.study.trials if t.state == TrialState.COMPLETE]
        leader = self.study.best_trial if finished else None
        best_so_far = settings.better(value, leader.value if leader else None)
        if best_so_far or self.search.keep_checkpoints == "all":
            child.log_checkpoint(trained.network.state_dict(), self.data.settings.class_names)
        if best_so_far and leader and self.search.keep_checkpoints == "winner":
            find_run(leader.user_attrs["run_id"]).drop_checkpoint()
        if best_so_far:
            best = {key: number for key, number in trained.best.items() if key.startswith("val/")}
            self.run.log_metrics(best, step=trial.number)
        child.end("FINISHED", "complete")
        return value

    def _after(self, trial: FrozenTrial) -> None:
        state = STATES[trial.state]
        reason = trial.user_attrs.get("reason", "")
        value = "" if trial.value is None else f", {self.metric} {trial.value:.4f}"
        log.info("trial %d %s%s%s", trial.number, state, value, f": {reason}" if reason else "")
        self.run.describe(self._table())

    def _table(self) -> str:
        return trials_table(self.study, list(self.experiment.space), self.run.experiment_id)

    def _log_winner(self, winner: FrozenTrial, *, registering: bool) -> Outcome:
        run, settings = self.run, replace(self.experiment.training, **winner.params)
        child = find_run(winner.user_attrs["run_id"])
        run.tag({"winner.run_id": child.id, "winner.trial": str(winner.number)})
        run.log_parameters({f"winner/{key}": value for key, value in winner.params.items()})
        network = build_network(settings)
        network.load_state_dict(child.read_checkpoint())
        network.to(memory_format=torch.channels_last)
        history = winner.user_attrs["history"]
        trained = Trained(network.eval(), history, winner.user_attrs["best_epoch"], [])
        for epoch in history:
            curve = {
                f"winner/{key.replace('/', '_')}": value
                for key, value in epoch.items()
                if key.startswith(("train/", "val/"))
            }
            run.log_metrics(curve, step=int(epoch["epoch"]))
        self._log_study_figures()
        images = _open(self.data, settings, self.progress)
        outcome = log_outcome(run, self.data, images, settings, trained, registering=registering)
        run.tag({"trial.state": "complete"})
        counts = Counter(STATES[trial.state] for trial in self.study.trials)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        run.describe(
            describe(settings, self.data, trained, outcome)
            + f"\nTrial {winner.number} won among {states}.\n\n{self._table()}"
        )
        return outcome

    def _log_study_figures(self) -> None:
        trials = self.study.trials
        figure = optimisation_history(
            [t.value if t.state == TrialState.COMPLETE else None for t in trials],
            [STATES[t.state] for t in trials],
            metric=f"val/{self.metric}",
            maximize=self.experiment.training.higher_is_better,
        )
        self.run.log_figure(figure, "optimisation_history")
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        importances: Mapping[str, float] = {}
        if len(complete) > 3 and len({t.value for t in complete}) > 1:
            importances = optuna.importance.get_param_importances(self.study)
        self.run.log_figure(
            parameter_importance(importances, metric=f"val/{self.metric}"), "parameter_importance"
        )


def _open(
    data: DataSet, settings: TrainingSettings, progress: Progress | None
) -> dict[str, Images]:
    return data.open(Preprocessing(settings.image_size, settings.resize), progress)


def log_epoch(run: Run, settings: TrainingSettings, epoch: Epoch) -> None:
    """Log one epoch, and say it in a line."""
    run.log_epoch(epoch)
    log.info(
        "%s epoch %d/%d  train loss %.4f  val loss %.4f  accuracy %.4f  auc %.4f  "
        "sensitivity %.3f  specificity %.3f  %.0f images/s  %.1f s",
        run.name,
        epoch["epoch"],
        settings.epochs,
        epoch["train/loss"],
        epoch["val/loss"],
        epoch["val/accuracy"],
        epoch["val/auc"],
        epoch["val/sensitivity"],
        epoch["val/specificity"],
        epoch["speed/images_per_second"],
        epoch["speed/epoch_seconds"],
    )


def _log_remarks(run: Run, trained: Trained) -> None:
    if trained.remarks:
        run.log_text("\n".join(trained.remarks) + "\n", "weights.txt")
        log.info(
            "initial weights: %d tensors did not match, such as %s",
            len(trained.remarks),
            trained.remarks[0],
        )
