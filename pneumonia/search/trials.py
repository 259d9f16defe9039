"""What a stored trial says: its number, its worker, its state, and why it failed."""

from collections.abc import Mapping

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

NUMBER, REASON, PROCESS = "number", "reason", "process"
"""User attributes of a trial."""

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def number_of(trial: FrozenTrial | optuna.Trial) -> int:
    """A trial's number in its study, which all its attempts share."""
    number: int = trial.user_attrs.get(NUMBER, trial.number)
    return number


def worker_of(trial: FrozenTrial) -> Mapping[str, str]:
    """The process that has a trial, or had it last; empty where none is stored."""
    process: Mapping[str, str] = trial.user_attrs.get(PROCESS, {})
    return process


def state_of(trial: FrozenTrial) -> str:
    """A trial's state in one word: complete, pruned, failed, running or waiting."""
    return _STATES[trial.state]


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed; empty where it did not."""
    if lost_its_worker(trial):
        return f"its worker stopped {len(former_attempts(trial)) + 1} times"
    return str(trial.user_attrs.get(REASON, ""))


def lost_its_worker(trial: FrozenTrial) -> bool:
    """Whether a trial failed without a reason of its own: its worker was stopped or died."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def former_attempts(trial: FrozenTrial) -> list[int]:
    """Optuna's numbers of a trial's attempts before this one."""
    return RetryHeartbeatStaleTrialCallback.retry_history(trial)
