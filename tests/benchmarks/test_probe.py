"""Evaluation holds no more mini-batches than it may keep."""

import weakref

import pytest
import torch

from benchmarks import models, streams
from benchmarks import run as module


@pytest.fixture
def stream():
    return streams.build("split_digits", 0)


def alive(stream, position=0):
    """The most mini-batches that are alive at once while a task is gone through."""
    probe = module._Probe(stream, "cpu")
    seen, most = [], 0
    for x, _ in probe.batches("test", position):
        seen.append(weakref.ref(x))
        most = max(most, sum(ref() is not None for ref in seen))
    return most, len(seen), probe


def test_a_large_task_is_never_held_whole(stream, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_BYTES", 4 * 8 * 8 * 10)
    monkeypatch.setattr(module, "CACHE_BYTES", 4 * 8 * 8 * 20)
    most, number, probe = alive(stream)
    assert number == len(stream.tasks[0].test) // 10 + 1
    assert most <= 2
    assert not probe.cache


def test_small_tasks_are_kept_as_far_as_there_is_room(stream, monkeypatch):
    sizes = [len(task.test) for task in stream.tasks]
    monkeypatch.setattr(module, "CACHE_BYTES", 4 * 8 * 8 * sum(sizes[:2]))
    probe = module._Probe(stream, "cpu")
    first = [[x for x, _ in probe.batches("test", i)] for i in range(5)]
    again = [[x for x, _ in probe.batches("test", i)] for i in range(5)]
    kept = [
        all(a is b for a, b in zip(*pair, strict=True)) for pair in zip(first, again, strict=True)
    ]
    assert kept == [True, True, False, False, False]
    assert probe.cached_bytes == 4 * 8 * 8 * sum(sizes[:2])


def test_the_size_of_mini_batches_changes_no_accuracy(stream, monkeypatch):
    torch.manual_seed(0)
    model = models.build("mlp", stream, {"hidden": [8]})
    whole = module._Probe(stream, "cpu").accuracy(model, "test")
    monkeypatch.setattr(module, "EVALUATION_BYTES", 1)
    assert module._Probe(stream, "cpu").accuracy(model, "test") == whole
