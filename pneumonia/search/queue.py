"""A study as a queue: any number of workers take its trials, and a dead worker's goes on.

The trials of a study are made at once, waiting; so their number is exact however many workers take
them. The coordination is Optuna's own storage: a waiting trial becomes running for one worker only.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState

from pneumonia.processes import described, still_works, this_process

log = logging.getLogger(__name__)

# Heartbeats have been experimental for years; our users can do nothing about it.
warnings.filterwarnings("ignore", category=ExperimentalWarning)

_MOST_ATTEMPTS = 20
take_up_again = RetryHeartbeatStaleTrialCallback(max_retry=_MOST_ATTEMPTS)
"""Puts a trial back into the queue with its parameters; one that takes its worker down again and
again is given up."""

_AGAIN, _REASON = "retry_history", "reason"
_HAND_OVER = timedelta(minutes=5)
"""After this a trial between two workers is lost; longer than clocks of machines differ."""

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class TrialQueue:
    """The trials of a study.

    Attributes:
        study: The study.
    """

    def __init__(self, study: optuna.Study, lock: Path | None) -> None:
        """Open the queue.

        Args:
            study: The study.
            lock: File to lock while trials change hands; for storages that leave that to us
                (sqlite does not lock what is only read).
        """
        self.study = study
        self._storage = study._storage  # noqa: SLF001 - a study does not show its storage
        self._lock = lock

    def fill(self, n_trials: int, first: dict[str, Any] | None = None) -> None:
        """Add waiting trials until there are ``n_trials``; the first may have given parameters."""
        for _ in range(n_trials - len(self.trials())):
            self.study.enqueue_trial(first if first and not self.trials() else {})

    def trials(self) -> list[FrozenTrial]:
        """The study's trials; one that was taken up again counts once, by its last attempt."""
        every = self.study.get_trials(deepcopy=False)
        replaced = {number for trial in every for number in trial.system_attrs.get(_AGAIN, [])}
        return [trial for trial in every if trial.number not in replaced]

    def take(self) -> optuna.Trial | None:
        """Take a waiting trial; None where there is none."""
        with self._alone():
            for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                trial_id = waiting._trial_id  # noqa: SLF001 - what the storage calls it
                # Signed before it is ours: a worker that dies at once must not leave it unsigned.
                self._sign(trial_id)
                try:
                    taken = self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                except UpdateFinishedTrialError:
                    continue
                if taken:
                    self._sign(trial_id)  # another may have signed in the meantime
                    return optuna.Trial(self.study, trial_id)
        return None

    def give_back(self, trial: optuna.Trial) -> None:
        """Put a trial that was interrupted back into the queue."""
        self._again(self.study.trials[trial.number])

    def recover(self) -> int:
        """Put the trials of dead workers back into the queue.

        Those of this machine are known to be dead at once, others by their missing heartbeat.

        Returns:
            How many there were on this machine.
        """
        recovered = 0
        with self._alone():
            for trial in self.running():
                if still_works(trial.user_attrs) is False:
                    log.info(
                        "trial %d was left by %s: it is taken up again",
                        first_number(trial),
                        described(trial.user_attrs),
                    )
                    recovered += self._again(trial)
            fail_stale_trials(self.study)
            for trial in self._lost():
                if self._lock or _age(trial) > _HAND_OVER:
                    take_up_again(self.study, copy.deepcopy(trial))
                    recovered += 1
        return recovered

    def running(self) -> list[FrozenTrial]:
        """The trials that some worker has."""
        return self.study.get_trials(deepcopy=True, states=(TrialState.RUNNING,))

    def unsettled(self) -> list[FrozenTrial]:
        """The trials that some worker has, and those lost between two workers."""
        return [*self.running(), *self._lost()]

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Record a trial as failed, with its reason; it is not run again."""
        trial.set_user_attr(_REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _lost(self) -> list[FrozenTrial]:
        """Trials whose taker-up died between failing them and putting them back."""
        return [
            trial
            for trial in self.trials()
            if trial.state == TrialState.FAIL
            and _REASON not in trial.user_attrs
            and len(trial.system_attrs.get(_AGAIN, [])) < _MOST_ATTEMPTS
        ]

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell other machines within the block that the trial is worked on."""
        # Optuna itself sends heartbeats from Study.optimize only, which makes trials of its own.
        heartbeat = get_heartbeat_thread(trial._trial_id, self._storage)  # noqa: SLF001 - likewise
        heartbeat.start()
        try:
            yield
        finally:
            heartbeat.join()

    def _again(self, trial: FrozenTrial) -> bool:
        try:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)  # noqa: SLF001
        except UpdateFinishedTrialError:  # another was faster
            return False
        take_up_again(self.study, trial)
        return True

    def _sign(self, trial_id: int) -> None:
        for key, value in this_process().items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        if isinstance(self._storage, optuna.storages._heartbeat.BaseHeartbeat):  # noqa: SLF001
            self._storage.record_heartbeat(trial_id)

    def _alone(self) -> AbstractContextManager[Any]:
        return FileLock(self._lock) if self._lock else nullcontext()


def _age(trial: FrozenTrial) -> timedelta:
    now = datetime.now()  # noqa: DTZ005 - without a time zone, as Optuna stores it
    return now - (trial.datetime_complete or now)


def first_number(trial: FrozenTrial) -> int:
    """Number of a trial's first attempt, by which it is called."""
    history: list[int] = trial.system_attrs.get(_AGAIN, [])
    return history[0] if history else trial.number


def state_of(trial: FrozenTrial) -> str:
    """A trial's state in our words: complete, pruned, failed, running or waiting."""
    return _STATES[trial.state]


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed; empty where it did not."""
    if trial.state == TrialState.FAIL and _REASON not in trial.user_attrs:
        return f"its worker died {_MOST_ATTEMPTS} times"
    return str(trial.user_attrs.get(_REASON, ""))
