"""``pneumonia ui``: the server lives exactly as long as the command."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

LEADER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("started", flush=True)
time.sleep(float(sys.argv[1]))
"""
CALLER = """
import os, sys
from pneumonia.processes import run_until_stopped
sys.exit(run_until_stopped([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ))
"""


def wait_until(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_ui_leaves_no_server_behind(
    request_: signal.Signals, tmp_path: Path, empty_store: Path
) -> None:
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
        ui.send_signal(request_)
        assert ui.wait(timeout=20) == 128 + request_
        assert not [process for process in started if process.is_running()]
    finally:
        ui.kill()
        ui.communicate()


def test_children_of_a_program_that_ended_are_stopped_too() -> None:
    """Nobody else would: they have no parent any more."""
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, LEADER, "2"], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    caller.stdout.readline()
    started = psutil.Process(caller.pid).children(recursive=True)
    assert len(started) == 2
    assert caller.wait(timeout=20) == 0
    assert not [process for process in started if process.is_running()]
    caller.stdout.close()
