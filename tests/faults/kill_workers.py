"""Workers of one study killed again and again: no trial is lost, and none is run twice.

python -m tests.faults.kill_workers --storage postgresql --tracking sqlite

Claimed: four workers join one study of N trials, and every few seconds one of them is killed with
SIGKILL and another is started; at the end the study has N trials, each complete or pruned, each
with one MLflow run that has every epoch's metrics once; one winner is registered once, and the
search's run is FINISHED.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import click

from tests.faults.checks import client, last_line
from tests.faults.commands import Forks
from tests.faults.postgres import Cluster, cluster
from tests.faults.report import Report
from tests.faults.sandbox import QUICK, Sandbox, sandboxes
from tests.faults.search_checks import check_search, study_named

_NETWORK, _STUDY = "resnet34", "shared"


class Workers:
    """The workers of one study, some of them dead."""

    def __init__(self, sandbox: Sandbox, arguments: list[str]) -> None:
        self.sandbox, self.arguments, self.forks = sandbox, arguments, Forks()
        self.alive: list[tuple[str, BaseProcess]] = []
        self.started = 0
        self.codes: list[int] = []
        self.said: list[str] = []

    def start(self, *more: str) -> None:
        """Start another worker."""
        name = f"worker-{self.started}"
        self.started += 1
        arguments = [*self.arguments, *(more or ("--join",))]
        self.alive.append((name, self.forks.start(self.sandbox, arguments, name)))

    def reap(self) -> None:
        """Take note of the workers that have ended by themselves."""
        for name, worker in list(self.alive):
            if worker.exitcode is not None:
                self.alive.remove((name, worker))
                self.codes.append(worker.exitcode)
                if worker.exitcode:
                    self.said.append(f"{name}: {last_line(self.sandbox.folder / f'{name}.err')}")

    def kill_one(self, rng: random.Random) -> None:
        """Kill one of those alive."""
        name, worker = rng.choice(self.alive)
        worker.kill()
        worker.join()
        self.alive.remove((name, worker))

    def kill_all(self) -> None:
        """Kill whatever is left."""
        for _, worker in self.alive:
            worker.kill()
            worker.join()


@contextmanager
def stores(
    storage: str, tracking: str, sandbox: Sandbox
) -> Iterator[tuple[str, str, Cluster | None]]:
    """The URLs of the study's storage and of MLflow's store, each of the kind asked for."""
    with ExitStack() as stack:
        database = stack.enter_context(cluster()) if "postgresql" in (storage, tracking) else None
        optuna_urls = {
            "sqlite": f"sqlite:///{sandbox.folder}/optuna.db",
            "journal": f"journal:///{sandbox.folder}/optuna.journal",
        }
        if storage == "postgresql" and database:
            optuna_urls[storage] = database.create("optuna")
        uri = sandbox.tracking_uri
        if tracking == "postgresql" and database:
            uri = database.create("mlflow")
        yield optuna_urls[storage], uri, database


@click.command()
@click.option(
    "--storage",
    type=click.Choice(["postgresql", "sqlite", "journal"]),
    default="postgresql",
    show_default=True,
)
@click.option(
    "--tracking", type=click.Choice(["sqlite", "postgresql"]), default="sqlite", show_default=True
)
@click.option("--workers", default=4, show_default=True)
@click.option("--trials", default=12, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--kills", default=12, show_default=True)
@click.option("--every", default=8.0, show_default=True, help="Mean seconds between two kills.")
@click.option("--restarts", is_flag=True, help="Restart PostgreSQL as well, at every third kill.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where to work.")
def main(
    storage: str,
    tracking: str,
    workers: int,
    trials: int,
    epochs: int,
    kills: int,
    every: float,
    restarts: bool,
    seed: int,
    folder: Path | None,
) -> None:
    """Kill workers of one study with SIGKILL, start others, and count the trials."""
    report, rng = Report(f"Workers killed, {storage}, MLflow in {tracking}"), random.Random(seed)
    began = time.monotonic()
    with sandboxes(folder) as all_sandboxes:
        sandbox = all_sandboxes.new("search")
        with stores(storage, tracking, sandbox) as (url, uri, database):
            arguments = [
                *("train", "--data", str(sandbox.data), *QUICK, "--network", _NETWORK),
                *("--epochs", str(epochs), "--trials", str(trials), "--study", _STUDY),
                *("--storage", url, "--tracking-uri", uri),
            ]
            team = Workers(sandbox, arguments)
            try:
                killed = _harm(team, workers, kills, every, rng, database if restarts else None)
            finally:
                team.kill_all()
            study = study_named(_STUDY, url)
            check_search(report, client(uri), study, trials, _NETWORK)
            ends = team.said[-1] if team.codes and team.codes[-1] else ""
            report.check("the last worker ends well", ends)
            attempts = len(study.trials)
    report.end(
        {
            "storage": storage,
            "tracking": tracking,
            "workers": workers,
            "trials": trials,
            "killed": killed,
            "database restarted": killed // 3 if restarts else 0,
            "workers started": team.started,
            "attempts at trials": attempts,
            "workers that ended with an error": team.said,
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
    )


def _harm(
    team: Workers,
    workers: int,
    kills: int,
    every: float,
    rng: random.Random,
    database: Cluster | None,
) -> int:
    """Keep workers at work, killing one now and then, until one ends well; how many were killed.

    A database that is given is restarted at every third kill.
    """
    killed = 0
    for _ in range(workers):
        team.start()
    next_kill = time.monotonic() + 2 * every
    while 0 not in team.codes and team.started < 3 * kills + workers:
        time.sleep(0.2)
        team.reap()
        while 0 not in team.codes and len(team.alive) < workers:
            is_incomplete = any("that was creating study" in line for line in team.said[-1:])
            team.start(*(["--resume"] if is_incomplete else []))
            time.sleep(0.5)
        if killed < kills and time.monotonic() > next_kill and team.alive:
            team.kill_one(rng)
            killed += 1
            if database is not None and killed % 3 == 0:
                database.stop("immediate")
                time.sleep(3)
                database.start()
            next_kill = time.monotonic() + every * (0.5 + rng.random())
    deadline = time.monotonic() + 120
    while team.alive and time.monotonic() < deadline:
        time.sleep(0.2)
        team.reap()
    return killed


if __name__ == "__main__":
    main()
