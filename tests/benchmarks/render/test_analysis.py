"""What a report claims, on records whose truth is known."""

import dataclasses
from math import isnan

import numpy as np
import pytest

from benchmarks.render.analysis import analyse
from benchmarks.render.tables import (
    problems_table,
    results_table,
    search_table,
    selection_table,
    variants_table,
)
from benchmarks.study import Variant
from tests.benchmarks import synthetic


@pytest.fixture(scope="module")
def study():
    return synthetic.study(parts=["digits"])


def _digits(study, **changes):
    return analyse(study, synthetic.records(study, **changes))


def test_a_known_winner_wins(study):
    result = _digits(study)
    (part,) = result.parts
    assert part.winners["average_accuracy"] == "mas"
    assert part.winners["forgetting"] == "mas"
    accuracy = [c for c in part.comparisons if c.metric.key == "average_accuracy"]
    assert [c.other for c in accuracy] == ["naive", "ewc", "si", "lwf"]
    assert all(c.better for c in accuracy)
    assert all(c.p_holm < 0.01 for c in accuracy)
    assert all(c.paired.probability_of_improvement == 1 for c in accuracy)


def test_no_difference_gives_no_winner(study):
    result = _digits(study, loss=dict.fromkeys(synthetic.LOSS, 0.1))
    (part,) = result.parts
    assert part.winners["average_accuracy"] is None
    assert not any(c.p_holm < 0.05 for c in part.comparisons)
    assert not any(cell.bold for row in results_table(part).rows for cell in row.cells[3:5])


def test_few_seeds_carry_no_claim():
    study = synthetic.study(parts=["digits"], evaluation=[1, 2, 3])
    result = _digits(study)
    (part,) = result.parts
    assert set(part.winners.values()) == {None}
    assert all(c.better is None for c in part.comparisons)
    cell = results_table(part).rows[2].cells[3]
    assert "(" in cell.text
    assert "[" not in cell.text
    assert any("no interval" in note for note in results_table(part).notes)


def test_numbers_are_those_of_the_records(study):
    records = synthetic.records(study)
    mas = analyse(study, records).parts[0].method("mas")
    matrices = [
        np.array(r.accuracy["test"])
        for r in records
        if r.method == "mas" and r.role == "evaluation"
    ]
    joint = [
        np.array(r.accuracy["test"][-1])
        for r in records
        if r.method == "joint" and r.role == "evaluation"
    ]
    acc = np.mean([m[-1].mean() for m in matrices])
    assert mas.estimates["average_accuracy"].mean == pytest.approx(acc, rel=1e-12)
    gaps = [(j - np.diagonal(m)).mean() for m, j in zip(matrices, joint, strict=True)]
    assert mas.estimates["intransigence"].mean == pytest.approx(np.mean(gaps), rel=1e-12)
    assert mas.curve[1].mean == pytest.approx(np.mean([m[1, :2].mean() for m in matrices]))
    assert mas.estimates["stored_extra"].mean == 2 * 12345


def test_joint_training_is_a_bound_not_a_competitor(study):
    (part,) = _digits(study).parts
    joint = part.method("joint")
    best = max(m.estimates["average_accuracy"].mean for m in part.methods)
    assert joint.estimates["average_accuracy"].mean == best
    assert part.winners["average_accuracy"] == "mas"
    assert joint.curve == ()
    assert joint.estimates["forgetting"].n == 0
    assert isnan(joint.estimates["forgetting"].mean)


def test_a_variant_is_compared_with_its_method_and_crowned_by_none():
    """Another implementation that does the same takes nothing from the winner."""
    methods = ["naive", "joint", "mas", "mas_local", "ewc", "avalanche_mas", "avalanche_ewc"]
    study = synthetic.study(parts=["digits"], methods=methods)
    same = {**synthetic.LOSS, "avalanche_mas": 0.03, "mas_local": 0.03, "avalanche_ewc": 0.3}
    (part,) = _digits(study, loss=same).parts
    assert part.winners["average_accuracy"] == "mas"
    accuracy = [c for c in part.comparisons if c.metric.key == "average_accuracy"]
    assert [c.other for c in accuracy] == ["naive", "ewc"]
    variants = [c for c in part.variants if c.metric.key == "average_accuracy"]
    pairs = {(c.ours, c.other): c.better for c in variants}
    assert pairs == {
        ("mas", "mas_local"): None,
        ("mas", "avalanche_mas"): None,
        ("ewc", "avalanche_ewc"): True,
    }
    raw = sorted(c.paired.p_value for c in variants)
    smallest = min(variants, key=lambda c: c.p_holm)
    assert smallest.p_holm == pytest.approx(3 * raw[0])  # a family of its own
    (note, _) = results_table(part).notes
    assert (
        "Variants are other forms of a method beside it: l-MAS, MAS (Avalanche's own), and" in note
    )
    rows = variants_table(part).rows
    assert [row.method for row in rows[:3]] == ["mas_local", "avalanche_mas", "avalanche_ewc"]
    assert rows[2].cells[-1].text == "better"


def test_a_declared_variant_goes_with_the_method_that_it_is_one_of():
    names = ["naive", "mas", "mas_test", "mas_local", "mas_local_test"]
    declared = {name: Variant(name.removesuffix("_test"), name) for name in names if "test" in name}
    study = synthetic.study(parts=["digits"], methods=names)
    parts = tuple(dataclasses.replace(part, variants=declared) for part in study.parts)
    study = dataclasses.replace(study, parts=parts)
    (part,) = _digits(study, loss=dict.fromkeys(names, 0.1)).parts
    pairs = {(c.ours, c.other) for c in part.variants}
    assert pairs == {
        ("mas", "mas_test"),
        ("mas", "mas_local"),
        ("mas_local", "mas_local_test"),
    }
    assert {c.other for c in part.comparisons} == {"naive"}


def test_a_variant_without_its_method_competes():
    study = synthetic.study(parts=["digits"], methods=["naive", "mas_local", "ewc"])
    (part,) = _digits(study, loss={**synthetic.LOSS, "mas_local": 0.01}).parts
    assert part.winners["average_accuracy"] == "mas_local"
    assert part.variants == ()
    assert variants_table(part) is None


def _with_problems(study):
    """Seed 2 of EWC diverges, seed 3 of SI fails, seed 4 of LwF is missing."""
    changed = []
    for record in synthetic.records(study):
        key = (record.method, record.seed, record.role)
        if key == ("ewc", 2, "evaluation"):
            changed.append(
                dataclasses.replace(
                    record,
                    status="diverged",
                    error={"type": "Diverged", "message": "loss is nan", "traceback": ""},
                    accuracy={"test": record.accuracy["test"][:2]},
                )
            )
        elif key == ("si", 3, "evaluation"):
            changed.append(
                dataclasses.replace(
                    record,
                    status="failed",
                    error={"type": "OSError", "message": "disk | full", "traceback": "..."},
                    accuracy={},
                    stream={},
                    task_names=(),
                    seconds={},
                    parameters={},
                )
            )
        elif key != ("lwf", 4, "evaluation"):
            changed.append(record)
    return changed


def test_runs_that_did_not_finish_are_counted_and_shown(study):
    result = analyse(study, _with_problems(study))
    (part,) = result.parts
    found = {(p.method, p.seed): (p.status, p.message) for p in part.problems}
    assert found == {
        ("ewc", 2): ("diverged", "Diverged: loss is nan"),
        ("si", 3): ("failed", "OSError: disk | full"),
        ("lwf", 4): ("missing", "The run was not made."),
    }
    for name in ("ewc", "si", "lwf"):
        method = part.method(name)
        assert len(method.runs) == 4
        assert method.num_lost == 1
        assert not method.estimates["average_accuracy"].is_interval
    # The winner is not crowned over methods of which too little is left.
    assert part.winners["average_accuracy"] is None
    rows = {row.method: row for row in results_table(part).rows}
    assert rows["ewc"].cells[2].text == "4 of 5"
    assert rows["ewc"].cells[3].text.endswith("†")
    assert not rows["mas"].cells[3].text.endswith("†")
    assert len(problems_table(result).rows) == 3


def test_pairs_leave_out_the_seed_that_is_missing(study):
    (part,) = analyse(study, _with_problems(study)).parts
    seeds = {c.other: c.paired.seeds for c in part.comparisons if c.metric.key == "forgetting"}
    assert seeds["naive"] == (1, 2, 3, 4, 5)
    assert seeds["ewc"] == (1, 3, 4, 5)
    assert seeds["lwf"] == (1, 2, 3, 5)


def test_selection_names_choice_budget_and_edge(study):
    records = [
        dataclasses.replace(r, accuracy={**r.accuracy, "validation": ((1.0,) * 4,) * 4})
        if (r.method, r.role, r.strength) == ("ewc", "selection", 10.0)
        else r
        for r in synthetic.records(study)
    ]
    (part,) = analyse(study, records).parts
    rows = {row.method: [cell.text for cell in row.cells] for row in selection_table(part).rows}
    assert rows["mas"][3:] == ["1", "1", ""]
    assert rows["ewc"][3:5] == ["10", "1"]
    assert "strong edge of the grid" in rows["ewc"][5]
    assert "another strength than the best" in rows["ewc"][5]
    assert selection_table(part).notes == ("Every tuned method had 3 tries.",)


def test_a_strength_at_which_a_run_was_lost_is_not_chosen(study):
    records = [
        dataclasses.replace(r, status="diverged", accuracy={})
        if (r.method, r.role, r.strength) == ("mas", "selection", 1.0)
        else r
        for r in synthetic.records(study)
    ]
    (part,) = analyse(study, records).parts
    mas = part.method("mas")
    assert mas.chosen == 0.1
    assert mas.at_edge
    row = next(row for row in selection_table(part).rows if row.method == "mas")
    assert "1: 1 lost" in row.cells[2].text


def test_mixed_conditions_are_tallied(study):
    records = synthetic.records(study)
    records[0] = dataclasses.replace(records[0], processor="another processor")
    environment = analyse(study, records).environment
    assert environment["processor"] == {"a processor": len(records) - 1, "another processor": 1}
    assert environment["torch"] == {"2.15.0": len(records)}


def test_two_records_of_one_run_are_refused(study):
    records = synthetic.records(study)
    twin = dataclasses.replace(records[0], id="f" * 16, code_version="newer")
    with pytest.raises(ValueError, match=r"each run once, got .* and f{16} for part `digits`"):
        analyse(study, [*records, twin])


def test_undeclared_method_is_refused(study):
    stranger = dataclasses.replace(synthetic.records(study)[0], method="ewc_online")
    with pytest.raises(ValueError, match="method `ewc_online`, which it does not declare"):
        analyse(study, [stranger])


def test_one_task_has_no_forgetting():
    study = synthetic.study(parts=["digits"], methods=["naive", "mas"])
    (part,) = analyse(study, synthetic.records(study, num_tasks=1)).parts
    assert part.method("mas").estimates["forgetting"].n == 0
    assert part.method("mas").estimates["average_accuracy"].n == 5


def test_what_runs_chose_for_themselves_is_summed_up():
    study = synthetic.continual_study(["naive", "mas", "si"])
    records = [synthetic.with_selection(record) for record in synthetic.records(study)]
    (part,) = analyse(study, records).parts
    assert part.method("mas").grid == ()
    assert selection_table(part) is None
    rows = {row.method: [cell.text for cell in row.cells] for row in search_table(part).rows}
    # Of 4 tasks and 5 seeds: MAS falls once a task, to 1/16; SI is accepted at once.
    assert rows["naive"] == ["Naive", "0.01: 20", "–", "–", "–", "8.0", "2.0", ""]
    assert rows["mas"] == ["MAS", "0.01: 20", "1", "0.0625", "0 of 20", "16.0", "2.0", ""]
    assert rows["si"][2:5] == ["1", "1", "0 of 20"]
    assert "never refused" in rows["si"][-1]
    strengths = {row.method: row.cells[1].text for row in results_table(part).rows}
    assert strengths == {"naive": "–", "mas": "λ: 1 → 0.0625", "si": "c: 1 → 1"}


def test_a_task_that_was_kept_short_is_counted():
    study = synthetic.continual_study(["mas"])
    records = [synthetic.with_selection(record) for record in synthetic.records(study)]
    entries = [{**entry, "accepted": False} for entry in records[0].selection]
    records[0] = dataclasses.replace(records[0], selection=tuple(entries))
    (part,) = analyse(study, records).parts
    assert search_table(part).rows[0].cells[4].text == "4 of 20"
