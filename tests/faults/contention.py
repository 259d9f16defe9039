"""Processes that want the same thing at once, and interrupts.

python -m tests.faults.contention

Claimed: two processes build one image cache together; two trainings that end together are both
registered, and the better one is champion; four workers on one sqlite study and one sqlite MLflow
store never show "database is locked", and their trials are exact. SIGINT and SIGTERM end a run in
the middle of an epoch as KILLED, with the command that goes on with it, which ends bit for bit as
if there had been no interrupt; a second SIGINT ends it at once; Ctrl-C on ``--jobs 2`` leaves no
worker, no running trial and a run that can be resumed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil

from tests.faults.checks import Finding, client, every_run, last_line, registered, running
from tests.faults.commands import Forks, spawn
from tests.faults.report import Report
from tests.faults.sandbox import QUICK, Sandbox, Sandboxes, sandboxes
from tests.faults.search_checks import check_search, study_named

_NETWORK = "resnet34"
_EPOCHS = 4


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where to work.")
@click.option(
    "--only", default="", help="One part: cache, register_winner, sqlite, signals or jobs."
)
def main(folder: Path | None, only: str) -> None:
    """Let processes contend for caches, stores and names; interrupt them."""
    report, forks = Report("Contention and interrupts"), Forks()
    began = time.monotonic()
    parts: dict[str, Callable[[Report, Forks, Sandboxes], None]] = {
        "cache": _one_cache,
        "register_winner": _register_winner,
        "sqlite": _one_sqlite,
        "signals": _signals,
        "jobs": _jobs,
    }
    with sandboxes(folder) as all_sandboxes:
        for name, part in parts.items():
            if only in ("", name):
                part(report, forks, all_sandboxes)
    report.end({"minutes": round((time.monotonic() - began) / 60, 1)})


def _train(sandbox: Sandbox, *more: str) -> list[str]:
    return ["train", "--data", str(sandbox.data), *QUICK, "--network", _NETWORK, *more]


def _one_cache(report: Report, forks: Forks, all_sandboxes: Sandboxes) -> None:
    """Three processes decode the same images at once."""
    sandbox = all_sandboxes.new("cache")
    cache = str(sandbox.folder / "cache")
    names = [f"train-{number}" for number in range(3)]
    arguments = _train(sandbox, "--epochs", "1", "--register", "false")
    processes = [forks.start(sandbox, arguments, name, PNEUMONIA_CACHE=cache) for name in names]
    for name, process in zip(names, processes, strict=True):
        process.join()
        breach = last_line(sandbox.folder / f"{name}.err") if process.exitcode else ""
        report.check("processes that share a cache end well", breach)
    built = [path.name for path in Path(cache).iterdir() if path.is_dir()]
    report.check("one cache is built", "" if len(built) == 1 else f"{built}")
    metrics = {run.data.metrics["val/loss"] for run in every_run(client(sandbox.tracking_uri))}
    report.check("they read the same images", "" if len(metrics) == 1 else f"{metrics}")


def _register_winner(report: Report, forks: Forks, all_sandboxes: Sandboxes) -> None:
    """Trainings of the same network end together."""
    sandbox = all_sandboxes.new("register_winner")
    seeds = (1, 2, 3)
    processes = [
        forks.start(sandbox, _train(sandbox, "--epochs", "1", "--seed", str(seed)), f"train-{seed}")
        for seed in seeds
    ]
    for seed, process in zip(seeds, processes, strict=True):
        process.join()
        breach = last_line(sandbox.folder / f"train-{seed}.err") if process.exitcode else ""
        report.check("trainings that register together end well", breach)
    store = client(sandbox.tracking_uri)
    found = sorted(registered(store, _NETWORK))
    report.check("each is registered once", "" if found == ["1", "2", "3"] else f"{found}")
    values = {
        str(version.version): float(version.tags["val.auc"])
        for version in store.search_model_versions(f"name='{_NETWORK}'")
        if "0.0" not in (version.tags["val.sensitivity"], version.tags["val.specificity"])
    }
    champion = store.get_registered_model(_NETWORK).aliases.get("champion")
    best = max(values.values(), default=None)
    breach = "" if values.get(str(champion)) == best else f"{champion} of {values}"
    report.check("the best of them is champion", breach)


def _one_sqlite(report: Report, forks: Forks, all_sandboxes: Sandboxes) -> None:
    """Four workers, one study and one MLflow store, all in sqlite files."""
    sandbox, n_trials = all_sandboxes.new("sqlite"), 12
    storage = f"sqlite:///{sandbox.folder}/optuna.db"
    arguments = _train(
        *(sandbox, "--epochs", "1", "--trials", str(n_trials), "--study", "crowd"),
        *("--storage", storage, "--join"),
    )
    names = [f"worker-{number}" for number in range(4)]
    processes = [forks.start(sandbox, arguments, name) for name in names]
    for name, process in zip(names, processes, strict=True):
        process.join()
        said = (sandbox.folder / f"{name}.err").read_text()
        breach = last_line(sandbox.folder / f"{name}.err") if process.exitcode else ""
        report.check("workers on sqlite end well", breach)
        breach = "locked" if "database is locked" in said else ""
        report.check("no lock of a database reaches the user", breach)
    check_search(
        report, client(sandbox.tracking_uri), study_named("crowd", storage), n_trials, _NETWORK
    )


def _signals(report: Report, forks: Forks, all_sandboxes: Sandboxes) -> None:
    """Interrupts between batches, and twice."""
    arguments = ("--epochs", str(_EPOCHS), "--experiment-name", "faults")
    undisturbed = all_sandboxes.new("undisturbed")
    forks.run(undisturbed, _train(undisturbed, *arguments), "train")
    store = client(undisturbed.tracking_uri)
    expected = Finding.of(store, every_run(store)[0].info.run_id, _NETWORK)
    for number in (signal.SIGINT, signal.SIGTERM):
        sandbox = all_sandboxes.new(number.name)
        worker = spawn(sandbox, _train(sandbox, *arguments), "train")
        _await_text(sandbox.folder / "train.err", "epoch 2/", worker)
        worker.send_signal(number)
        code = worker.wait()
        name = f"{number.name} in an epoch"
        report.check("an interrupt ends with 130", "" if code == 130 else f"{code}", name)
        store = client(sandbox.tracking_uri)
        (run,) = every_run(store)
        status = run.info.status
        report.check("its run is KILLED", "" if status == "KILLED" else status, name)
        said = (sandbox.folder / "train.err").read_text()
        command = f"pneumonia train --resume {run.info.run_id}"
        report.check("it says how to go on", "" if command in said else said[-300:], name)
        report.check("it shows no traceback", "shown" if "Traceback" in said else "", name)
        state = sandbox.state / "runs" / run.info.run_id / "checkpoint.pt"
        report.check("it keeps a checkpoint", "" if state.is_file() else f"no {state}", name)
        code = forks.run(sandbox, ["train", "--resume", run.info.run_id], "resume")
        breach = last_line(sandbox.folder / "resume.err") if code else ""
        report.check("it can be resumed", breach, name)
        breach = expected.difference(Finding.of(store, run.info.run_id, _NETWORK))
        report.check("it ends bit for bit as if never interrupted", breach, name)
    sandbox = all_sandboxes.new("twice")
    worker = spawn(sandbox, _train(sandbox, "--epochs", "50", "--image-size", "128"), "train")
    _await_text(sandbox.folder / "train.err", "epoch 1/", worker)
    for _ in range(2):
        worker.send_signal(signal.SIGINT)
        time.sleep(0.3)
    code = worker.wait()
    # A process that ends may die of the second one, which is 130 as well in a shell.
    breach = "" if code in (130, -signal.SIGINT) else f"{code}"
    report.check("two interrupts end with 130", breach)
    report.check("no run is left RUNNING", running(client(sandbox.tracking_uri)))


def _jobs(report: Report, forks: Forks, all_sandboxes: Sandboxes) -> None:
    """Ctrl-C on a search with two workers: while they start, and while they train."""
    for moment in ("starting", "training"):
        sandbox, n_trials = all_sandboxes.new(f"jobs-{moment}"), 3
        storage = f"sqlite:///{sandbox.folder}/optuna.db"
        arguments = _train(
            *(sandbox, "--epochs", "3", "--trials", str(n_trials), "--study", "jobs"),
            *("--storage", storage, "--jobs", "2"),
        )
        coordinator = spawn(sandbox, arguments, "train")
        _await_text(sandbox.folder / "train.out", "run ", coordinator)
        if moment == "training":
            _await_text(sandbox.folder / "train.err", "epoch 1/", coordinator)
        else:
            time.sleep(2)
        workers = psutil.Process(coordinator.pid).children()
        os.killpg(coordinator.pid, signal.SIGINT)
        code = coordinator.wait()
        case = f"--jobs while {moment}"
        report.check("an interrupt ends with 130", "" if code == 130 else f"{code}", case)
        left = [str(worker.pid) for worker in workers if worker.is_running()]
        report.check("no worker is left", ", ".join(left), case)
        store = client(sandbox.tracking_uri)
        report.check("no run is left RUNNING", running(store), case)
        study = study_named("jobs", storage)
        states = [trial.state.name for trial in study.trials]
        breach = "RUNNING" if "RUNNING" in states else ""
        report.check("no trial is left RUNNING", breach, case)
        said = (sandbox.folder / "train.err").read_text()
        report.check("it shows no traceback", "shown" if "Traceback" in said else "", case)
        (parent,) = [r for r in every_run(store) if "mlflow.parentRunId" not in r.data.tags]
        status = parent.info.status
        report.check("its run is KILLED", "" if status == "KILLED" else status, case)
        code = forks.run(sandbox, ["train", "--resume", parent.info.run_id], "resume")
        breach = last_line(sandbox.folder / "resume.err") if code else ""
        report.check("it can be resumed", breach, case)
        check_search(report, store, study_named("jobs", storage), n_trials, _NETWORK)


def _await_text(file: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not file.exists() or text not in file.read_text(errors="replace"):
        if time.monotonic() > deadline or process.poll() is not None:
            raise click.ClickException(f"{file.name} never said {text!r}: {last_line(file)}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
