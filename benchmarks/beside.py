"""A second process beside this one, for reports of thousands of records.

It is forked, so it finds all that this one holds: to send it would take as long as the work.
"""

import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["MANY_RECORDS", "Task", "is_possible", "meanwhile"]

T = TypeVar("T")

MANY_RECORDS = 2000
"""From so many on a second process is worth its start."""


class Task(Generic[T]):
    """Something that is done when it is needed, or before that by the second process.

    Args:
        function: What to call, once.
        *args: With what.
    """

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        self.do = partial(function, *args)
        self.there: Future[T] | None = None

    def __call__(self) -> T:
        """Return what the function returns; to be called once."""
        there, self.there = self.there, None  # the result may be large
        if there is None or there.cancel():
            return self.do()
        return there.result()


def is_possible() -> bool:
    """Say whether this process can be forked without harm: it is on Linux and has no threads."""
    return sys.platform == "linux" and threading.active_count() == 1


_tasks: list[Task[Any]] = []  # where the forked process finds them


@contextmanager
def meanwhile(tasks: Sequence[Task[Any]], num_records: int) -> Iterator[None]:
    """Have a second process do tasks in their order, inside, that this one has not come to.

    Args:
        tasks: Ready to be done.
        num_records: Of how many records they are; for few, this process does them all.
    """
    if num_records < MANY_RECORDS or not is_possible():
        yield
        return
    _tasks[:] = tasks
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    try:
        for number, task in enumerate(tasks):
            task.there = pool.submit(_do, number)
        yield
    finally:
        pool.shutdown(cancel_futures=True)
        _tasks.clear()


def _do(number: int) -> Any:
    return _tasks[number].do()
