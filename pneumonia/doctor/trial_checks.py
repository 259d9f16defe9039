"""Trials that dead workers left running, and studies that were never made ready."""

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from pneumonia.doctor.checks import Issue, Mark, Remark, Section
from pneumonia.processes import describe_process, is_alive
from pneumonia.search.queue import TrialQueue
from pneumonia.search.storage import queue_of
from pneumonia.search.study import WINNER, half_made
from pneumonia.search.trials import number_of, worker_of


@dataclass(frozen=True, slots=True)
class LeftTrial(Issue):
    """A trial whose worker has died."""

    queue: TrialQueue
    trial: FrozenTrial

    @property
    def text(self) -> str:
        worker = describe_process(worker_of(self.trial))
        return f"{_named(self.queue.study, self.trial)} was left by {worker}"

    @property
    def remedy(self) -> str:
        return "put it back into the queue, for the next worker"

    def fix(self) -> str:
        self.queue.recover()  # looks again, under the queue's lock, at who is dead
        return "it waits for the next worker"


@dataclass(frozen=True, slots=True)
class HalfMadeStudy(Issue):
    """A study whose creator died before there was anything to run."""

    study: optuna.Study
    storage: BaseStorage

    @property
    def text(self) -> str:
        creator = describe_process(self.study.user_attrs)
        return f"study {self.study.study_name!r} was left half made by {creator}"

    @property
    def remedy(self) -> str:
        return "delete it; no trial of it has run"

    def fix(self) -> str:
        name = self.study.study_name
        if not half_made(self.study) or is_alive(self.study.user_attrs) is not False:
            return "another process has made it ready by now"
        for beside in optuna.get_all_study_names(self.storage):
            if beside == name or beside.startswith(f"{name}{WINNER}"):
                optuna.delete_study(study_name=beside, storage=self.storage)
        return "deleted"


def check_studies(storage: BaseStorage, url: str) -> Section:
    """Look through the studies of a storage.

    Args:
        storage: The storage.
        url: Its URL, or empty.
    """
    found: list[Remark | Issue] = []
    for name in sorted(optuna.get_all_study_names(storage)):
        study = optuna.load_study(study_name=name, storage=storage)
        if "settings" not in study.user_attrs and WINNER not in name:
            continue  # another program's
        if half_made(study):
            found.append(_judged(study, storage))
            continue
        queue = queue_of(study, url)
        left = queue.left()
        found += [LeftTrial(queue, trial) for trial in left]
        known = {trial.number for trial in left}
        for trial in queue.running():
            if trial.number not in known:
                worker = describe_process(worker_of(trial))
                where = f"{_named(study, trial)} is worked on by {worker}"
                found.append(Remark(Mark.NOTE, where))
    return Section("Studies", found)


def _judged(study: optuna.Study, storage: BaseStorage) -> Remark | Issue:
    alive = is_alive(study.user_attrs)
    if alive is False:
        return HalfMadeStudy(study, storage)
    creator = describe_process(study.user_attrs)
    name = study.study_name
    if alive:
        return Remark(Mark.NOTE, f"study {name!r} is being made ready by {creator}")
    return Remark(
        Mark.NOTE,
        f"study {name!r} is not ready, which {creator} knows of; if that has died, --resume with "
        f"--study {name} goes on with it",
    )


def _named(study: optuna.Study, trial: FrozenTrial) -> str:
    name, claim, _ = study.study_name.partition(WINNER)
    return f"the winner of study {name!r}" if claim else f"trial {number_of(trial)} of {name!r}"
