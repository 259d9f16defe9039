"""``pneumonia ui``: the server lives exactly as long as the command."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlflow
import psutil
import pytest
import requests
from click.testing import Result

from pneumonia.tracking.runs_page import runs_page
from pneumonia.tracking.store import connect
from tests.conftest import QUICK
from tests.faults.server import Server

LEADER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("started", flush=True)
time.sleep(float(sys.argv[1]))
"""
CALLER = """
import os, sys
from pneumonia.processes import run_until_stopped
try:
    sys.exit(run_until_stopped([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ))
except KeyboardInterrupt:
    sys.exit(130)
"""


def wait_until(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_the_page_of_a_run_is_printed_where_a_server_has_one(
    tmp_path: Path, xrays: Path, run_cli: Callable[..., Result]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        result = run_cli("train", "--data", xrays, *QUICK, "--tracking-uri", server.url)
        assert result.exit_code == 0, result.stderr
        first, link, *_ = result.stdout.splitlines()
        run_id = first.split()[1]
        run = mlflow.MlflowClient(server.url).get_run(run_id)
        page = f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
        assert link.strip() == page
    finally:
        server.stop()


def test_the_list_of_runs_opens_with_the_best_first(trained: SimpleNamespace) -> None:
    connect(trained.tracking_uri)
    page = runs_page("http://ui")
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    latest = client.search_runs(experiments, order_by=["attributes.start_time DESC"])[0]
    experiment = latest.info.experiment_id  # other tests add runs to this store
    assert page.startswith(f"http://ui/#/experiments/{experiment}/runs?")
    view = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.pneumonia"])
    (run,) = client.search_runs(["0"], "tags.kind = 'train'")
    for column in (view["orderByKey"], *view["selectedColumns"][1:]):
        kind, _, name = column.partition(".")
        assert name.strip("`") in getattr(run.data, kind), column
    (section,) = view["compareRunSections"]
    assert len({chart["uuid"] for chart in view["compareRunCharts"]}) == 6
    for chart in view["compareRunCharts"]:
        assert chart["metricKey"] in run.data.metrics
        assert chart["metricSectionId"] == section["uuid"]


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_a_stopped_ui_leaves_no_server_behind(tmp_path: Path, empty_store: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    command = [sys.executable, "-m", "pneumonia", "ui", "--port", str(port)]
    ui = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"))
        started = psutil.Process(ui.pid).children(recursive=True)
        assert started
        ui.terminate()
        assert ui.wait(timeout=20) == 128 + signal.SIGTERM
        assert not [process for process in started if process.is_running()]
    finally:
        ui.kill()
        ui.communicate()


@pytest.mark.parametrize(("seconds", "code"), [("60", 130), ("2", 0)], ids=["Ctrl-C", "ended"])
def test_nothing_that_a_program_started_is_left(seconds: str, code: int) -> None:
    """Neither after Ctrl-C nor when the program ends before its children."""
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, LEADER, seconds], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    caller.stdout.readline()
    started = psutil.Process(caller.pid).children(recursive=True)
    assert len(started) == 2
    if code:
        caller.send_signal(signal.SIGINT)
    assert caller.wait(timeout=20) == code
    assert not [process for process in started if process.is_running()]
    caller.stdout.close()


@pytest.mark.slow
def test_a_ui_for_others_prints_a_link_that_they_can_open(
    tmp_path: Path, empty_store: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    command = [sys.executable, "-m", "pneumonia", "ui", "--host", "0.0.0.0", "--port", str(port)]
    ui = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert ui.stdout is not None
        link = ui.stdout.readline().decode()
        assert link.startswith(f"http://{socket.gethostname()}:{port}/#/experiments/0/")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"))
        for host, code in ((f"{socket.gethostname()}:{port}", 200), ("evil.example", 403)):
            page = requests.get(
                f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0",
                headers={"Host": host},
                timeout=20,
            )
            assert page.status_code == code, host
    finally:
        ui.terminate()
        ui.communicate(timeout=30)
