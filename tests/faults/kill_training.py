"""A training run killed at any moment and resumed ends as if nothing had happened.

python -m tests.faults.kill_training --kills 50

Claimed: after a SIGKILL anywhere, and ``pneumonia train --resume RUN``, the run has the very
metrics, parameters, artifacts and weights of one that was never killed (bit for bit, fp32 on a
CPU); no step of a metric is there twice; no run is left RUNNING; exactly one version is
registered, and is the champion; nothing of the run is left in the state folder.

A run that dies before it has said how it was invoked cannot be resumed: it is begun anew, as its
user would, and only for this run is one more ended run allowed.
"""

import contextlib
import math
import random
import signal
import time
from collections import Counter
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import click
import psutil

from tests.faults.checks import (
    Finding,
    client,
    duplicates,
    every_run,
    history,
    last_line,
    registered,
    running,
)
from tests.faults.commands import Forks
from tests.faults.kill_point import KillPoint
from tests.faults.report import Report
from tests.faults.sandbox import QUICK, Sandbox, Sandboxes, sandboxes

_KILL_POINTS = (
    KillPoint("create_run", "after"),
    KillPoint("log_inputs", "before"),
    KillPoint("log_inputs", "after"),
    KillPoint("log_artifact", "before"),
    KillPoint("log_artifact", "after"),
    KillPoint("log_batch", "after", 1),
    KillPoint("epoch", "after", 1),
    KillPoint("epoch", "during", 2, 0.2),
    KillPoint("checkpoint", "before", 1),
    KillPoint("checkpoint", "during", 1, 0.02),
    KillPoint("checkpoint", "during", 2, 0.10),
    KillPoint("checkpoint", "after", 1),
    KillPoint("checkpoint", "after", 2),
    KillPoint("log_batch", "before", 6),
    KillPoint("log_batch", "after", 6),
    KillPoint("log_model", "before"),
    KillPoint("log_model", "during", 1, 0.05),
    KillPoint("log_model", "during", 1, 0.3),
    KillPoint("finalize_model", "before"),
    KillPoint("log_model", "after"),
    KillPoint("register", "during", 1, 0.02),
    KillPoint("register", "after"),
    KillPoint("promote", "before"),
    KillPoint("promote", "after"),
    KillPoint("set_terminated", "before"),
    KillPoint("set_terminated", "after"),
    KillPoint("forget", "before"),
)


class Killing:
    """Kills runs of one kind, resumes them, and compares them with an undisturbed one."""

    def __init__(self, all_sandboxes: Sandboxes, network: str, epochs: int, report: Report) -> None:
        self.sandboxes, self.report, self.network = all_sandboxes, report, network
        self.forks = Forks()
        self.arguments = [
            *("train", "--data", str(all_sandboxes.data), *QUICK, "--network", network),
            *("--epochs", str(epochs), "--experiment-name", "faults"),
        ]
        self.found_at: Counter[str] = Counter()
        self.begun_anew = 0
        self.killed = 0

    def undisturbed(self) -> float:
        """Train once without harm; how long it takes in seconds of CPU time."""
        self.forks.run(self.new_sandbox("warm"), self.arguments, "train")  # decodes the images
        self.sandboxes.folder.joinpath("warm", "mlflow.db").unlink()
        sandbox = self.new_sandbox("undisturbed")
        process = self.forks.start(sandbox, self.arguments, "train")
        took = await_cpu_seconds(process, math.inf)
        if process.exitcode:
            raise click.ClickException(last_line(sandbox.folder / "train.err"))
        store = client(sandbox.tracking_uri)
        (run,) = every_run(store)
        self.expected = Finding.of(store, run.info.run_id, self.network)
        return took

    def new_sandbox(self, name: str) -> Sandbox:
        """A sandbox with an empty store: making its tables takes seconds and is not the subject."""
        from pneumonia.tracking.store import connect

        template = self.sandboxes.folder / "empty.db"
        if not template.exists():
            connect(f"sqlite:///{template}")
        sandbox = self.sandboxes.new(name)
        (sandbox.folder / "mlflow.db").write_bytes(template.read_bytes())
        return sandbox

    def once(
        self, case: str, *, after: float | None = None, kill_point: KillPoint | None = None
    ) -> None:
        """Kill one run after so many seconds of CPU time or at a kill point; resume it, compare."""
        sandbox = self.new_sandbox(case.replace(" ", "-"))
        process = self.forks.start(sandbox, self.arguments, "train", kill_point)
        await_cpu_seconds(process, math.inf if after is None else after)
        process.kill()
        process.join()
        died = process.exitcode == -signal.SIGKILL
        self.killed += died
        doing = (sandbox.folder / "doing").read_text().strip() if died else "it had ended"
        self.found_at[doing or "starting"] += 1
        case = f"{case} (in {doing})"
        if not died and kill_point is not None:
            self.report.check(
                "a kill point stops the process", f"exit code {process.exitcode}", case
            )
        self._resume(sandbox, case)
        self._compare(sandbox, case)
        sandbox.remove()

    def _resume(self, sandbox: Sandbox, case: str) -> None:
        store = client(sandbox.tracking_uri)
        for run in every_run(store):
            code = self.forks.run(sandbox, ["train", "--resume", run.info.run_id], "resume")
            said = last_line(sandbox.folder / "resume.err")
            if code == 0:
                return
            if run.info.status == "FINISHED" and "nothing to resume" in said:
                return
            if "begin it anew" not in said:
                self.report.check("a killed run resumes", f"exit code {code}: {said}", case)
                return
        self.begun_anew += 1
        code = self.forks.run(sandbox, self.arguments, "anew")
        if code:
            self.report.check("a killed run resumes", last_line(sandbox.folder / "anew.err"), case)

    def _compare(self, sandbox: Sandbox, case: str) -> None:
        check = self.report.check
        store = client(sandbox.tracking_uri)
        check("no run is left RUNNING", running(store), case)
        ended = [run for run in every_run(store) if run.info.status == "FINISHED"]
        breach = "" if len(ended) == 1 else f"{len(ended)} finished runs"
        if not check("one run has ended well", breach, case):
            return
        run_id = ended[0].info.run_id
        check("no metric step is there twice", duplicates(history(store, run_id)), case)
        versions = registered(store, self.network)
        check("one version is registered", "" if versions == ["1"] else str(versions), case)
        models = store.search_logged_models([run.info.experiment_id for run in ended])
        states = [str(model.status) for model in models]
        check("one model is logged", "" if len(states) == 1 else str(states), case)
        try:
            breach = self.expected.difference(Finding.of(store, run_id, self.network))
        except Exception as error:  # noqa: BLE001 - whatever cannot be read is a breach
            breach = f"{type(error).__name__}: {error}"
        check("metrics, artifacts and weights are the same", breach, case)
        left = [str(path.name) for path in (sandbox.state / "runs").glob("*")]
        check("nothing is left on disk", ", ".join(left), case)


def await_cpu_seconds(process: BaseProcess, seconds: float) -> float:
    """Wait until a process has worked for some seconds, or has ended; how many it has.

    Not the clock's seconds: the machine may be busy with other things at one time and not another.
    """
    worked = 0.0
    while process.is_alive() and worked < seconds:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(process.pid).cpu_times()
            worked = times.user + times.system
        time.sleep(0.005)
    return worked


@click.command()
@click.option("--kills", default=50, show_default=True, help="Kills at random moments.")
@click.option(
    "--kill-points/--no-kill-points",
    default=True,
    show_default=True,
    help="Kill at each kill point, too.",
)
@click.option("--network", default="resnet34", show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where to work.")
def main(
    kills: int, kill_points: bool, network: str, epochs: int, seed: int, folder: Path | None
) -> None:
    """Kill training runs with SIGKILL, resume each, and compare with an undisturbed one."""
    report, rng = Report("Training killed and resumed"), random.Random(seed)
    began = time.monotonic()
    with sandboxes(folder) as all_sandboxes:
        killing = Killing(all_sandboxes, network, epochs, report)
        life = killing.undisturbed()
        click.echo(f"an undisturbed run takes {life:.1f} s of CPU time", err=True)
        for number in range(kills):
            # Spread over the whole life, a little jittered.
            after = life * (number + rng.random()) / kills
            killing.once(f"kill {number} at {after:.2f} s", after=after)
        for kill_point in islice(_KILL_POINTS, None if kill_points else 0):
            killing.once(str(kill_point), kill_point=kill_point)
    report.end(
        {
            "network": network,
            "random": kills,
            "kill points": len(_KILL_POINTS) if kill_points else 0,
            "killed": killing.killed,
            "found doing": dict(killing.found_at),
            "begun anew": killing.begun_anew,
            "CPU seconds a run": round(life, 1),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
    )


if __name__ == "__main__":
    main()
