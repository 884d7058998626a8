"""Whole runs of naive training and of MAS, timed against each other."""

from types import SimpleNamespace

import pytest

from benchmarks.speed import overhead


def test_the_runs_are_those_of_the_study_on_a_smaller_stream(monkeypatch):
    done = []

    def execute(config):
        done.append(config)
        return SimpleNamespace(status="finished", seconds={"consolidation": [1.0, len(done)]})

    monkeypatch.setattr(overhead, "execute", execute)
    found = overhead.measure_overhead(rounds=1, studies={"glyphs": {"tasks": ["digits"]}})
    assert [config.method for config in done] == ["naive", "mas", "mas_sampled"] * 2
    naive, mas, sampled = done[3:]
    assert {tuple(config.stream_options["tasks"]) for config in done} == {("digits",)}
    assert naive.strength is None
    assert mas.strength == sampled.strength
    assert sampled.method_options == {"tolerance": 0.02}
    results = found["glyphs"]["results"]
    assert [results[name]["consolidation"] for name in results] == [5.0, 6.0, 7.0]
    assert results["naive"]["ratio"] == 1.0


def test_a_run_that_fails_says_why(monkeypatch):
    failed = SimpleNamespace(status="failed", error="no room")
    monkeypatch.setattr(overhead, "execute", lambda config: failed)
    with pytest.raises(RuntimeError, match="Expected naive to finish, got: no room"):
        overhead.measure_overhead(rounds=1, studies={"glyphs": {"tasks": ["digits"]}})
