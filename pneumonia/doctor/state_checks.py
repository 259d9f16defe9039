"""The files that runs keep on this machine: needed to resume, not yet logged, or not needed."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pneumonia.doctor.checks import Issue, Mark, Remark, Section, format_size, size_of
from pneumonia.doctor.run_checks import how_to_resume, named
from pneumonia.errors import UsageError
from pneumonia.files import unfinished_writes
from pneumonia.processes import describe_process, is_alive
from pneumonia.tracking.local_state import LocalState, kept_runs
from pneumonia.tracking.lookup import existing_run
from pneumonia.tracking.outbox import kept_entries
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import without_password


def check_states(store: str | None) -> Section:
    """Look through what runs keep on this machine.

    Args:
        store: The connected tracking store; None where there is none to ask.

    Raises:
        TrackingError: The store stopped answering.
    """
    found: list[Remark | Issue] = []
    elsewhere: Counter[str] = Counter()
    working = 0
    for local in kept_runs():
        run = existing_run(local.run_id) if store else None
        if _at_work(local, run):
            working += 1
            continue
        waiting = len(kept_entries(local.run_id))
        if run is None and not (store and _same(store, local.tracking_uri)):
            elsewhere[local.tracking_uri or "a store that is not known"] += 1
            found += _undelivered(local, waiting)
            continue
        if reason := _why_unneeded(local, run, waiting):
            found.append(_unneeded_state(local, reason))
            continue
        found += _undelivered(local, waiting)
        found += [_partial_file(path, local) for path in _partial_files(local)]
        if run is not None and run.status != "FINISHED" and _can_resume(local):
            what = f"{named(run)} was stopped, and keeps {format_size(size_of(local.folder))}"
            found.append(Remark(Mark.NOTE, what + how_to_resume(run)))
    if working:
        found.append(Remark(Mark.NOTE, f"folders of runs at work: {working:,}"))
    for uri, count in sorted(elsewhere.items()):
        what = f"folders of runs in {without_password(uri, uri)}, which was not asked: {count:,}"
        found.append(Remark(Mark.NOTE, what))
    return Section("Kept for runs", found)


def _at_work(local: LocalState, run: Run | None) -> bool:
    return bool(is_alive(local.read_owner()) or (run is not None and is_alive(run.tags)))


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.rstrip("/") == other.rstrip("/")


def _can_resume(local: LocalState) -> bool:
    return local.checkpoint.exists() or local.run_config.exists()


def _why_unneeded(local: LocalState, run: Run | None, waiting: int) -> str:
    if run is None:
        return f"run {local.run_id} was deleted"
    if run.status == "FINISHED" and not waiting:
        return f"{named(run)} has finished"
    if run.status != "RUNNING" and not waiting and not _can_resume(local):
        return f"{named(run)} has ended and cannot be resumed"
    return ""


def _unneeded_state(local: LocalState, reason: str) -> Remark | Issue:
    def fix() -> str:
        if not local.folder.is_dir():
            return "it is gone already"
        with local.alone():
            if _at_work(local, existing_run(local.run_id)):
                raise UsageError("a process works on the run by now")
            # The lock's file is removed while it is held: no process waits for it, since one that
            # finds it held gives up.
            shutil.rmtree(local.folder)
        return "removed"

    size = format_size(size_of(local.folder))
    text = f"{str(local.folder)!r} ({size}) is not needed: {reason}"
    owner = local.read_owner()
    if owner and is_alive(owner) is None:  # on another machine that shares the folder
        return Remark(Mark.NOTE, f"{text}; it belongs to {describe_process(owner)}")
    return Issue(text, "remove it", fix)


def _partial_file(path: Path, local: LocalState) -> Issue:
    def fix() -> str:
        with local.alone():
            if is_alive(local.read_owner()):
                raise UsageError("a process works on the run by now")
            path.unlink(missing_ok=True)
        return "removed"

    text = f"{str(path)!r} ({format_size(size_of(path))}) was not written to its end"
    return Issue(text, "remove it", fix)


def _undelivered(local: LocalState, waiting: int) -> Iterator[Remark]:
    if waiting:
        what = f"entries that wait to be logged to run {local.run_id}: {waiting:,}"
        yield Remark(Mark.WRONG, f"{what}; 'pneumonia sync' delivers them")


def _partial_files(local: LocalState) -> list[Path]:
    """Temporary files that a dead process had not finished writing."""
    if is_alive(local.read_owner()) is not False:
        return []
    partial = unfinished_writes(local.folder) + unfinished_writes(local.outbox)
    partial += (f for f in local.outbox.glob("*.bin") if not f.with_suffix(".json").exists())
    return sorted(partial)
