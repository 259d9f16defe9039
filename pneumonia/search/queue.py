"""The trials of a study, shared by any number of workers.

All trials are enqueued when the study is made, each with its number as a user attribute; so their
number is exact, however many workers there are. ``Study.optimize`` takes a trial, sends its
heartbeat while it runs, and stores how it ended. A trial whose worker died or was stopped is
failed and enqueued again, with the same number and parameters, as the next attempt.
"""

import copy
import logging
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pneumonia.processes import describe_process, is_alive, this_process
from pneumonia.search.trials import (
    NUMBER,
    PROCESS,
    REASON,
    former_attempts,
    lost_its_worker,
    number_of,
    worker_of,
)

log = logging.getLogger(__name__)

# Heartbeats have been experimental for years; users of the command can do nothing about it.
warnings.filterwarnings("ignore", category=ExperimentalWarning)

_MAX_ATTEMPTS = 20
_SURPLUS = "surplus"

_TIME_TO_RETRY = timedelta(seconds=10)
"""Without a lock: time within which a process enqueues a trial again after it failed it."""

_TIME_TO_STORE_PROCESS = timedelta(seconds=60)
"""Without a lock: time that a worker has to write its process to a trial after it took it."""

Objective = Callable[[optuna.Trial], float]
OnEnd = Callable[[FrozenTrial], None]


class TrialFailedError(Exception):
    """A trial failed for a reason of its own: it is not run again, and the study goes on."""


class _SurplusTrialError(Exception):
    """The trial is none of the study's numbered trials, or another attempt at it counts."""


class TrialQueue:
    """The trials of a study.

    Attributes:
        study: The study.
    """

    def __init__(self, study: optuna.Study, lock: Path | None) -> None:
        """Open the queue.

        Args:
            study: The study.
            lock: File to lock while trials change hands, where all workers are on this machine;
                None for a database server, which locks the trials itself.
        """
        self.study = study
        self._lock = FileLock(lock) if lock else None

    def fill(self, n_trials: int, first: dict[str, Any] | None = None) -> None:
        """Enqueue trials until there are ``n_trials``; the first may have given parameters."""
        with self._locked():
            for number in range(len(self.trials()), n_trials):
                given = first if first and number == 0 else {}
                self.study.enqueue_trial(given, user_attrs={NUMBER: number})

    def trials(self) -> list[FrozenTrial]:
        """The study's trials by number, each as the attempt that counts.

        That is the first attempt that was not left by its worker: two processes may have enqueued
        a trial again at the same moment.
        """
        counted: dict[int, FrozenTrial] = {}
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda t: t.number):
            if NUMBER not in trial.user_attrs or _SURPLUS in trial.user_attrs:
                continue
            known = counted.get(number_of(trial))
            if known is None or lost_its_worker(known):
                counted[number_of(trial)] = trial
        return [counted[number] for number in sorted(counted)]

    def ranked(self) -> list[FrozenTrial]:
        """The trials, the best complete one first; those that did not complete come last.

        Of equally good ones the first comes first; Optuna leaves that to the database.
        """
        sign = -1 if self.study.direction == StudyDirection.MAXIMIZE else 1

        def rank(trial: FrozenTrial) -> tuple[bool, float, int]:
            value = trial.value if trial.value is not None else math.nan
            incomplete = trial.state != TrialState.COMPLETE or not math.isfinite(value)
            return incomplete, sign * value if math.isfinite(value) else 0.0, number_of(trial)

        return sorted(self.trials(), key=rank)

    def best(self) -> FrozenTrial | None:
        """The best complete trial whose value is a number; None before there is one."""
        first = next(iter(self.ranked()), None)
        if first is None or first.state != TrialState.COMPLETE or first.value is None:
            return None
        return first if math.isfinite(first.value) else None

    def run_next(self, objective: Objective, on_end: OnEnd = lambda _trial: None) -> bool:
        """Run the next waiting trial.

        Args:
            objective: Gives the trial's value, or raises ``optuna.TrialPruned`` or
                ``TrialFailedError``. Any other exception puts the trial back into the queue, and
                is raised.
            on_end: Called with the trial once its end is stored.

        Returns:
            Whether there was one.
        """
        attempt = _Attempt(self, objective)

        def ended(_study: optuna.Study, trial: FrozenTrial) -> None:
            if _SURPLUS not in trial.user_attrs:
                on_end(trial)

        self.lock()
        try:
            if not self.n_waiting():
                return False
            self.study.optimize(
                attempt,
                n_trials=1,
                catch=(TrialFailedError, _SurplusTrialError),
                callbacks=[ended],
            )
        except BaseException as error:
            if attempt.number is None:
                raise
            stored = self.study.get_trials(deepcopy=False)[attempt.number]
            if not attempt.was_refused(error, stored):
                self._put_back(stored)
                raise attempt.raised or error from None
            log.warning(
                "trial %d: this worker's heartbeat was too late, so another worker has taken the "
                "trial",
                number_of(stored),
            )
        finally:
            self.unlock()
        return True

    def lock(self) -> None:
        """Keep other processes from taking a trial or putting one back."""
        if self._lock:
            self._lock.acquire()

    def unlock(self) -> None:
        """Release the lock; does nothing where this process does not hold it."""
        if self._lock:
            self._lock.release()

    def recover(self) -> None:
        """Put the trials of dead workers back into the queue.

        A worker of this machine is known to be dead at once, one of another machine by its missing
        heartbeat, where the storage keeps heartbeats.
        """
        with self._locked():
            fail_stale_trials(self.study)
            for trial in self.stale():
                log.info(
                    "trial %d was running in %s, which has died: it is run again",
                    number_of(trial),
                    describe_process(worker_of(trial)),
                )
                self._put_back(trial)

    def stale(self) -> list[FrozenTrial]:
        """The trials of dead workers: those that ``recover`` puts back."""
        with self._locked():
            running = [trial for trial in self.running() if self._worker_is_gone(trial)]
            # With the lock, no other process can be about to enqueue a failed trial again.
            lost = [
                t for t in self._lost() if self._lock or _age(t.datetime_complete) > _TIME_TO_RETRY
            ]
            return [*running, *lost]

    def running(self) -> list[FrozenTrial]:
        """The trials that some worker has."""
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def n_waiting(self) -> int:
        """How many trials wait for a worker."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def unsettled(self) -> list[FrozenTrial]:
        """The trials that some worker has, and those that will be enqueued again."""
        return [*self.running(), *self._lost()]

    def others_at_work(self) -> bool:
        """Whether another worker has a trial; one that this process still has is put back."""
        self.recover()
        running = self.running()
        own = [trial for trial in running if worker_of(trial) == this_process()]
        for trial in own:  # interrupted while Optuna stored its end
            self._put_back(trial)
        return len(running) > len(own)

    def _worker_is_gone(self, trial: FrozenTrial) -> bool:
        process = worker_of(trial)
        if not process:  # its worker stopped between taking it and writing its process to it
            return bool(self._lock) or _age(trial.datetime_start) > _TIME_TO_STORE_PROCESS
        return is_alive(process) is False

    def _lost(self) -> list[FrozenTrial]:
        """Trials that failed without a reason of their own and were not enqueued again."""
        return [
            trial
            for trial in self.trials()
            if lost_its_worker(trial) and len(former_attempts(trial)) < _MAX_ATTEMPTS
        ]

    def _put_back(self, trial: FrozenTrial) -> None:
        """Fail a trial, unless it has failed already, and enqueue it again as it was."""
        with self._locked():
            if not lost_its_worker(trial):
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):  # another process was faster
                    return
            again = copy.deepcopy(trial)
            # Until the next worker stores its process, it would be taken for the dead one.
            again.user_attrs = {k: v for k, v in trial.user_attrs.items() if k != PROCESS}
            RetryHeartbeatStaleTrialCallback(max_retry=_MAX_ATTEMPTS)(self.study, again)

    def _locked(self) -> AbstractContextManager[Any]:
        return self._lock or nullcontext()


class _Attempt:
    """An objective for ``Study.optimize`` that stores this process in the trial first.

    Attributes:
        number: Optuna's number of the trial that was taken; None before one was.
        raised: What the objective raised, if anything.
    """

    def __init__(self, queue: TrialQueue, objective: Objective) -> None:
        self.queue, self.objective = queue, objective
        self.number: int | None = None
        self.raised: BaseException | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        try:
            trial.set_user_attr(PROCESS, this_process())
            self.queue.unlock()
            if all(counted.number != trial.number for counted in self.queue.trials()):
                trial.set_user_attr(_SURPLUS, value=True)
                raise _SurplusTrialError
            return self.objective(trial)
        except BaseException as error:
            self.raised = error
            if isinstance(error, TrialFailedError):
                trial.set_user_attr(REASON, str(error))
            raise

    def was_refused(self, error: BaseException, stored: FrozenTrial) -> bool:
        """Whether the storage took nothing more for the trial: another process has failed it."""
        if isinstance(self.raised, KeyboardInterrupt):
            return False
        # If a trial has already ended when Study.optimize stores its end, that raises errors of its
        # own, AssertionError among them.
        at_the_end = error is not self.raised and stored.state == TrialState.FAIL
        return at_the_end or isinstance(self.raised, UpdateFinishedTrialError)


def _age(since: datetime | None) -> timedelta:
    now = datetime.now()  # noqa: DTZ005 - without a time zone, as Optuna stores it
    return now - (since or now)
