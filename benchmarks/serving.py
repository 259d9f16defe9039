"""A model behind ``mlflow models serve`` on loopback: rates, latencies, memory, and garbage."""

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
import requests

from benchmarks.model import model_and_images, model_options
from benchmarks.report import Figure, report
from pneumonia.prediction.paths import find_paths

_BATCH_SIZES = (1, 8, 64)
_GARBAGE: Sequence[object] = ("not base64", "", 5, None, "A" * 100_000, "/etc/hostname", {"a": []})
_SERVER_ERROR = 500
_EVERY = 50
"""A request of garbage comes after so many others."""


class Service:
    """A served model, and its process."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url, self.process = url, process
        self.session = requests.Session()

    def ask(self, images: Sequence[object]) -> requests.Response:
        """Send images, and wait for the answer."""
        body = json.dumps({"instances": [{"image": image} for image in images]})
        headers = {"Content-Type": "application/json"}
        return self.session.post(f"{self.url}/invocations", body, headers=headers, timeout=120)

    def megabytes(self) -> float:
        """Memory of the server and of the processes that it started, in MiB."""
        everyone = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_info().rss for one in everyone) / 2**20


@contextmanager
def served(model_uri: str, tracking_uri: str) -> Iterator[Service]:
    """Serve a model, in processes that end with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server)
            yield Service(url, psutil.Process(server.pid))
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise click.ClickException(f"the server ended with exit code {server.returncode}")
        try:
            if requests.get(f"{url}/ping", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise click.ClickException("the server did not start within five minutes")


def measure(service: Service, images: Sequence[str], batch: int, n_requests: int) -> list[Figure]:
    """Send one batch again and again."""
    sent = [images[number % len(images)] for number in range(batch)]
    service.ask(sent)
    seconds = []
    for _ in range(n_requests):
        started = time.perf_counter()
        service.ask(sent).raise_for_status()
        seconds.append(time.perf_counter() - started)
    last = statistics.quantiles(seconds, n=100)[98]
    return [
        Figure(f"images a second, {batch} a request", [batch / s for s in seconds], "images/s"),
        Figure(f"latency, {batch} a request", [1000 * s for s in seconds], "ms"),
        Figure(f"latency, {batch} a request, 99th percentile", [1000 * last], "ms"),
    ]


def endure(service: Service, images: Sequence[str], n_requests: int) -> list[Figure]:
    """Send single images, and garbage between them; see that answers and memory stay."""
    (wanted,) = service.ask(images[:1]).json()["predictions"]
    for _ in range(100):
        service.ask(images[:1])
    before = service.megabytes()
    wrong = failed = refused = 0
    for number in range(n_requests):
        if number % _EVERY == _EVERY - 1:
            garbage = _GARBAGE[number // _EVERY % len(_GARBAGE)]
            answer = service.ask([garbage, images[0]])
            failed += answer.status_code >= _SERVER_ERROR
            if answer.ok:
                spoilt, beside = answer.json()["predictions"]
                wrong += spoilt["status"] != "error" or beside != wanted
            else:
                refused += 1
        else:
            (found,) = service.ask(images[:1]).json()["predictions"]
            wrong += found != wanted
    return [
        Figure(f"memory after {n_requests:,} requests", [service.megabytes()], "MiB"),
        Figure("memory before them", [before], "MiB"),
        Figure("their ratio", [service.megabytes() / before], limit="<= 1.05"),
        Figure("answers that were wrong", [wrong], limit="0"),
        Figure("requests of garbage refused whole, by 4xx", [refused]),
        Figure("requests that failed the server, by 5xx", [failed], limit="0"),
    ]


@click.command()
@model_options
@click.option("--requests", "n_requests", default=10_000, show_default=True)
@click.option("--timed", default=100, show_default=True, help="Requests timed of each size.")
def main(
    model_uri: str | None, tracking_uri: str, images: Path | None, n_requests: int, timed: int
) -> None:
    """Serve a model, time requests of several sizes, then send many and some garbage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_uri, tracking_uri, images = model_and_images(
            folder, model_uri, tracking_uri, images, patients=40
        )
        files = list(find_paths([images]))[:64]
        encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
        with served(model_uri, tracking_uri) as service:
            figures = [
                figure
                for batch in _BATCH_SIZES
                for figure in measure(service, encoded, batch, timed)
            ]
            figures += endure(service, encoded, n_requests)
    report("serving", figures, model=model_uri, files=len(files))


if __name__ == "__main__":
    main()
