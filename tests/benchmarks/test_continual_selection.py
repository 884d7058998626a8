"""Learning rate and strength chosen inside a run, against toys with a known answer."""

import copy
import dataclasses
import io
import math
from itertools import pairwise

import pytest
import torch

from benchmarks import methods, streams
from benchmarks import run as module
from benchmarks.continual_selection import Continual, Outcome, TaskSelection, learn
from benchmarks.methods import Method
from benchmarks.record import Record
from benchmarks.run import execute
from benchmarks.streams import Split
from tests.benchmarks.studies import smoke_config
from tests.continual import experiences, largest_difference, plain_sgd, single_head, train

ONE_RATE = Continual(learning_rate_factors=(1.0,))


def choose(plasticity, stability, strength=1.0, **constants):
    """Play the procedure on tables: accuracy by learning rate, and by strength."""
    calls = []

    def train(rate, at):
        calls.append((rate, at))
        accuracy = plasticity[rate] if at is None else stability(at)
        return Outcome(None if accuracy is None else (rate, at), accuracy)

    kept, chosen = learn(
        train,
        learning_rate=1.0,
        strength=strength,
        constants=Continual(learning_rate_factors=tuple(plasticity), **constants),
    )
    return kept, chosen, calls


def test_the_best_rate_then_the_strongest_strength_that_learns_enough():
    kept, chosen, calls = choose(
        {0.1: 0.5, 0.01: 0.9, 0.001: 0.7}, lambda s: 0.9 if s <= 0.3 else 0.5, strength=1.0
    )
    assert kept == (0.01, 0.25)
    assert calls == [
        (0.1, None), (0.01, None), (0.001, None), (0.01, 1.0), (0.01, 0.5), (0.01, 0.25)
    ]  # fmt: skip
    assert chosen == TaskSelection(
        learning_rates=(0.1, 0.01, 0.001),
        finetuned=(0.5, 0.9, 0.7),
        learning_rate=0.01,
        required=0.8 * 0.9,
        strengths=(1.0, 0.5, 0.25),
        reached=(0.5, 0.5, 0.9),
        strength=0.25,
        accepted=True,
    )
    assert chosen.num_trainings == 6


def test_what_reaches_exactly_the_required_accuracy_is_accepted():
    _, chosen, _ = choose({1.0: 1.0}, lambda s: 0.75, drop_margin=0.25)
    assert chosen.strengths == (1.0,)
    _, chosen, _ = choose({1.0: 1.0}, lambda s: math.nextafter(0.75, 0), drop_margin=0.25)
    assert not chosen.accepted


def test_the_last_attempt_is_kept_and_said_to_fall_short():
    kept, chosen, calls = choose({1.0: 0.9}, lambda s: 0.1, max_attempts=3, decay_factor=0.1)
    assert [at for _, at in calls] == [None, 1.0, 0.1, pytest.approx(0.01)]
    assert kept == (1.0, chosen.strength)
    assert not chosen.accepted


def test_a_method_without_a_strength_keeps_the_best_fine_tuning():
    kept, chosen, calls = choose({0.1: 0.5, 0.01: 0.9}, None, strength=None)
    assert kept == (0.01, None)
    assert len(calls) == 2
    assert (chosen.strength, chosen.required, chosen.accepted) == (None, None, True)


def test_equal_rates_go_to_the_smaller_and_diverged_ones_lose():
    _, chosen, _ = choose({1.0: None, 0.1: 0.5, 0.5: 0.5, 0.2: 0.4}, None, strength=None)
    assert chosen.learning_rate == 0.1
    assert chosen.finetuned == (None, 0.5, 0.5, 0.4)


def test_a_strength_that_diverges_is_refused():
    kept, chosen, _ = choose({1.0: 0.9}, lambda s: None if s > 0.5 else 0.9)
    assert kept == (1.0, 0.5)
    assert chosen.reached == (None, 0.9)


def test_where_every_rate_diverges_nothing_is_kept():
    kept, chosen, calls = choose({1.0: None, 0.1: None}, lambda s: 1.0)
    assert kept is None
    assert len(calls) == 2
    assert (chosen.learning_rate, chosen.accepted) == (None, False)


def test_an_entry_of_a_record_is_read_back():
    _, chosen, _ = choose({1.0: 0.9, 2.0: None}, lambda s: None if s > 0.5 else 0.9)
    assert TaskSelection.from_table(chosen.to_table(), "the test") == chosen


# --- Inside a run ---------------------------------------------------------------------------------


def config(method="naive", strength=None, constants=ONE_RATE, **part):
    return dataclasses.replace(smoke_config(method, strength, **part), selection=constants)


TUNED = [name for name in methods.names() if methods.get(name).knob]


@pytest.mark.parametrize("name", ["naive", "joint", *TUNED])
def test_a_run_with_nothing_to_choose_is_the_plain_run_to_the_bit(name):
    """Copies, retuned plugins and repeated random states change nothing in what is learned."""
    tuned = name in TUNED
    given = 0.05 if tuned else None
    plain = execute(smoke_config(name, given, model_options={"hidden": [16], "dropout": 0.2}))
    constants = Continual(learning_rate_factors=(1.0,), drop_margin=0.99)
    chosen = execute(config(name, given, constants, model_options={"hidden": [16], "dropout": 0.2}))
    assert chosen.status == plain.status == "finished", chosen.error
    assert [entry["strength"] for entry in chosen.selection] == [given] * len(chosen.selection)
    assert chosen.accuracy == plain.accuracy
    assert [r["task_loss"] for r in chosen.history] == [r["task_loss"] for r in plain.history]
    assert chosen.importance == plain.importance
    assert chosen.parameters == plain.parameters
    assert plain.selection == ()


@pytest.mark.parametrize("name", TUNED)
def test_a_strength_set_later_acts_as_one_given_at_first(name):
    method = methods.get(name)
    plugins = method.make(1000.0)
    method.set_strength(plugins, 0.1)
    (retuned,), (fresh,) = plugins, method.make(0.1)
    assert vars(retuned).keys() == vars(fresh).keys()
    *way, last = method.knob.split(".")
    for step in way:
        retuned, fresh = getattr(retuned, step), getattr(fresh, step)
    assert getattr(retuned, last) == getattr(fresh, last)
    plugins = copy.deepcopy(method.make(1000.0))
    method.set_strength(plugins, 0.1)
    trained = [train_on_two_tasks(made) for made in (plugins, method.make(0.1))]
    assert largest_difference(*trained) == 0
    assert name == "avalanche_si" or largest_difference(trained[0], train_on_two_tasks([])) > 0


def train_on_two_tasks(plugins):
    model = single_head(dtype=torch.float32)
    train(model, experiences(dtype=torch.float32)[:2], plugins, optimizer=plain_sgd)
    return model


DIGITS = {"stream": "permuted_mnist_mini", "stream_options": {"tasks": 2}}
TRAINING = {"optimizer": "sgd", "learning_rate": 0.05, "epochs": 5, "batch_size": 32}


def opposite_tasks(seed):
    """Two tasks with the same inputs and other labels: the second cannot be learned beside."""
    built = streams.build("permuted_mnist_mini", seed, tasks=2)

    def part(split, count, turn):
        y = split.y[:count]
        return Split(split.x[:count], 9 - y if turn else y)

    tasks = tuple(
        dataclasses.replace(
            built.tasks[0],
            name=f"task {turn}",
            train=part(built.tasks[0].train, 1000, turn),
            validation=part(built.tasks[0].validation, 300, turn),
            test=part(built.tasks[0].test, 300, turn),
        )
        for turn in (False, True)
    )
    return dataclasses.replace(built, tasks=tasks)


def test_it_finds_the_strongest_strength_at_which_the_task_can_be_learned(monkeypatch):
    stream = opposite_tasks(seed=1)
    monkeypatch.setattr(streams, "build", lambda *a, **k: stream)
    start, constants = 4.0, Continual(learning_rate_factors=(1.0, 0.01), drop_margin=0.2)
    record = execute(config("mas", start, constants, training=TRAINING, **DIGITS))
    assert record.status == "finished", record.error
    first, second = (TaskSelection.from_table(e, "test") for e in record.selection)
    assert first.strengths == (start,)  # nothing is penalised yet
    assert first.reached == (max(first.finetuned),)
    assert second.learning_rate == 0.05
    assert second.finetuned[0] > 0.5 > second.finetuned[1]

    def alone(strength):
        """Train with one strength throughout: on the first task it changes nothing."""
        given = smoke_config("mas", strength, training=TRAINING, **DIGITS)
        plain = execute(dataclasses.replace(given, role="selection"))
        return plain.accuracy["validation"][1][1] if plain.status == "finished" else None

    expected = [alone(strength) for strength in second.strengths]
    assert list(second.reached) == expected
    assert len(expected) > 2
    required = 0.8 * second.finetuned[0]
    assert all(a is None or a < required for a in expected[:-1])
    assert expected[-1] >= required
    assert record.accuracy["test"][-1][1] > 0.4


def test_the_strength_reached_is_where_the_next_task_begins():
    constants = Continual(learning_rate_factors=(1.0,), drop_margin=0.02)
    record = execute(config("mas", 1e4, constants))
    entries = [TaskSelection.from_table(e, "test") for e in record.selection]
    assert len(entries) == 5
    for before, after in pairwise(entries):
        assert after.strengths[0] == before.strength
    assert entries[-1].strength < 1e4
    assert [e.learning_rates for e in entries] == [(0.05,)] * 5


def test_test_data_has_no_part_in_the_choice(monkeypatch):
    constants = Continual(learning_rate_factors=(1.0, 0.1), drop_margin=0.05)
    chosen = config("mas", 1e3, constants)
    honest = execute(chosen)
    built = streams.build("split_digits", chosen.seed)
    wrong = tuple(
        dataclasses.replace(t, test=Split(torch.zeros_like(t.test.x), 1 - t.test.y))
        for t in built.tasks
    )
    monkeypatch.setattr(streams, "build", lambda *a, **k: dataclasses.replace(built, tasks=wrong))
    misled = execute(chosen)
    assert misled.accuracy != honest.accuracy
    assert without_seconds(misled.selection) == without_seconds(honest.selection)
    losses = [row["task_loss"] for row in honest.history]
    assert [row["task_loss"] for row in misled.history] == losses


def test_only_validation_data_of_the_task_at_hand_is_looked_at(monkeypatch):
    looked = []
    original = module._Probe.pooled_accuracy

    def pooled_accuracy(self, model, split, positions):
        looked.append((split, tuple(positions)))
        return original(self, model, split, positions)

    monkeypatch.setattr(module._Probe, "pooled_accuracy", pooled_accuracy)
    execute(config("naive"))
    assert looked == [("validation", (task,)) for task in range(5)]
    looked.clear()
    execute(config("joint"))
    assert looked == [("validation", (0, 1, 2, 3, 4))]


def test_every_method_sees_the_same_data_in_the_same_order_however_often_it_tries(monkeypatch):
    seen = []
    original = module._Watch.before_backward

    def before_backward(self, strategy, **kwargs):
        key = (strategy.position, strategy.clock.train_exp_iterations)
        seen.append((key, float(strategy.mb_x.double().sum()), strategy.mb_y.tolist()))
        original(self, strategy, **kwargs)

    monkeypatch.setattr(module._Watch, "before_backward", before_backward)
    constants = Continual(learning_rate_factors=(1.0, 0.1), drop_margin=0.05)
    orders = []
    for name, strength in (("naive", None), ("mas", 1e3), ("lwf", 10.0)):
        seen.clear()
        assert execute(config(name, strength, constants)).status == "finished"
        orders.append({key: rest for key, *rest in seen})
        assert all(orders[-1][key] == rest for key, *rest in seen)
    assert orders[0] == orders[1] == orders[2]


def without_seconds(selection):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in selection]


def test_the_record_holds_all_trials_and_is_read_back():
    record = execute(config("mas", 10.0, Continual(learning_rate_factors=(1.0, 1e30))))
    assert record.status == "finished", record.error
    assert Record.from_json(record.to_json()) == record
    assert len(record.selection) == 5
    assert record.selection[0]["finetuned"][1] is None  # diverged
    assert all(entry["seconds"] > 0 for entry in record.selection)
    assert len(record.seconds["training"]) == 5
    spent = sum(record.seconds["training"]) + sum(e["seconds"] for e in record.selection)
    assert spent < record.seconds["total"]
    assert [row["task"] for row in record.history] == [0, 1, 2, 3, 4]
    assert record.config["selection"]["learning_rate_factors"] == [1.0, 1e30]


def test_a_run_in_which_nothing_stays_finite_has_diverged_and_says_what_it_tried():
    record = execute(config("naive", None, Continual(learning_rate_factors=(1e30,))))
    assert record.status == "diverged"
    assert record.selection[0]["finetuned"] == [None]
    assert record.accuracy == {}


class Killed(BaseException):
    """Ends a run as a kill does: nothing in it may catch this."""


class Memory:
    """A place for the state of a run."""

    content = None

    def read(self):
        return self.content

    def write(self, content):
        self.content = content


def test_a_run_that_was_interrupted_ends_with_the_same_record(monkeypatch):

    constants = Continual(learning_rate_factors=(1.0, 0.1), drop_margin=0.02)
    chosen = config("mas", 1e3, constants)
    whole = execute(chosen)
    place = Memory()
    left = [40]
    original = module._Watch.before_backward

    def before_backward(self, strategy, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        original(self, strategy, **kwargs)

    monkeypatch.setattr(module._Watch, "before_backward", before_backward)
    with pytest.raises(Killed):
        execute(chosen, checkpoint=place, checkpoint_every=0)
    assert torch.load(io.BytesIO(place.content), weights_only=True)["done"] >= 1
    record = execute(chosen, checkpoint=place, checkpoint_every=0)
    assert left[0] < 0
    assert without_seconds(record.selection) == without_seconds(whole.selection)
    assert record.accuracy == whole.accuracy
    assert record.history == whole.history


def test_a_method_without_strength_but_with_plugins_trains_with_them(monkeypatch):
    made = []

    class Counts(module.SupervisedPlugin):
        steps = 0

        def after_update(self, strategy, **kwargs):
            made.append(self)

        def num_stored(self):
            return 0

    changed = Method("naive", "Test", None, (), lambda strength: [Counts()])
    monkeypatch.setattr(methods, "get", lambda name: changed)
    assert execute(config("naive")).status == "finished"
    assert made
