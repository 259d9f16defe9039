"""A tracking server that goes and comes during a run: every metric arrives once, in order.

python -m tests.faults.restart_server --outages 10

Claimed: while a real ``mlflow server`` is stopped and started ten times, a run goes on; at its end
each metric has each epoch once, with times that do not decrease; figures, checkpoint and model are
there; the user was warned at most once an outage. And a server that does not come back ends the
run with exit code 1 and one line, and all that was to be logged is kept, until ``pneumonia train
--resume`` delivers it when the server is back.
"""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import click
import mlflow

from tests.faults.checks import (
    client,
    duplicates,
    every_run,
    history,
    last_line,
    registered,
    running,
)
from tests.faults.commands import Forks
from tests.faults.report import Report
from tests.faults.sandbox import QUICK, Sandbox, sandboxes
from tests.faults.server import Server

_NETWORK = "resnet34"
_FIGURES = {
    *("curves", "confusion_test", "confusion_validation", "roc_test", "gallery", "grad_cam"),
    *("reliability_validation", "stress", "subgroups_test"),
}


@click.command()
@click.option("--outages", default=10, show_default=True)
@click.option("--epochs", default=60, show_default=True, help="Of the run with the outages.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where to work.")
def main(outages: int, epochs: int, seed: int, folder: Path | None) -> None:
    """Stop and start the tracking server during a run, and look at what arrived."""
    report, rng = Report("Tracking server stopped and started"), random.Random(seed)
    began = time.monotonic()
    with sandboxes(folder) as all_sandboxes:
        sandbox, forks = all_sandboxes.new("outages"), Forks()
        server = Server(sandbox.folder)
        server.start()
        try:
            counts = _come_and_go(report, server, sandbox, forks, outages, epochs, rng)
            other = all_sandboxes.new("away")
            _stay_away(report, server, other, forks)
        finally:
            server.stop()
    report.end({**counts, "minutes": round((time.monotonic() - began) / 60, 1)})


def _come_and_go(
    report: Report,
    server: Server,
    sandbox: Sandbox,
    forks: Forks,
    outages: int,
    epochs: int,
    rng: random.Random,
) -> dict[str, int]:
    process = forks.start(sandbox, _arguments(sandbox, server, epochs), "train")
    had = 0
    _await_text(sandbox.folder / "train.err", "epoch 1/", process.is_alive)
    while had < outages and process.is_alive():
        server.stop(rng.choice((signal.SIGKILL, signal.SIGTERM)))
        had += 1
        time.sleep(3 * rng.random())
        server.start()
        time.sleep(3 * rng.random())
    process.join()
    said = (sandbox.folder / "train.err").read_text()
    breach = "" if process.exitcode == 0 else last_line(sandbox.folder / "train.err")
    report.check("the run ends well", breach)
    warnings = said.count("does not answer")
    breach = "" if 1 <= warnings <= outages else f"{warnings} warnings, {outages} outages"
    report.check("at most one warning an outage", breach)
    report.check("no traceback is shown", "Traceback" if "Traceback" in said else "")
    store = client(server.url)
    _check_run(report, store, epochs)
    left = [str(path.name) for path in (sandbox.state / "runs").glob("*")]
    report.check("nothing is left on disk", ", ".join(left))
    during = len([line for line in said.splitlines() if " epoch " in line])
    return {"outages": had, "epochs": epochs, "epochs seen": during, "warnings": warnings}


def _stay_away(report: Report, server: Server, sandbox: Sandbox, forks: Forks) -> None:
    """The server stays away until the run has given up; then it is resumed."""
    process = forks.start(sandbox, _arguments(sandbox, server, 8), "train", PNEUMONIA_PATIENCE="4")
    _await_text(sandbox.folder / "train.err", "epoch 2/", process.is_alive)
    server.stop()
    process.join()
    said = (sandbox.folder / "train.err").read_text().splitlines()
    errors = [line for line in said if line.startswith("Error")]
    breach = "" if process.exitcode == 1 and len(errors) == 1 and said[-1] == errors[0] else said
    report.check("a server that stays away ends the run with one line", str(breach or ""))
    kept = list((sandbox.state / "runs").glob("*/outbox/*.json"))
    report.check("what was to be logged is kept", "" if kept else "nothing is kept")
    server.start()
    (run_folder,) = (sandbox.state / "runs").iterdir()
    code = forks.run(sandbox, ["train", "--resume", run_folder.name], "resume")
    breach = last_line(sandbox.folder / "resume.err") if code else ""
    report.check("the run is resumed when the server is back", breach)
    _check_run(report, client(server.url), 8, versions=2)


def _check_run(report: Report, store: mlflow.MlflowClient, epochs: int, versions: int = 1) -> None:
    """Check the latest run."""
    check = report.check
    check("no run is left RUNNING", running(store))
    latest = max(every_run(store), key=lambda run: run.info.start_time)
    breach = "" if latest.info.status == "FINISHED" else latest.info.status
    check("the run is FINISHED", breach)
    metrics = history(store, latest.info.run_id)
    check("no metric step is there twice", duplicates(metrics))
    expected = list(range(1, epochs + 1))
    for key in (key for key in metrics if key.startswith(("train/", "val/"))):
        steps = [step for step, _ in metrics[key]]
        check("every epoch's metrics have arrived", "" if steps == expected else f"{key} {steps}")
        by_step = sorted(store.get_metric_history(latest.info.run_id, key), key=lambda m: m.step)
        times = [metric.timestamp for metric in by_step]
        check("their times do not decrease", "" if times == sorted(times) else f"{key} {times}")
    figures = {Path(item.path).stem for item in store.list_artifacts(latest.info.run_id, "figures")}
    check("the figures are there", ", ".join(sorted(_FIGURES - figures)))
    kept = [item.path for item in store.list_artifacts(latest.info.run_id, "checkpoints")]
    check("the checkpoint is there", "" if "checkpoints/best.pt" in kept else f"{kept}")
    found = registered(store, _NETWORK)
    check("one version is registered", "" if len(found) == versions else f"versions {found}")


def _arguments(sandbox: Sandbox, server: Server, epochs: int) -> list[str]:
    return [
        *("train", "--data", str(sandbox.data), *QUICK, "--network", _NETWORK),
        *("--epochs", str(epochs), "--tracking-uri", server.url),
    ]


def _await_text(file: Path, text: str, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not file.exists() or text not in file.read_text(errors="replace"):
        if time.monotonic() > deadline or not alive():
            raise click.ClickException(f"{file.name} never said {text!r}: {last_line(file)}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
