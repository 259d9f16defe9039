"""A study as a queue: any number of workers take its trials, and a dead worker's goes on.

The trials of a study are made at once, waiting; so their number is exact however many workers take
them. The coordination is Optuna's own storage: a waiting trial becomes running for one worker only.
"""

import copy
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pneumonia.processes import describe_process, is_alive, this_process

log = logging.getLogger(__name__)

# Heartbeats have been experimental for years; our users can do nothing about it.
warnings.filterwarnings("ignore", category=ExperimentalWarning)

_MOST_ATTEMPTS = 20
_AGAIN, _REASON, _PROCESS = "retry_history", "reason", "process"
_HAND_OVER = timedelta(seconds=10)
"""After this a trial between two workers counts as lost. Where that is too early, because clocks of
machines differ, it is put back twice, which does no harm."""

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
        with self._alone():
            there = len(self.trials())
            for number in range(there, n_trials):
                self.study.enqueue_trial(first if first and number == 0 else {})

    def trials(self) -> list[FrozenTrial]:
        """The study's trials; one that was taken up again counts once, by its last attempt.

        Of two attempts that follow the same one, put back by two workers at the same moment, the
        first counts.
        """
        every = self.study.get_trials(deepcopy=False)
        replaced = {number for trial in every for number in _history(trial)}
        followed: set[int] = set()
        counted = []
        for trial in sorted(every, key=lambda t: t.number):
            follows = _history(trial)[-1:]
            if trial.number not in replaced and followed.isdisjoint(follows):
                counted.append(trial)
            followed.update(follows)
        return counted

    def stored(self, trial: optuna.Trial) -> FrozenTrial:
        """A trial as it is stored now. ``study.trials`` would copy all of them for it."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def ranked(self) -> list[FrozenTrial]:
        """The trials, the best complete one first; those that did not complete come last.

        Of equally good ones the first comes first; Optuna leaves that to the database.
        """
        sign = -1 if self.study.direction == StudyDirection.MAXIMIZE else 1
        return sorted(
            self.trials(),
            key=lambda t: (
                t.state != TrialState.COMPLETE,
                sign * (t.value or 0.0),
                first_number(t),
            ),
        )

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None before there is one."""
        first = next(iter(self.ranked()), None)
        return first if first and first.state == TrialState.COMPLETE else None

    def take(self) -> optuna.Trial | None:
        """Take a waiting trial; None where there is none."""
        with self._alone():
            for waiting in self.trials():
                if waiting.state != TrialState.WAITING:
                    continue
                trial_id = waiting._trial_id  # noqa: SLF001 - what the storage calls it
                # First of all: a worker that dies before it has signed is missed by this alone.
                self._beat(trial_id)
                try:
                    taken = self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                except UpdateFinishedTrialError:
                    continue
                if taken:
                    # One value and not before it is ours, or another's could be half read as ours.
                    self._storage.set_trial_user_attr(trial_id, _PROCESS, this_process())
                    return optuna.Trial(self.study, trial_id)
        return None

    def give_back(self, trial: optuna.Trial) -> None:
        """Put a trial that was interrupted back into the queue."""
        self._again(self.stored(trial))

    def recover(self) -> None:
        """Put the trials of dead workers back into the queue.

        Those of this machine are known to be dead at once, others by their missing heartbeat.
        """
        with self._alone():
            for trial in self._left_running():
                log.info(
                    "trial %d was left by %s: it is taken up again",
                    first_number(trial),
                    describe_process(worker_of(trial)),
                )
                self._again(trial)
            for trial in self._surely_lost():
                take_up_again(self.study, trial)

    def left(self) -> list[FrozenTrial]:
        """The trials of dead workers: those that ``recover`` would put back into the queue."""
        with self._alone():
            return [*self._left_running(), *self._surely_lost()]

    def running(self) -> list[FrozenTrial]:
        """The trials that some worker has."""
        return self.study.get_trials(deepcopy=True, states=(TrialState.RUNNING,))

    def others_at_work(self) -> bool:
        """Whether another worker has a trial; one that this process still has is put back."""
        self.recover()
        running = self.running()
        own = [t for t in running if worker_of(t) == this_process()]
        for trial in own:  # interrupted between taking it and working on it
            self._again(trial)
        return len(running) > len(own)

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
            and len(_history(trial)) < _MOST_ATTEMPTS
        ]

    def _surely_lost(self) -> list[FrozenTrial]:
        """Lost trials that nobody is about to put back: no other holds the lock, or it is long."""
        return [t for t in self._lost() if self._lock or _age(t) > _HAND_OVER]

    def _left_running(self) -> list[FrozenTrial]:
        """The running trials whose worker is dead."""
        stale = self._stale_trials()
        left = []
        for trial in self.running():
            process = worker_of(trial)
            works = is_alive(process)
            # Who takes a trial signs it before the lock is released.
            unsigned = bool(self._lock) and not process
            if works is False or unsigned or (works is None and trial._trial_id in stale):  # noqa: SLF001
                left.append(trial)
        return left

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell other machines within the block that the trial is worked on."""
        # Optuna's own thread ends with a traceback where the storage is away for a moment.
        interval = _heartbeats(self._storage)
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(interval):
                try:
                    self._beat(trial._trial_id)  # noqa: SLF001 - likewise
                except Exception as error:  # noqa: BLE001 - each storage has errors of its own
                    log.debug("no heartbeat reached the storage: %s", error)

        if interval is None:
            yield
            return
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _again(self, trial: FrozenTrial) -> None:
        try:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)  # noqa: SLF001
        except UpdateFinishedTrialError:  # another was faster
            return
        take_up_again(self.study, trial)

    def _beat(self, trial_id: int) -> None:
        if isinstance(self._storage, BaseHeartbeat):
            self._storage.record_heartbeat(trial_id)

    def _stale_trials(self) -> set[int]:
        """Identifiers of running trials whose heartbeat is missing.

        Not Optuna's fail_stale_trials: it would take trials from workers that are known to live,
        after the storage was away.
        """
        if not isinstance(self._storage, BaseHeartbeat) or not _heartbeats(self._storage):
            return set()
        return set(self._storage._get_stale_trial_ids(self.study._study_id))  # noqa: SLF001

    def _alone(self) -> AbstractContextManager[Any]:
        return FileLock(self._lock) if self._lock else nullcontext()


def take_up_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial back into the queue with its parameters, unless it was too often."""
    again = copy.deepcopy(trial)
    # It is nobody's now: were it signed, its next worker would be taken for the dead one.
    again.user_attrs = {
        key: value for key, value in trial.user_attrs.items() if key not in (_PROCESS, _REASON)
    }
    RetryHeartbeatStaleTrialCallback(max_retry=_MOST_ATTEMPTS)(study, again)


def _heartbeats(storage: optuna.storages.BaseStorage) -> int | None:
    """Seconds between two heartbeats; None where the storage takes none."""
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None


def _history(trial: FrozenTrial) -> list[int]:
    """Numbers of a trial's former attempts."""
    numbers: list[int] = trial.system_attrs.get(_AGAIN, [])
    return numbers


def _age(trial: FrozenTrial) -> timedelta:
    now = datetime.now()  # noqa: DTZ005 - without a time zone, as Optuna stores it
    return now - (trial.datetime_complete or now)


def first_number(trial: FrozenTrial) -> int:
    """Number of a trial's first attempt, by which it is called."""
    history = _history(trial)
    return history[0] if history else trial.number


def worker_of(trial: FrozenTrial) -> Mapping[str, str]:
    """The process that has a trial, or had it last; empty where none has signed."""
    process: Mapping[str, str] = trial.user_attrs.get(_PROCESS, {})
    return process


def state_of(trial: FrozenTrial) -> str:
    """A trial's state in our words: complete, pruned, failed, running or waiting."""
    return _STATES[trial.state]


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed; empty where it did not."""
    if trial.state == TrialState.FAIL and _REASON not in trial.user_attrs:
        return f"its worker died {_MOST_ATTEMPTS} times"
    return str(trial.user_attrs.get(_REASON, ""))
