"""Several questions to the cluster at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(most: int) -> Iterator[ThreadPoolExecutor]:
    """Give so many threads, and wait for them at the end; who interrupts does not wait for their answers."""
    executor = ThreadPoolExecutor(most)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
