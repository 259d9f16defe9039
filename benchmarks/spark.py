"""``predict --spark`` on a cluster on loopback: one worker, two, and one killed in the middle."""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import pandas as pd
import psutil
import pyspark

from benchmarks.model import model_and_images, model_options
from benchmarks.report import Figure, ratios, report
from pneumonia.prediction.paths import find_paths

_MASTER_PORT_WAIT = 60.0
"""Seconds until a master listens."""


class Cluster:
    """A standalone master and workers of one core each.

    Attributes:
        url: What ``--spark`` takes.
        workers: Their processes.
    """

    def __init__(self, n_workers: int, folder: Path) -> None:
        """Start them, and wait until the master listens."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"spark://127.0.0.1:{port}"
        listen = ["--host", "127.0.0.1", "--webui-port", "0"]
        self._master = _spark_class("master.Master", *listen, "--port", str(port))
        _await_port(port)
        size = ["--cores", "1", "--memory", "2g"]
        self.workers = [
            _spark_class("worker.Worker", *listen, *size, "-d", str(folder / str(n)), self.url)
            for n in range(n_workers)
        ]

    def kill_worker(self) -> None:
        """Kill a worker and the processes that it started, as a machine that fails does."""
        _kill(self.workers.pop())

    def stop(self) -> None:
        """Kill all that is left."""
        for process in (*self.workers, self._master):
            _kill(process)


@contextmanager
def cluster(n_workers: int) -> Iterator[Cluster]:
    """A cluster on loopback that ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        started = Cluster(n_workers, Path(folder))
        try:
            yield started
        finally:
            started.stop()


def _spark_class(name: str, *options: str) -> psutil.Popen:
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-class")]
    command += [f"org.apache.spark.deploy.{name}", *options]
    return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _await_port(port: int) -> None:
    end = time.monotonic() + _MASTER_PORT_WAIT
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise click.ClickException(f"the master did not listen within {_MASTER_PORT_WAIT:g} s")


def _kill(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def score(model: list[str], images: list[Path], master: str, output: Path) -> float:
    """Score images in a process of its own; returns the seconds of the whole command."""
    command = [sys.executable, "-m", "pneumonia", "predict", *model, "-", "--spark", master]
    listed = "\n".join(map(str, images))
    started = time.perf_counter()
    command += ["--output", str(output)]
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: some were rejected
        raise click.ClickException(done.stderr.strip().splitlines()[-1])
    return time.perf_counter() - started


def _copies(files: list[Path], folder: Path, count: int) -> list[Path]:
    """As many names as wanted, each a link to one of the files."""
    folder.mkdir()
    links = [folder / f"{number}{files[number % len(files)].suffix}" for number in range(count)]
    for number, link in enumerate(links):
        link.symlink_to(files[number % len(files)].absolute())
    return links


def rows(output: Path) -> pd.DataFrame:
    """What was written, by path."""
    return pd.read_parquet(output).sort_values("path", ignore_index=True)


@click.command()
@model_options
@click.option("--count", default=5_000, show_default=True, help="Images, some of them copies.")
@click.option("--repeats", default=3, show_default=True)
def main(
    model_uri: str | None, tracking_uri: str, images: Path | None, count: int, repeats: int
) -> None:
    """Score the same images with one worker and with two in turns, and while one is killed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_uri, tracking_uri, images = model_and_images(
            folder, model_uri, tracking_uri, images, patients=400
        )
        model = ["--model-uri", model_uri, "--tracking-uri", tracking_uri]
        files = _copies([Path(str(file)) for file in find_paths([images])], folder / "many", count)
        start: dict[int, list[float]] = {1: [], 2: []}
        whole: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(repeats):
            for n_workers in (1, 2):
                with cluster(n_workers) as started:
                    output = folder / f"{n_workers}-{repeat}"
                    few, first = files[:n_workers], folder / f"start-{output.name}"
                    start[n_workers].append(score(model, few, started.url, first))
                    whole[n_workers].append(score(model, files, started.url, output))
        wanted = rows(folder / "2-0")
        with cluster(2) as started:
            middle = (min(start[2]) + min(whole[2])) / 2
            threading.Timer(middle, started.kill_worker).start()
            killed = score(model, files, started.url, folder / "killed")
            n_left = len(started.workers)
        found = rows(folder / "killed")
    same = all(found[column].equals(wanted[column]) for column in ("path", "probability", "label"))
    wrong = len(set(wanted.path) ^ set(found.path)) + int(found.path.duplicated().sum())
    work = {
        n_workers: [
            all_of - first for all_of, first in zip(whole[n_workers], start[n_workers], strict=True)
        ]
        for n_workers in (1, 2)
    }
    report(
        "spark",
        [
            Figure("start: one worker, one image", start[1], "s"),
            Figure("start: two workers, two images", start[2], "s"),
            Figure("all images, one worker", whole[1], "s"),
            Figure("all images, two workers", whole[2], "s"),
            Figure("one worker over two, the whole command", ratios(whole[1], whole[2])),
            Figure("one worker over two, beyond the start", ratios(work[1], work[2])),
            Figure("one of two workers killed in the middle", [killed], "s"),
            Figure("workers left then", [n_left], limit="1"),
            Figure("images without a row, or with two", [wrong], limit="0"),
            Figure("rows equal to those of the undisturbed run", [float(same)], limit="1"),
        ],
        model=model_uri,
        images=len(files),
    )


if __name__ == "__main__":
    main()
