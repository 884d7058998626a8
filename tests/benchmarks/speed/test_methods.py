"""What is timed of each method, at sizes that take no time."""

import pytest
import torch

from benchmarks import methods as registry
from benchmarks.speed import methods, timing


def test_every_method_that_trains_task_by_task_is_timed():
    found = methods.measure_methods(rounds=1, num_samples=16)
    assert set(found) == {n for n in registry.names() if not registry.get(n).joint}
    assert all(one["training"] > 0 and one["rounds"] == 1 for one in found.values())
    assert found["naive"]["stored"] == 0
    assert found["mas"]["stored"] == 2


def test_what_a_consolidated_penalty_stores_does_not_grow_with_tasks():
    found = methods.measure_tasks(counts=(2, 5), rounds=1, num_samples=8)
    for name in ("mas", "ewc", "ewc_online", "si"):
        assert found["2"][name]["stored"] <= 2
        assert found["5"][name]["stored"] == pytest.approx(2, abs=0.1), name
    assert found["5"]["avalanche_ewc"]["stored"] > 5


def test_the_memory_of_an_importance_pass_is_that_of_a_mini_batch():
    found = methods.measure_data(counts=(256, 20_000))
    assert set(found) == {"256", "20000"}
    peak = found["20000"]["peak_bytes"]
    if peak is not None:
        assert peak < 20_000 * 784 * 4  # the images as floats would take more


def test_the_peak_of_memory_is_seen():
    peak = timing.peak_bytes(lambda: torch.ones(40_000_000).sum())
    if peak is not None:
        assert 150e6 < peak < 250e6
