"""Runs that count as running though their process has died."""

import time

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
            where = f"{named(run)} is worked on by {worker}, which cannot be checked from here"
            found.append(Remark(Mark.NOTE, where))
        else:
            found.append(_stale_run(run))
    if working:
        found.append(Remark(Mark.NOTE, f"runs at work on this machine: {working:,}"))
    if foreign:
        text = f"running, of programs that do not say which process works on them: {foreign:,}"
        found.append(Remark(Mark.NOTE, text))
    return Section("Runs", found)


def named(run: Run) -> str:
    """A run in words."""
    return f"run {run.id} ({run.name})"


def how_to_resume(run: Run) -> str:
    """The command that resumes a stopped run, as the end of a sentence; empty if none does."""
    parent = run.tags.get("mlflow.parentRunId")
    if parent and "trial" in run.tags:
        return f"; its trial runs again in its search: 'pneumonia train --resume {parent}'"
    if parent and {"fold", "seed"} & run.tags.keys():
        above = existing_run(parent)
        return how_to_resume(above) if above else ""
    try:
        run_config = read_run_config(run.id)
        search = run_config.search
        ready = not search.study or _ready(search.study, search.storage)
    except (UsageError, KeyError, TypeError):  # begun by another command, or by another version
        return ""
    command = "cross-validate" if run_config.cross_validating else "train"
    if run_config.seeds > 1:
        command += f" --seeds {run_config.seeds}"
    return f"; 'pneumonia {command} --resume {run.id}' resumes it" if ready else ""


def _stale_run(run: Run) -> Remark | Issue:
    """What to do about a run whose process has died."""
    stopped = f"{named(run)} counts as running, but {describe_process(run.tags)} has died"
    if kept_entries(run.id):
        remedy = "'pneumonia sync' first logs what the tracking store has not yet received"
        return Remark(Mark.NOTE, f"{stopped}; {remedy}")
    if "study" in run.tags and "trial" not in run.tags:
        try:
            if _search_goes_on(run):
                return Remark(Mark.NOTE, f"{stopped}; other workers continue its study")
        except (UsageError, KeyError, TypeError) as error:
            return Remark(Mark.NOTE, f"{stopped}; left as it is: its study cannot be read: {error}")

    def fix() -> str:
        # Looked up again: a process may have resumed it since. If one does so within the next
        # milliseconds, it overwrites this status when it ends the run.
        now = existing_run(run.id)
        if now is None or now.status != "RUNNING" or is_alive(now.tags) is not False:
            return "another process has resumed or ended it by now"
        tags = {"error": f"{describe_process(now.tags)} died"}
        if "trial" in now.tags:
            tags["trial.state"] = "interrupted"
        end = {"status": "KILLED", "end_time": int(time.time() * 1000)}
        for entry in (Entry("tags", tags), Entry("status", end)):
            outbox().deliver(now.id, entry)
        return f"marked KILLED{how_to_resume(now)}"

    return Issue(stopped, "mark it KILLED, and keep what it logged", fix)


def _search_goes_on(run: Run) -> bool:
    """Whether somebody, here or elsewhere, works on a trial or the winner of a run's study."""
    url, name = read_run_config(run.id).search.storage, run.tags["study"]
    storage = existing_storage(url)
    if storage is None:
        return False
    for beside in optuna.get_all_study_names(storage):
        if beside == name or beside.startswith(f"{name}{WINNER}"):
            queue = queue_of(optuna.load_study(study_name=beside, storage=storage), url)
            dead = {trial.number for trial in queue.stale()}
            if any(trial.number not in dead for trial in queue.running()):
                return True
    return False


def _ready(name: str, url: str) -> bool:
    storage = existing_storage(url)
    if storage is None or name not in optuna.get_all_study_names(storage):
        return False
    return RUN in optuna.load_study(study_name=name, storage=storage).user_attrs
