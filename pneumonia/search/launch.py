"""Several workers on this machine, each a process with its share of the cores and GPUs."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping

import torch

from pneumonia.cores import available_cores
from pneumonia.errors import TrainingError
from pneumonia.search.report import result_of
from pneumonia.search.session import Search
from pneumonia.tracking.results import TrainingResult
from pneumonia.tracking.run_lifecycle import run_context
from pneumonia.tracking.store import tracking_uri

log = logging.getLogger(__name__)


def launch_workers(search: Search, n_workers: int) -> TrainingResult | None:
    """Start workers on a search, relay their logs, and wait for them.

    Returns:
        The result; None where the timeout has passed and other workers continue.

    Raises:
        KeyboardInterrupt: After every worker has put its trial back into the queue.
        TrainingError: The workers ended, and the study has no winner.
    """
    command = [
        *(sys.executable, "-m", "pneumonia", "train", "--resume", search.run.id, "--join"),
        *("--tracking-uri", tracking_uri()),
    ]
    search.run.outbox.flush(wait=True)
    # Workers end the run; but one that is stopped while it starts has not opened it yet.
    with run_context(search.run, shared=search.queue.others_at_work):
        workers = _run_workers(command, n_workers)
        result = result_of(search.queue.study)
        if result is None and not search.queue.others_at_work():
            codes = ", ".join(str(worker.returncode) for worker in workers)
            raise TrainingError(
                f"the workers ended with exit codes {codes} before the study had a winner: see "
                f"above, and resume with 'pneumonia train --resume {search.run.id}'"
            )
    return result


def _run_workers(command: list[str], n_workers: int) -> list[subprocess.Popen[str]]:
    """Start workers, relay their logs, and wait until they have ended."""
    workers: list[subprocess.Popen[str]] = []
    relays: list[threading.Thread] = []
    try:
        for number in range(n_workers):
            worker = subprocess.Popen(
                command,
                env={**os.environ, **share_of_machine(number, n_workers)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on once
            )
            workers.append(worker)
            relay = threading.Thread(target=_relay, args=(number + 1, worker), daemon=True)
            relays.append(relay)
            relay.start()
        for worker in workers:
            worker.wait()
    except KeyboardInterrupt:
        _stop(workers)
        raise
    finally:
        for relay in relays:
            relay.join(timeout=10)
    return workers


def share_of_machine(number: int, n_workers: int) -> Mapping[str, str]:
    """Environment variables that give one worker its share of the cores and GPUs.

    Args:
        number: The worker's, from 0.
        n_workers: How many share the machine.
    """
    share = {}
    if "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, available_cores() // n_workers))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    if gpus:
        own = gpus[number::n_workers] or [gpus[number % len(gpus)]]
        share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return share


def _relay(number: int, worker: subprocess.Popen[str]) -> None:
    """Log each line that a worker logs, with its number."""
    assert worker.stderr is not None
    for line in worker.stderr:
        log.info("[%d] %s", number, line.rstrip("\n"))


def _stop(workers: list[subprocess.Popen[str]]) -> None:
    """Pass an interrupt on, and wait; a second one stops at once."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(sent)
        try:
            for worker in workers:
                worker.wait()
        except KeyboardInterrupt:
            continue
        return
