"""Other workers of a run on this machine, beside this process."""

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import psutil
import torch

from pneumonia.cores import own_share, reserve_cores
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import tracking_uri

log = logging.getLogger(__name__)

_MIN_SECONDS_LEFT = 120.0
"""Seconds left that make other workers worth starting, which takes 5-8 seconds of a core."""


class OtherWorkers:
    """Processes that train trials, folds or seeds of a run beside this one, which is worker 1.

    All divide the cores between them as they start and end. What the others log is logged here,
    with the worker's number. As a context manager it waits for them; where the block was left by an
    exception, it first stops them, and each saves its training.

    Args:
        run: The run.
        command: What each process runs, after ``pneumonia``.
        n_workers: How many processes beside this one, 0 for none; None leaves the number to
            ``start_if_faster``.
        min_per_worker: The fewest trainings for each worker that make one more worth starting.
        deadline: Value of ``time.monotonic`` after which no worker begins a trial.
    """

    def __init__(
        self,
        run: Run,
        command: Sequence[str],
        n_workers: int | None,
        *,
        min_per_worker: int = 1,
        deadline: float = math.inf,
    ) -> None:
        self._run, self._command, self._n_workers = run, command, n_workers
        self._min_per_worker, self._deadline = min_per_worker, deadline
        self._processes: list[subprocess.Popen[str]] = []
        self._relays: list[threading.Thread] = []
        self._stopping = False

    @property
    def number_is_open(self) -> bool:
        """Whether it is not decided yet how many processes to start."""
        return self._n_workers is None

    def start_if_faster(self, device: torch.device, n_waiting: int, seconds_left: float) -> None:
        """Decide how many processes make the whole faster, and start them.

        One worker a core, or one a GPU: two trainings with one thread each are faster than one
        training with two threads. No more workers than fit into the memory. None where
        ``OMP_NUM_THREADS`` is set. Where little is left to train, or the tracking store does not
        answer, the number stays open.

        Args:
            device: Where this process trains.
            n_waiting: Trials, folds or seeds that no worker has begun.
            seconds_left: What is left with one worker.
        """
        if seconds_left < _MIN_SECONDS_LEFT or not self._run.outbox.flush():
            return
        slots = own_share() if device.type == "cpu" else torch.cuda.device_count()
        in_memory = psutil.virtual_memory().available // psutil.Process().memory_info().rss
        by_trainings = (n_waiting + 1) // self._min_per_worker
        self._n_workers = max(0, min(slots - 1, in_memory, by_trainings - 1))
        self.start()

    def start(self) -> None:
        """Start the processes, if their number is decided."""
        if not self._n_workers:
            return
        s = "s" if self._n_workers > 1 else ""
        log.info("starting %d more worker%s on this machine", self._n_workers, s)
        self._run.outbox.flush(wait=True)  # the processes read the run
        command = [
            *(sys.executable, "-m", "pneumonia", *self._command),
            *("--tracking-uri", tracking_uri()),
        ]
        if self._deadline < math.inf:
            left = max(1.0, self._deadline - time.monotonic())
            command += ["--timeout", f"{left:.0f}"]
        for number in range(2, self._n_workers + 2):
            try:
                worker = subprocess.Popen(
                    command,
                    env={**os.environ, **_own_gpu(number, self._n_workers + 1)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # this process passes Ctrl-C on, once
                )
            except OSError as error:
                log.warning("cannot start worker %d: %s; the others go on", number, error)
                return
            with contextlib.suppress(OSError, psutil.Error):
                reserve_cores(worker.pid)
            self._processes.append(worker)
            self._relays.append(
                threading.Thread(target=self._relay, args=(number, worker), daemon=True)
            )
            self._relays[-1].start()

    def wait(self) -> None:
        """Wait until all have ended."""
        for worker in self._processes:
            worker.wait()
        for relay in self._relays:
            relay.join(timeout=10)

    def __enter__(self) -> Self:
        """Return this object; ``start`` starts the processes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Wait for the processes, after stopping them if the block failed or was interrupted."""
        try:
            if kind is None:
                self.wait()
                return
        except KeyboardInterrupt:
            self._stop()
            raise
        self._stop()

    def _stop(self) -> None:
        """Interrupt the processes, and wait; one more interrupt of this one kills them."""
        self._stopping = True
        for sent in (signal.SIGINT, signal.SIGKILL):
            for worker in self._processes:
                if worker.poll() is None:
                    worker.send_signal(sent)
            try:
                self.wait()
            except KeyboardInterrupt:
                continue
            return

    def _relay(self, number: int, worker: subprocess.Popen[str]) -> None:
        """Log each line that a worker logs, with its number, and how it ended if it failed."""
        assert worker.stderr is not None
        for line in worker.stderr:
            log.info("[%d] %s", number, line.rstrip("\n"))
        if worker.wait() and not self._stopping:
            log.warning("[%d] ended with exit code %d; the others go on", number, worker.returncode)


def _own_gpu(number: int, n_workers: int) -> Mapping[str, str]:
    """Environment variables that give a worker its GPUs; worker 1 takes the first one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    if not gpus:
        return {}
    own = gpus[number - 1 :: n_workers] or [gpus[(number - 1) % len(gpus)]]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)}
