"""A second process beside this one, for work that takes long on thousands of records.

It is forked, so it finds all that this one holds: to send it would take as long as the work.
"""

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

__all__ = ["MANY_RECORDS", "is_possible", "second_process"]

MANY_RECORDS = 2000
"""From so many on a second process is worth its start."""


def is_possible() -> bool:
    """Say whether this process can be forked without harm: it is on Linux and has no threads."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextmanager
def second_process() -> Iterator[ProcessPoolExecutor]:
    """Offer one process, forked with the first task that is submitted.

    What has not begun at the end is cancelled.
    """
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
