import io

import pytest
from rich.console import Console

from benchmarks.view import Estimate, LineView, LiveView, describe
from tests.benchmarks.studies import smoke_config
from tests.benchmarks.test_record import make_record


def record_of(method, seconds, **changes):
    config = smoke_config(method, 0.1 if method == "mas" else None)
    return make_record(config, seconds={"total": seconds}, **changes)


def test_time_is_guessed_from_runs_of_the_same_kind():
    estimate = Estimate([record_of("naive", 2.0), record_of("naive", 4.0), record_of("mas", 9.0)])
    assert estimate.of("digits", "naive") == 3.0
    assert estimate.of("digits", "mas") == 9.0
    assert estimate.of("digits", "ewc") == pytest.approx(5.0)
    assert estimate.of("glyphs", "ewc") is None
    kinds = [("digits", "naive")] * 4 + [("digits", "mas")] * 2
    assert estimate.total(kinds, processes=2) == pytest.approx(15.0)
    assert estimate.total([*kinds, ("glyphs", "naive")], processes=2) == pytest.approx(17.5)
    assert estimate.total([("glyphs", "naive")], processes=2) is None
    assert estimate.total([], processes=2) == 0.0


def test_runs_that_did_not_finish_tell_nothing_of_time():
    assert Estimate([record_of("naive", 2.0, status="failed")]).of("digits", "naive") is None


FAILED = {
    "status": "failed",
    "error": {"type": "E", "message": "out of\nmemory", "traceback": ""},
    "accuracy": {},
}


def test_without_a_terminal_there_is_one_line_a_run():
    stream = io.StringIO()
    view = LineView(stream)
    view.start(0, 2, 1)
    view.running([smoke_config()])
    view.ended(record_of("mas", 75.0), 1, 2, 12.0)
    view.ended(record_of("naive", 1.0, **FAILED), 2, 2, 0.0)
    view.stop()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "2 of 2 runs to do, 1 at a time.",
        "[1/2] digits: mas 0.1, seed 1: average test accuracy 0.875 in 1 min 15 s "
        "(about 12.0 s left)",
        "[2/2] digits: naive, seed 1: FAILED after 1.0 s: out of",
    ]


def test_a_terminal_shows_the_whole_in_place():
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=120))
    view.start(0, 2, 1)
    view.running([smoke_config()])
    view.ended(record_of("naive", 1.0, **FAILED), 1, 2, 61.0)
    view.stop()
    text = stream.getvalue()
    assert describe(smoke_config()) in text
    assert "1 failed" in text
    assert "about 1 min 01 s left" in text
    assert "FAILED after 1.0 s" in text


def test_a_terminal_shows_what_runs_and_what_has_failed_before_and_keeps_the_bar_in_sight():
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=120, height=10))
    view.start(3, 50, 40, failed=2)
    view.running([smoke_config()] * 40)
    assert view.progress.tasks[0].description == "40 running, 2 failed, done"
    shown = Console(file=io.StringIO(), width=120)
    shown.print(view._render())
    lines = shown.file.getvalue().splitlines()
    assert len(lines) <= 10
    assert "and 34 more" in lines[-2]
    assert "40 running, 2 failed, done" in lines[-1]
    assert "3/50" in lines[-1]
    view.stop()
    assert view.progress.tasks[0].description == "0 running, 2 failed, done"
