"""Work done in threads ahead of where its results are needed, in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what the work makes of it, in order.

    Args:
        work: What to do, in as many threads as there are cores.
        items: Taken only as far ahead as work is under way.
        window: Results that may be under way or waiting, at most.

    Raises:
        Exception: What the work raised, at its item's turn.
    """
    threads = ThreadPoolExecutor(max_workers=os.cpu_count())
    pending: deque[tuple[Item, Future[Result]]] = deque()
    items = iter(items)
    try:
        while True:
            for item in islice(items, window - len(pending)):
                pending.append((item, threads.submit(work, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
