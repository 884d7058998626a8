"""The page of the timings: from measurement to bytes that `report --all --check` accepts."""

import json
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import render
from benchmarks.render import timings
from benchmarks.speed import cli, importance, methods, overhead, training
from benchmarks.speed.penalty import measure_penalty
from tests.benchmarks.speed.test_importance import _small

SMALL_RUNS = {"embedded": {"tasks": 2}}


def ten_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 10))


@pytest.mark.filterwarnings("ignore")  # peers warn
def test_measures_and_writes_a_page_that_the_check_accepts(tmp_path, monkeypatch, capsys):
    case = importance.Case("small", "A small net", _small, (3, 5, 5), 6, 2)
    workloads = {"a small net": (ten_classes, (3, 5, 5), 12, 6)}
    monkeypatch.setattr(importance, "CASES", (case,))
    monkeypatch.setattr(importance, "PRODUCTS", {"a layer": (6, 7, 5)})
    monkeypatch.setattr(importance, "_peak_memory", lambda case, method: 2**20)
    monkeypatch.setattr(training, "_workloads", lambda: workloads)
    monkeypatch.setattr(
        cli,
        "measure_penalty",
        lambda rounds: measure_penalty(rounds=rounds, batch_size=4, image_size=32, width=0.05),
    )
    few = {"rounds": 1, "num_samples": 32}
    monkeypatch.setattr(
        cli, "measure_methods", lambda rounds: methods.measure_methods(names=["mas", "si"], **few)
    )
    monkeypatch.setattr(methods, "GROWING", ("naive", "mas"))
    monkeypatch.setattr(cli, "measure_tasks", partial(methods.measure_tasks, counts=(2, 3), **few))
    monkeypatch.setattr(cli, "measure_widths", partial(methods.measure_widths, widths=(4,), **few))
    monkeypatch.setattr(cli, "measure_data", partial(methods.measure_data, counts=(200, 400)))
    monkeypatch.setattr(
        cli, "measure_overhead", partial(overhead.measure_overhead, studies=SMALL_RUNS)
    )
    profile = _measured()["study"]["found"]
    monkeypatch.setattr(cli, "measure_study", lambda: profile)
    folder = tmp_path / "speed"
    assert cli.main(["--out", str(folder), "--rounds", "1", "--threads", "1"]) == 0
    assert f"The page lies at {folder / 'index.html'}" in capsys.readouterr().out
    page = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "A small net",
        "plain mini-batch pass",
        "Avalanche's MASPlugin",
        "plain loop",
        "3 tasks",
        "width 4",
        "a layer",
        "posixpath.join",
        "(here tasks 2); epochs a task: 5, threads: 1, tolerance: 2 %",
    ):
        assert words in page

    render.index(tmp_path)
    assert "speed/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert render.check(tmp_path) == []
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["penalty"]["found"]["results"]["naive"]["ratio"] = 7.0
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert len(render.check(tmp_path)) == 2

    cli.write_page(folder)
    assert render.check(tmp_path) == []

    others = {name: part for name, part in record.items() if name != "study"}
    monkeypatch.setattr(cli, "measure_study", lambda: profile | {"runs": 77})
    assert cli.main(["--out", str(folder), "--only", "study", "--threads", "2"]) == 0
    assert torch.get_num_threads() == 1
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "77 runs" in page
    assert (
        "threads: 1 (growth, importance, methods, overhead, penalty, training); 2 (study)" in page
    )
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert {name: part for name, part in record.items() if name != "study"} == others


@pytest.mark.parametrize("words", [["--page-only"], ["--only", "study"]])
def test_a_record_that_is_not_there_is_one_sentence(words, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--out", str(tmp_path / "none"), *words])
    assert f"expected a record at {tmp_path / 'none' / 'record.json'}" in capsys.readouterr().err


def _measured():
    """A record as it is read from its file, whose keys are sorted as text."""
    one = {"training": 2.0, "training_range": [1.0, 3.0], "consolidation": 0.5, "stored": 2.0}
    methods_ = {name: one | {"rounds": 1} for name in sorted(METHODS)}
    passed = {"seconds": 1.0, "ratio": 1.5, "peak_bytes": None}
    table = {"naive": {"ratio": 1.0, "ratio_range": [1.0, 1.0], "seconds": 1.0, "rounds": 1}}
    timed = {"median_seconds": 1.0, "peak_bytes": None, "relative_error": 0.0}
    case = {
        "name": "small", "title": "A small net", "batch_size": 2, "batches": 1, "parameters": 3,
        "profile": {"ours": [], "plain": []},
        "methods": {
            "ours": timed | {"ratio": 1.2, "relative_error": float("nan")},
            "vmap": timed | {"ratio": 9.0, "relative_error": float("inf")},
            "plain": timed | {"ratio": 1.0, "relative_error": None},
        },
    }  # fmt: skip
    record = {
        "training": {"a small net": table},
        "penalty": {
            "what": "A step", "parameters": 3, "batch_size": 2, "image_size": 4, "results": table
        },
        "methods": methods_,
        "growth": {
            "tasks": dict.fromkeys(("10", "2", "5"), methods_),
            "width": dict.fromkeys(("100", "1000", "400"), methods_),
            "data": dict.fromkeys(("1000", "10000", "200"), passed),
        },
        "importance": {"cases": [case]},
        "overhead": {
            "a_study": {
                "title": "A study", "epochs": 1, "threads": 1, "stream": {"tasks": 2},
                "tolerance": 0.02, "results": {"naive": table["naive"] | {"consolidation": 0.0}},
            },
        },
        "study": {
            "title": "A study", "runs": 2, "seconds": 3.0, "shares": {"torch": 0.9, "Python": 0.1},
            "functions": [{"name": "posixpath.join", "package": "Python", "share": 0.04}],
        },
    }  # fmt: skip
    record = {name: {"environment": {"cores": 2}, "found": found} for name, found in record.items()}
    return json.loads(json.dumps(record, sort_keys=True))


METHODS = ("avalanche_mas", "ewc", "lwf", "mas", "mas_proximal", "naive", "si", "zzz_unknown")


def _columns(page, caption):
    """The head of a table of the page in Markdown, and the first column of its body."""
    head, _, *body = page.split(f"**{caption}")[1].split("\n\n")[1].splitlines()
    return (
        [cell.strip() for cell in head.strip("|").split("|")],
        [row.strip("|").split("|")[0].strip() for row in body],
    )


def test_sizes_are_in_order_and_methods_as_in_studies():
    page = timings.build(_measured())["README.md"].decode()
    order = ["Naive", "MAS", "MAS (Avalanche's own)", "MAS (proximal)", "EWC", "SI", "LwF"]
    listed = [*order, r"zzz\_unknown"]
    assert _columns(page, "MLP 784-400-400-10") == (
        ["method", "training / plain epoch", "range over rounds", "consolidation / plain epoch",
         "numbers stored a parameter"],
        listed,
    )  # fmt: skip
    heads, rows = _columns(page, "training / plain epoch (multi-head")
    assert heads == ["method", "2 tasks", "5 tasks", "10 tasks"]
    assert rows == listed
    heads, rows = _columns(page, "training / plain epoch (MLP 784-W")
    assert heads == ["method", "width 100", "width 400", "width 1,000"]
    assert _columns(page, "Importance of an MLP")[1] == ["200", "1,000", "10,000"]


def test_importance_is_sorted_by_time_and_what_is_not_defined_is_said():
    page = timings.build(_measured())["README.md"].decode()
    assert _columns(page, "A small net (")[1] == [
        "plain mini-batch pass", r"mas\_avalanche", "torch.func.vmap"
    ]  # fmt: skip
    assert page.count("| not defined |") == 2
    assert " nan " not in page
