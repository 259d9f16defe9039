"""Runs that count as running though their process has died."""

import time
from dataclasses import dataclass

import optuna

from pneumonia.doctor.checks import Issue, Mark, Remark, Section
from pneumonia.errors import UsageError
from pneumonia.processes import describe_process, is_alive
from pneumonia.search.storage import existing_storage, queue_of
from pneumonia.search.study import RUN, WINNER
from pneumonia.tracking.lookup import existing_run, runs_at_work
from pneumonia.tracking.outbox import Entry, kept_entries, outbox
from pneumonia.tracking.run_config import read_run_config
from pneumonia.tracking.runs import Run


@dataclass(frozen=True, slots=True)
class LeftRun(Issue):
    """A run whose process has died."""

    run: Run

    @property
    def text(self) -> str:
        return (
            f"{named(self.run)} counts as running, but {describe_process(self.run.tags)} has died"
        )

    @property
    def remedy(self) -> str:
        return "mark it KILLED, and keep what it logged"

    def fix(self) -> str:
        # Looked up again: somebody may have gone on with it since. Should one do so within the
        # next milliseconds, the mark is overwritten as that process ends the run.
        run = existing_run(self.run.id)
        if run is None or run.status != "RUNNING" or is_alive(run.tags) is not False:
            return "somebody has seen to it by now"
        tags = {"error": f"{describe_process(run.tags)} died"}
        if "trial" in run.tags:
            tags["trial.state"] = "interrupted"
        end = {"status": "KILLED", "end_time": int(time.time() * 1000)}
        for entry in (Entry("tags", tags), Entry("status", end)):
            outbox().deliver(run.id, entry)
        return f"marked KILLED{how_to_go_on(run)}"


def check_runs() -> Section:
    """Look through the runs of the connected store that count as running.

    Raises:
        TrackingError: The store does not answer.
    """
    found: list[Remark | Issue] = []
    working = foreign = 0
    for run in runs_at_work():
        alive = is_alive(run.tags)
        if alive:
            working += 1
        elif alive is None and "process.host" not in run.tags:
            foreign += 1
        elif alive is None:
            worker = describe_process(run.tags)
            where = f"{named(run)} is worked on by {worker}, which only that machine can tell"
            found.append(Remark(Mark.NOTE, where))
        else:
            found.append(_judged(run))
    if working:
        found.append(Remark(Mark.NOTE, f"runs at work on this machine: {working:,}"))
    if foreign:
        text = f"running, of programs that do not say which process works on them: {foreign:,}"
        found.append(Remark(Mark.NOTE, text))
    return Section("Runs", found)


def named(run: Run) -> str:
    """A run in words."""
    return f"run {run.id} ({run.name})"


def how_to_go_on(run: Run) -> str:
    """How a run that was stopped is gone on with, as the end of a sentence; empty if it is not."""
    parent = run.tags.get("mlflow.parentRunId")
    if parent and "trial" in run.tags:
        return f"; its trial goes on with the search, 'pneumonia train --resume {parent}'"
    try:
        search = read_run_config(run.id).search
        ready = not search.study or _ready(search.study, search.storage)
    except (UsageError, KeyError, TypeError):  # not begun by train, or by another version
        return ""
    return f"; 'pneumonia train --resume {run.id}' goes on with it" if ready else ""


def _judged(run: Run) -> Remark | Issue:
    if kept_entries(run.id):
        what = "could not log all it did: 'pneumonia sync' delivers that first"
        return Remark(Mark.NOTE, f"{named(run)}, whose process has died, {what}")
    if "study" in run.tags and "trial" not in run.tags:
        try:
            goes_on = _search_goes_on(run)
        except (UsageError, KeyError, TypeError) as error:
            what = f"and its study cannot be looked at ({error}): nothing is done"
            return Remark(Mark.NOTE, f"{named(run)}, whose last process has died, {what}")
        if goes_on:
            what = "others go on with its study"
            return Remark(Mark.NOTE, f"{named(run)}, whose last process has died: {what}")
    return LeftRun(run)


def _search_goes_on(run: Run) -> bool:
    """Whether somebody, here or elsewhere, works on a trial or the winner of a run's study."""
    url, name = read_run_config(run.id).search.storage, run.tags["study"]
    storage = existing_storage(url)
    if storage is None:
        return False
    for beside in optuna.get_all_study_names(storage):
        if beside == name or beside.startswith(f"{name}{WINNER}"):
            queue = queue_of(optuna.load_study(study_name=beside, storage=storage), url)
            dead = {trial.number for trial in queue.left()}
            if any(trial.number not in dead for trial in queue.running()):
                return True
    return False


def _ready(name: str, url: str) -> bool:
    storage = existing_storage(url)
    if storage is None or name not in optuna.get_all_study_names(storage):
        return False
    return RUN in optuna.load_study(study_name=name, storage=storage).user_attrs
