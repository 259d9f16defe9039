"""Trials that dead workers left running, and studies whose creation was not finished."""

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from pneumonia.doctor.checks import Issue, Mark, Remark, Section
from pneumonia.processes import describe_process, is_alive
from pneumonia.search.queue import TrialQueue
from pneumonia.search.storage import queue_of
from pneumonia.search.study import WINNER, is_incomplete
from pneumonia.search.trials import number_of, worker_of


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
        if is_incomplete(study):
            found.append(_incomplete_study(study, storage))
            continue
        queue = queue_of(study, url)
        left = queue.stale()
        found += [_stale_trial(queue, trial) for trial in left]
        known = {trial.number for trial in left}
        for trial in queue.running():
            if trial.number not in known:
                worker = describe_process(worker_of(trial))
                where = f"{_named(study, trial)} is worked on by {worker}"
                found.append(Remark(Mark.NOTE, where))
    return Section("Studies", found)


def _stale_trial(queue: TrialQueue, trial: FrozenTrial) -> Issue:
    def fix() -> str:
        queue.recover()  # checks again, under the queue's lock, which workers are dead
        return "it waits for the next worker"

    text = f"{_named(queue.study, trial)}: {describe_process(worker_of(trial))} has died"
    return Issue(text, "put it back into the queue, for the next worker", fix)


def _incomplete_study(study: optuna.Study, storage: BaseStorage) -> Remark | Issue:
    name, creator = study.study_name, describe_process(study.user_attrs)

    def fix() -> str:
        if not is_incomplete(study) or is_alive(study.user_attrs) is not False:
            return "another process has finished creating it by now"
        for beside in optuna.get_all_study_names(storage):
            if beside == name or beside.startswith(f"{name}{WINNER}"):
                optuna.delete_study(study_name=beside, storage=storage)
        return "deleted"

    alive = is_alive(study.user_attrs)
    if alive is False:
        text = f"{creator} did not finish creating study {name!r}"
        return Issue(text, "delete it; no trial of it has run", fix)
    if alive:
        return Remark(Mark.NOTE, f"study {name!r} is being created by {creator}")
    return Remark(
        Mark.NOTE,
        f"study {name!r} is not ready: {creator} is creating it; if that process has died, "
        f"--resume with --study {name} finishes its work",
    )


def _named(study: optuna.Study, trial: FrozenTrial) -> str:
    name, claim, _ = study.study_name.partition(WINNER)
    return f"the winner of study {name!r}" if claim else f"trial {number_of(trial)} of {name!r}"
