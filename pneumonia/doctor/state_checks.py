"""What runs keep on this machine: needed to go on, still to be delivered, or left over."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pneumonia.doctor.checks import Issue, Mark, Remark, Section, format_size, size_of
from pneumonia.doctor.run_checks import how_to_go_on, named
from pneumonia.errors import UsageError
from pneumonia.files import unfinished_writes
from pneumonia.processes import describe_process, is_alive
from pneumonia.tracking.local_state import LocalState, kept_runs
from pneumonia.tracking.lookup import existing_run
from pneumonia.tracking.outbox import kept_entries
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import without_password


@dataclass(frozen=True, slots=True)
class UnneededState(Issue):
    """The folder of a run that will not be gone on with."""

    local: LocalState
    reason: str

    @property
    def text(self) -> str:
        size = format_size(size_of(self.local.folder))
        return f"{str(self.local.folder)!r} ({size}) is of no use: {self.reason}"

    @property
    def remedy(self) -> str:
        return "remove it"

    def fix(self) -> str:
        if not self.local.folder.is_dir():
            return "it is gone already"
        with self.local.alone():
            if _at_work(self.local, existing_run(self.local.run_id)):
                raise UsageError("a process works on the run by now")
            # The lock goes with the folder, while we hold it: nobody waits for it, since whoever
            # finds it held gives up.
            shutil.rmtree(self.local.folder)
        return "removed"


@dataclass(frozen=True, slots=True)
class TornFile(Issue):
    """A file that a process had not finished writing when it died."""

    path: Path
    local: LocalState

    @property
    def text(self) -> str:
        return f"{str(self.path)!r} ({format_size(size_of(self.path))}) was not written to its end"

    @property
    def remedy(self) -> str:
        return "remove it"

    def fix(self) -> str:
        with self.local.alone():
            if is_alive(self.local.read_owner()):
                raise UsageError("a process works on the run by now")
            self.path.unlink(missing_ok=True)
        return "removed"


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
        # One that is removed as a whole needs nothing else to be said of it.
        if unneeded := _unneeded(local, run, waiting):
            found.append(_unless_shared(unneeded))
            continue
        found += _undelivered(local, waiting)
        found += [TornFile(path, local) for path in _torn(local)]
        if run is not None and run.status != "FINISHED" and _can_go_on(local):
            what = f"{named(run)} was stopped, and keeps {format_size(size_of(local.folder))}"
            found.append(Remark(Mark.NOTE, what + how_to_go_on(run)))
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


def _can_go_on(local: LocalState) -> bool:
    return local.checkpoint.exists() or local.run_config.exists()


def _unneeded(local: LocalState, run: Run | None, waiting: int) -> UnneededState | None:
    if run is None:
        return UnneededState(local, f"run {local.run_id} was deleted")
    if run.status == "FINISHED" and not waiting:
        return UnneededState(local, f"{named(run)} has ended well")
    if run.status != "RUNNING" and not waiting and not _can_go_on(local):
        return UnneededState(local, f"{named(run)} has ended, and holds nothing to go on with")
    return None


def _unless_shared(unneeded: UnneededState) -> Remark | Issue:
    """What another machine keeps in a folder that both use is that machine's to remove."""
    signature = unneeded.local.read_owner()
    if signature and is_alive(signature) is None:
        return Remark(Mark.NOTE, f"{unneeded.text}; {describe_process(signature)} kept it")
    return unneeded


def _undelivered(local: LocalState, waiting: int) -> Iterator[Remark]:
    if waiting:
        what = f"entries that wait to be logged to run {local.run_id}: {waiting:,}"
        yield Remark(Mark.WRONG, f"{what}; 'pneumonia sync' delivers them")


def _torn(local: LocalState) -> list[Path]:
    """Temporary files that a dead process had not finished writing."""
    if is_alive(local.read_owner()) is not False:
        return []
    torn = unfinished_writes(local.folder) + unfinished_writes(local.outbox)
    torn += (f for f in local.outbox.glob("*.bin") if not f.with_suffix(".json").exists())
    return sorted(torn)
