"""Stopping at a convenient moment: the first request is noted, the second one obeyed at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedBetweenBatches(KeyboardInterrupt):
    """Training was asked to stop, and did where its state is whole."""


@contextmanager
def defer_interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block, note the first SIGINT or SIGTERM instead of being interrupted by it.

    Yields:
        A function that says whether one has come. A second SIGINT raises KeyboardInterrupt there
        and then. Outside the main thread, where Python lets nobody handle signals, none is noted.
    """
    noted = threading.Event()

    def note(number: int, _frame: FrameType | None) -> None:
        if noted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.set()

    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
