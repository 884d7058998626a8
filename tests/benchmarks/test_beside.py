"""The second process does what this one has not come to, and nothing twice."""

import os
import sys
import threading
from concurrent.futures import Future, wait

import pytest

from benchmarks import beside
from benchmarks.beside import Task

forks = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.mark.parametrize(("begun", "expected"), [(True, "there"), (False, "done here")])
def test_what_the_second_process_has_not_begun_is_done_here(begun, expected):
    task = Task(" ".join, ["done", "here"])
    task.there = Future()
    if begun:
        task.there.set_running_or_notify_cancel()
        task.there.set_result("there")
    assert task() == expected


@forks
def test_the_second_process_finds_what_this_one_holds(monkeypatch):
    monkeypatch.setattr(beside, "is_possible", lambda: True)
    held = []
    tasks = [Task(lambda: (os.getpid(), list(held))) for _ in range(3)]
    held.append("not sent")
    with beside.meanwhile(tasks, beside.MANY_RECORDS):
        wait([task.there for task in tasks])
        found = [task() for task in tasks]
    assert len(set(map(repr, found))) == 1
    assert found[0][0] != os.getpid()
    assert found[0][1] == ["not sent"]


@forks
def test_what_it_fails_at_is_raised_here(monkeypatch):
    monkeypatch.setattr(beside, "is_possible", lambda: True)
    task = Task(int, "no number")
    with beside.meanwhile([task], beside.MANY_RECORDS):
        wait([task.there])
        with pytest.raises(ValueError, match="no number"):
            task()


def test_few_records_and_threads_stay_with_one_process():
    task = Task(os.getpid)
    with beside.meanwhile([task], beside.MANY_RECORDS - 1):
        assert task() == os.getpid()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert not beside.is_possible()
        with beside.meanwhile([task], beside.MANY_RECORDS):
            assert task() == os.getpid()
    finally:
        end.set()
        thread.join()
