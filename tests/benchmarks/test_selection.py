import dataclasses

import pytest

from benchmarks.selection import Plan, choose, evaluation_runs, selection_runs
from tests.benchmarks.studies import smoke_study
from tests.benchmarks.test_record import make_record


def selection_record(config, accuracy, status="finished", code="code"):
    return make_record(
        config,
        id=config.key(code),
        code_version=code,
        status=status,
        accuracy={"validation": ((0.0, 0.0), (accuracy, accuracy))},
    )


@pytest.fixture
def study():
    return smoke_study(
        methods=["naive", "mas", "si"], grid={"mas": [3.0, 1.0, 0.1], "si": [9.0, 1.0, 0.5]}
    )


def runs_of(study, method):
    return selection_runs(study, study.parts[0], method)


def test_every_tuned_method_is_tried_as_often(study):
    assert len(runs_of(study, "mas")) == len(runs_of(study, "si")) == 3
    assert runs_of(study, "naive") == []
    assert {run.seed for run in runs_of(study, "mas")} == {0}


def test_the_best_validation_accuracy_wins_and_ties_go_to_the_smaller_strength(study):
    runs = runs_of(study, "mas")
    scores = {3.0: 0.7, 1.0: 0.8, 0.1: 0.8}
    choice = choose(selection_record(run, scores[run.strength]) for run in runs)
    assert choice.strength == 0.1
    assert choice.at_edge
    assert [t.strength for t in choice.tries] == [3.0, 1.0, 0.1]
    scores[1.0] = 0.81
    choice = choose(selection_record(run, scores[run.strength]) for run in runs)
    assert choice.strength == 1.0
    assert not choice.at_edge


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_run_that_did_not_finish_loses_to_any_that_did(study, status):
    runs = runs_of(study, "mas")
    records = [
        selection_record(
            run, 0.9 if run.strength == 3.0 else 0.1, status if run.strength == 3.0 else "finished"
        )
        for run in runs
    ]
    choice = choose(records)
    assert choice.strength == 0.1
    assert choice.tries[0].score is None
    assert choose(selection_record(run, 0.9, status) for run in runs).strength is None


def test_a_plan_opens_the_evaluation_when_the_strength_is_chosen(study):
    plan = Plan(study, "code")
    assert plan.num_runs() == 3 + 3 + 3 * 2
    assert plan.waiting() == {("digits", "mas"): 2, ("digits", "si"): 2}
    pending = plan.pending()
    assert len(pending) == 3 + 3 + 2
    assert [c.role for c in pending.values()] == ["selection"] * 6 + ["evaluation"] * 2
    opened = {}
    for config in runs_of(study, "mas"):
        assert not opened
        opened = plan.add(selection_record(config, config.strength / 10))
    assert {(c.method, c.strength, c.role) for c in opened.values()} == {("mas", 3.0, "evaluation")}
    assert plan.choices()["digits", "mas"].strength == 3.0
    assert plan.waiting() == {("digits", "si"): 2}
    for config in opened.values():
        assert plan.add(make_record(config)) == {}
    assert len(plan.pending()) == 3 + 2


def test_methods_take_turns_within_a_seed_once_all_strengths_are_chosen(study):
    plan = Plan(study, "code")
    for method in ("si", "mas"):
        for config in runs_of(study, method):
            plan.add(selection_record(config, 0.5))
    first, second = study.seeds.evaluation
    turns = [(method, seed) for seed in (first, second) for method in ("naive", "mas", "si")]
    assert [(c.method, c.seed) for c in plan.pending().values()] == turns


def test_a_second_plan_goes_on_from_the_records(study):
    plan = Plan(study, "code")
    records = [selection_record(c, 0.5) for c in runs_of(study, "mas")]
    records += [make_record(c) for c in evaluation_runs(study, study.parts[0], "mas", 0.1)]
    again = Plan(study, "code", records)
    assert len(again.records) == 5
    assert len(again.pending()) == len(plan.pending()) - 3
    assert all(config.method != "mas" for config in again.pending().values())


def test_records_of_other_code_or_other_configurations_are_left_out(study):
    runs = runs_of(study, "mas")
    records = [selection_record(run, 0.5, code="old code") for run in runs]
    other = smoke_study(methods=["mas"], grid={"mas": [7.0, 8.0]})
    records += [selection_record(run, 0.5) for run in runs_of(other, "mas")]
    plan = Plan(study, "code", records)
    assert plan.records == {}
    assert len(Plan(study, "old code", records).records) == 3


def test_a_method_without_any_finished_try_is_not_evaluated(study):
    records = [selection_record(run, 0.5, "diverged") for run in runs_of(study, "mas")]
    plan = Plan(study, "code", records)
    assert plan.choices()["digits", "mas"].strength is None
    assert plan.num_runs() == 3 + 3 + 2 * 2
    assert ("digits", "mas") not in plan.waiting()


def test_a_single_strength_needs_no_selection():
    study = smoke_study(methods=["mas"], grid={"mas": [2.0]})
    plan = Plan(study, "code")
    assert [c.strength for c in plan.pending().values()] == [2.0, 2.0]


def test_a_part_may_be_reported_on_seeds_of_its_own(study):
    part = dataclasses.replace(study.parts[0], evaluation=(7, 8, 9, 10, 11, 12))
    own = dataclasses.replace(study, parts=(part, *study.parts[1:]))
    plan = Plan(own, "code")
    assert {c.seed for c in plan.pending().values() if c.method == "naive"} == set(part.evaluation)
    assert plan.num_runs() == 3 + 3 + 3 * 6
    assert plan.waiting() == {("digits", "mas"): 6, ("digits", "si"): 6}
