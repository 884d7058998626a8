"""Two reports side by side, with changes whose truth is known."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from benchmarks import render
from benchmarks.record import to_lines
from benchmarks.render.comparison import build_comparison, changes, config_changes
from tests.benchmarks import synthetic

NAMES = ("before", "after")


@pytest.fixture(scope="module")
def study():
    return synthetic.study(parts=["digits"], methods=["naive", "joint", "mas", "ewc"])


@pytest.fixture(scope="module")
def before(study):
    return synthetic.records(study)


def _shift(records, method, mean, noise):
    """Change a method's accuracies by about ``mean``, a little differently for every seed."""
    generator = np.random.default_rng(7)
    shifted = []
    for record in records:
        by = mean + generator.normal(0, noise)
        if record.method == method:
            test = np.clip(np.array(record.accuracy["test"]) + by, 0, 1)
            matrix = tuple(map(tuple, test.tolist()))
            record = dataclasses.replace(record, accuracy={**record.accuracy, "test": matrix})
        shifted.append(record)
    return shifted


def _verdicts(found):
    return {c.method.name: c.verdict for c in found if c.metric.key == "average_accuracy"}


def test_the_same_records_are_called_the_same(before):
    files, answer = build_comparison(before, before[::-1], NAMES)
    assert answer == (
        "From before to after every shared run has the same accuracies to the last digit."
    )
    assert set(_verdicts(changes(before, before)).values()) == {"the same runs"}
    assert "Nothing: the evaluation runs that both have were asked the same." in (
        files["README.md"].decode()
    )


def test_a_real_change_is_found_and_noise_is_not(before):
    after = _shift(_shift(before, "ewc", -0.1, 0.005), "mas", 0.0, 0.02)
    found = changes(before, after)
    assert _verdicts(found) == {
        "naive": "the same runs",
        "joint": "the same runs",
        "mas": "within noise",
        "ewc": "worse",
    }
    ewc = next(c for c in found if c.method.name == "ewc" and c.metric.key == "average_accuracy")
    assert ewc.difference.mean == pytest.approx(-0.1, abs=0.01)
    assert sorted(ewc.by_seed) == [1, 2, 3, 4, 5]
    _, answer = build_comparison(before, after, NAMES)
    assert answer.startswith("From before to after average accuracy changes beyond noise")
    assert "EWC on digits (−" in answer
    assert answer.endswith("the other 3 do not.")


def test_studies_without_a_common_seed_are_compared_unpaired(before):
    other = synthetic.study(
        parts=["digits"], methods=["naive", "joint", "mas", "ewc"], evaluation=range(11, 16)
    )
    after = synthetic.records(other, loss={**synthetic.LOSS, "ewc": 0.5})
    found = changes(before, after)
    assert _verdicts(found)["ewc"] == "worse"
    assert _verdicts(found)["naive"] == "within noise"
    assert all(not c.by_seed for c in found)


def test_few_seeds_support_no_verdict(before):
    few = [r for r in _shift(before, "mas", -0.2, 0.01) if r.seed < 4]
    found = changes(before, few)
    assert _verdicts(found)["mas"] == "too few seeds"
    _, answer = build_comparison(before, few, NAMES)
    assert "too few seeds to tell" in answer


def test_what_was_asked_differently_is_listed(before):
    def ask(record):
        training = {"epochs": 2 if record.role == "evaluation" else 1}
        config = {**record.config, "training": training}
        if record.method == "mas":
            config["method_options"] = {"mode": "proximal"}
        return dataclasses.replace(record, config=config, code_version="def456")

    after = [ask(record) for record in before]
    assert config_changes(before, after) == [
        ("digits, mas: method_options.mode", "–", "proximal"),
        ("digits: training.epochs", "1", "2"),
    ]
    text = build_comparison(before, after, NAMES)[0]["README.md"].decode()
    assert "1 → 2" in text
    assert "abc123 → def456" in text


def test_what_one_side_has_alone_is_listed(before):
    after = [r for r in before if r.method != "ewc"]
    text = build_comparison(before, after, NAMES)[0]["README.md"].decode()
    assert "**Only in the first**: digits: ewc" in text


def test_numbers_are_in_the_csv(before):
    after = _shift(before, "ewc", -0.1, 0.005)
    files, _ = build_comparison(before, after, NAMES)
    rows = list(csv.DictReader(io.StringIO(files["tables/changes.csv"].decode())))
    ewc = next(r for r in rows if (r["method"], r["metric"]) == ("ewc", "average_accuracy"))
    assert float(ewc["after"]) - float(ewc["before"]) == pytest.approx(
        float(ewc["difference"]), abs=1e-5
    )
    assert ewc["verdict"] == "worse"


def test_compare_finds_folders_files_and_names(before, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_bytes(b"".join(to_lines(before)))
    out = tmp_path / "out"
    answer = render.compare("one", tmp_path / "two" / "records.jsonl", out, reports=tmp_path)
    assert "the same accuracies to the last digit" in answer
    assert (out / "index.html").is_file()
    with pytest.raises(ValueError, match="Expected a report's folder, a file of records or"):
        render.compare("one", "three", out, reports=tmp_path)


def test_nothing_in_common_is_refused(before):
    other = synthetic.study(parts=["glyphs"], methods=["naive", "mas"])
    with pytest.raises(ValueError, match="got none in common"):
        build_comparison(before, synthetic.records(other), NAMES)
