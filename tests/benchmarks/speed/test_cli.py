"""The page of the timings: from measurement to bytes that `report --all --check` accepts."""

import json
from functools import partial

import pytest
from torch import nn

from benchmarks import render
from benchmarks.speed import cli, importance, methods, training
from benchmarks.speed.penalty import measure_penalty
from tests.benchmarks.speed.test_importance import _small


def ten_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 10))


@pytest.mark.filterwarnings("ignore")  # peers warn
def test_measures_and_writes_a_page_that_the_check_accepts(tmp_path, monkeypatch, capsys):
    case = importance.Case("small", "A small net", _small, (3, 5, 5), 6, 2)
    workloads = {"a small net": (ten_classes, (3, 5, 5), 12, 6)}
    monkeypatch.setattr(importance, "CASES", (case,))
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
    ):
        assert words in page

    render.index(tmp_path)
    assert "speed/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert render.check(tmp_path) == []
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["penalty"]["results"]["naive"]["ratio"] = 7.0
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert len(render.check(tmp_path)) == 2

    cli.write_page(folder)
    assert render.check(tmp_path) == []
