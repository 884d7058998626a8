import dataclasses
import signal

import pytest
import torch
from avalanche.core import SupervisedPlugin

from benchmarks import methods, streams
from benchmarks import run as module
from benchmarks.methods import Method
from benchmarks.record import Record
from benchmarks.run import derive_seed, execute, experiences
from benchmarks.store import Store, StoreError
from tests.benchmarks.studies import comparable, smoke_config


class StoresNothing(SupervisedPlugin):
    def num_stored(self):
        return 0


@pytest.fixture
def method(monkeypatch):
    """Let the test put a plugin in place of the naive method."""

    def put(plugin_class):
        changed = Method("naive", "Test", None, (), lambda strength: [plugin_class()])
        monkeypatch.setattr(methods, "get", lambda name: changed)

    return put


def test_a_run_gives_a_whole_record():
    record = execute(smoke_config())
    assert record.status == "finished", record.error
    assert Record.from_json(record.to_json()) == record
    matrix = record.accuracy["test"]
    assert len(matrix) == 5
    assert all(len(row) == 5 for row in matrix)
    assert set(record.accuracy) == {"test"}
    assert len(record.initial_accuracy["test"]) == 5
    assert record.stream["scenario"] == "task"
    assert record.stream["stand_in_for"] == "Split-CIFAR"
    assert record.stream["num_classes"] == [2] * 5
    assert len(record.seconds["training"]) == len(record.seconds["consolidation"]) == 5
    assert record.seconds["total"] > sum(record.seconds["training"])
    assert record.parameters == {"trainable": 65 * 16 + 5 * 17 * 2, "stored_extra": 0}
    assert [row["task"] for row in record.history] == [0, 1, 2, 3, 4]
    assert record.peak_memory_bytes > 2**20
    assert record.versions["torch"] == torch.__version__
    assert record.id == smoke_config().key(record.code_version)


def test_selection_never_looks_at_test_data(monkeypatch):
    config = dataclasses.replace(smoke_config(), role="selection")
    built = streams.build("split_digits", config.seed)
    blind = tuple(
        dataclasses.replace(t, test=streams.Split(t.test.x[:0], t.test.y[:0])) for t in built.tasks
    )
    monkeypatch.setattr(streams, "build", lambda *a, **k: dataclasses.replace(built, tasks=blind))
    record = execute(config)
    assert record.status == "finished", record.error
    assert set(record.accuracy) == set(record.initial_accuracy) == {"validation"}
    assert max(record.accuracy["validation"][-1]) > 0.5


def test_the_same_run_twice_is_the_same_to_the_bit():
    config = smoke_config("mas", 0.1)
    first = execute(config)
    torch.randn(17)
    assert comparable(execute(config)) == comparable(first)


def test_a_strength_of_zero_is_the_naive_run_to_the_bit():
    naive = execute(smoke_config())
    for name in ("mas", "ewc", "si", "lwf"):
        record = execute(smoke_config(name, 0.0))
        assert record.status == "finished", record.error
        assert record.accuracy == naive.accuracy, name
        losses = [row["task_loss"] for row in record.history]
        assert losses == [row["task_loss"] for row in naive.history], name


def test_what_a_method_draws_shifts_nothing(method):
    config = smoke_config(model_options={"hidden": [16], "dropout": 0.3})
    calm = execute(config)

    class Draws(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            torch.randn(5)

        def after_training_exp(self, strategy, **kwargs):
            torch.randn(5)

        def num_stored(self):
            return 7

    method(Draws)
    restless = execute(config)
    assert restless.accuracy == calm.accuracy
    assert restless.history == calm.history
    assert restless.parameters["stored_extra"] == 7


def test_seeds_and_purposes_give_other_numbers():
    assert len({derive_seed(s, p, i) for s in (0, 1) for p in "ab" for i in (0, 1)}) == 8
    assert (
        execute(smoke_config()).accuracy
        != execute(dataclasses.replace(smoke_config(), seed=7)).accuracy
    )


def test_the_process_keeps_its_random_state_and_settings(monkeypatch):
    seen = []

    def train(trial):
        seen.append(torch.get_num_threads())
        torch.randn(3)
        raise RuntimeError

    monkeypatch.setattr(module._Trial, "train", train)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert execute(smoke_config(threads=2)).status == "failed"
    assert seen == [2]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 1


def test_experiences_carry_what_multi_head_models_need():
    stream = streams.build("split_digits", 0)
    wrapped = experiences(stream)
    assert [e.task_labels for e in wrapped] == [[i] for i in range(5)]
    assert all(e.classes_in_this_experience == [0, 1] for e in wrapped)
    single = experiences(streams.build("split_digits", 0, scenario="class"))
    assert [e.task_labels for e in single] == [[0]] * 5
    assert single[2].classes_in_this_experience == [4, 5]


def test_joint_trains_once_on_all_tasks_and_beats_naive():
    config = smoke_config("joint", model_options={"hidden": [32]})
    longer = dataclasses.replace(config.training, epochs=10)
    record = execute(dataclasses.replace(config, training=longer))
    assert record.status == "finished", record.error
    (row,) = record.accuracy["test"]
    assert min(row) > 0.9
    assert len(record.seconds["training"]) == 1


def test_joint_on_one_head_mixes_tasks():
    record = execute(
        smoke_config(
            "joint",
            stream="permuted_mnist_mini",
            stream_options={"tasks": 2},
            training={"optimizer": "adam", "learning_rate": 1e-3, "epochs": 2, "batch_size": 64},
        )
    )
    assert record.status == "finished", record.error
    assert min(record.accuracy["test"][0]) > 0.7


def test_a_joint_minibatch_has_one_task_and_an_epoch_every_sample_once():
    stream = streams.build("split_digits", 0)
    tasks = experiences(stream)
    generator = torch.Generator().manual_seed(0)
    batches = module._OneTaskABatch(
        [module.batch_source(t.dataset) for t in tasks], batch_size=32, generator=generator
    )
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert all(len(t.unique()) == 1 for _, _, t in drawn)
    assert sum(len(y) for _, y, _ in drawn) == sum(len(t.train) for t in stream.tasks)
    labels = [int(t[0]) for _, _, t in drawn]
    assert labels != sorted(labels)


def test_a_run_that_leaves_the_finite_numbers_is_recorded_as_diverged(method):
    class Explodes(StoresNothing):
        def before_training_exp(self, strategy, **kwargs):
            if strategy.position == 2:
                with torch.no_grad():
                    next(strategy.model.parameters()).fill_(float("inf"))

    method(Explodes)
    record = execute(smoke_config())
    assert record.status == "diverged"
    assert record.error["type"] == "DivergenceError"
    assert "iteration 1 of epoch 1 on task 3" in record.error["message"]
    assert len(record.accuracy["test"]) == 2
    assert Record.from_json(record.to_json()) == record


def test_a_strength_beyond_the_stable_range_diverges_and_says_so():
    record = execute(smoke_config("mas", 1e9))
    assert record.status == "diverged"
    assert record.error["type"] == "DivergenceError"
    assert 1 <= len(record.accuracy["test"]) < 5


def test_weights_that_explode_in_the_last_step_are_noticed(method):
    class Explodes(StoresNothing):
        def after_update(self, strategy, **kwargs):
            if strategy.clock.train_epoch_iterations == len(strategy.dataloader) - 1:
                with torch.no_grad():
                    next(strategy.model.parameters()).fill_(float("nan"))

    method(Explodes)
    record = execute(smoke_config())
    assert record.status == "diverged"
    assert "The weights `trunk.1.weight` were no longer finite" in record.error["message"]
    assert 'File "benchmarks/run.py"' in record.error["traceback"], "whole, but for this machine"
    assert record.accuracy == {}


def test_a_run_that_fails_is_recorded_with_its_traceback(method):
    class Breaks(StoresNothing):
        def after_training_exp(self, strategy, **kwargs):
            raise KeyError("oh")

    method(Breaks)
    record = execute(smoke_config())
    assert record.status == "failed"
    assert record.error["type"] == "KeyError"
    assert "after_training_exp" in record.error["traceback"]
    assert record.stream["num_classes"] == [2] * 5


@pytest.fixture
def place(tmp_path):
    """Where a run keeps its state; ``place.path`` is the file."""
    place = Store(tmp_path, "smoke").checkpoint("run")
    place.path = tmp_path / "smoke" / ".checkpoints" / "run.pt"
    place.path.parent.mkdir(parents=True)
    return place


class Killed(BaseException):
    """Ends a run as a kill does: nothing in it may catch this."""


def kill_after(monkeypatch, iterations):
    left = [iterations]
    original = module._Watch.before_backward

    def before_backward(self, strategy, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        original(self, strategy, **kwargs)

    monkeypatch.setattr(module._Watch, "before_backward", before_backward)


METHODS = [
    pytest.param("naive", None, {}, marks=pytest.mark.slow),
    pytest.param("joint", None, {}, marks=pytest.mark.slow),
    ("mas", 0.1, {}),
    pytest.param("mas_proximal", 0.1, {}, marks=pytest.mark.slow),
    pytest.param("ewc", 10.0, {}, marks=pytest.mark.slow),
    pytest.param("ewc_online", 10.0, {}, marks=pytest.mark.slow),
    ("si", 1.0, {}),
    pytest.param("lwf", 1.0, {}, marks=pytest.mark.slow),
    ("lwf", 1.0, {"warmup_epochs": 1}),
]


@pytest.mark.parametrize(("method_name", "strength", "options"), METHODS)
def test_a_run_killed_at_six_random_moments_ends_with_the_same_record(
    place, monkeypatch, method_name, strength, options
):
    config = smoke_config(
        method_name,
        strength,
        model_options={"hidden": [16], "dropout": 0.2},
        options={method_name: options},
        training={"optimizer": "adam", "learning_rate": 0.01, "epochs": 2, "batch_size": 64},
    )
    whole = execute(config)
    generator = torch.Generator().manual_seed(0)
    kills = 0
    while kills < 6:
        with monkeypatch.context() as patch:
            kill_after(patch, int(torch.randint(1, 20, (), generator=generator)))
            try:
                record = execute(config, checkpoint=place, checkpoint_every=0)
            except Killed:
                kills += 1
                continue
        assert comparable(record) == comparable(whole)
        place.remove()
    record = execute(config, checkpoint=place, checkpoint_every=0)
    assert comparable(record) == comparable(whole)
    assert place.path.is_file()


@pytest.mark.parametrize("iterations", [1, 7, 12])
def test_a_run_that_is_asked_to_stop_keeps_its_state_and_leaves(place, iterations):
    config = smoke_config("mas", 0.1, model_options={"hidden": [16], "dropout": 0.2})
    asked = iter([False] * (iterations - 1) + [True])
    with pytest.raises(SystemExit) as stop:
        execute(config, checkpoint=place, checkpoint_every=1e9, stopping=lambda: next(asked))
    assert stop.value.code == 128 + signal.SIGTERM
    assert place.read() is not None
    assert comparable(execute(config, checkpoint=place)) == comparable(execute(config))


def test_a_method_that_cannot_give_its_state_starts_anew(place):
    config = smoke_config("avalanche_ewc", 1.0)
    with pytest.raises(SystemExit):
        execute(config, checkpoint=place, stopping=lambda: True)
    assert place.read() is None
    assert comparable(execute(config, checkpoint=place)) == comparable(execute(config))


def test_a_state_that_cannot_be_kept_ends_the_run_without_a_record(place, monkeypatch):
    def full(content):
        raise StoreError("No space left on device")

    monkeypatch.setattr(place, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        execute(smoke_config(), checkpoint=place, checkpoint_every=0)


def test_a_run_goes_on_from_the_task_it_had_reached(place, monkeypatch):
    config = smoke_config("mas", 0.1)
    with monkeypatch.context() as patch:
        kill_after(patch, 10)
        with pytest.raises(Killed):
            execute(config, checkpoint=place, checkpoint_every=0)
    done = torch.load(place.path, weights_only=True)["done"]
    assert done >= 1
    trained = []
    original = module._Trial._learn

    def learn(self, strategy, *arguments):
        trained.append(strategy.position)
        return original(self, strategy, *arguments)

    monkeypatch.setattr(module._Trial, "_learn", learn)
    execute(config, checkpoint=place)
    assert trained == list(range(done, 5))


BESIDE = {"measure": ["overlap", "probes"], "subset": [0]}
IN_USE = {
    "method": "mas",
    "title": "MAS, classes in use",
    "options": {"importance_data": "subset"},
}
MEASURED = {**BESIDE, "methods": ["mas_in_use"], "variants": {"mas_in_use": IN_USE}}


def test_a_run_measures_beside_accuracy_what_its_study_asks_for():
    plain, record = (execute(smoke_config("mas", 0.1, **part)) for part in ({}, BESIDE))
    assert record.status == "finished", record.error
    assert (plain.probes, plain.overlap, plain.subset) == (None, (), None)
    # Measuring changes nothing.
    assert record.accuracy == plain.accuracy
    assert record.history == plain.history
    test, held = record.accuracy["test"], record.subset
    whole = held.num_in_use + held.num_others
    right = [
        held.num_in_use * a + held.num_others * b
        for a, b in zip(held.in_use, held.others, strict=True)
    ]
    assert [n / whole for n in right] == pytest.approx([row[0] for row in test])
    assert [found.layer for found in record.overlap] == ["trunk.1"]
    assert record.probes.final[-1] == record.probes.learned[-1]
    assert min(record.probes.learned) > 0.8


def test_importance_of_the_classes_in_use_holds_for_the_first_task_alone():
    name = "mas_in_use"
    record = execute(smoke_config(name, 0.1, **MEASURED))
    plain = execute(smoke_config("mas", 0.1))
    assert record.status == "finished", record.error
    assert (record.method, record.config["base"]) == (name, "mas")
    first, second = list(record.importance.values())[:2]
    ours, theirs = (list(r.importance.values()) for r in (record, plain))
    assert first != theirs[0]
    head = "head.heads.1"  # reached by the second task alone, of which all classes count
    assert second[head]["sum"] == pytest.approx(theirs[1][head]["sum"], rel=0.2)
    assert ours[0]["head.heads.0"]["sum"] != theirs[0]["head.heads.0"]["sum"]


def test_a_choice_of_strength_sees_no_test_inputs(monkeypatch):
    part = {"options": {"mas": {"importance_data": "both"}}}
    config = dataclasses.replace(smoke_config("mas", 0.1, **part), role="selection")
    built = streams.build("split_digits", config.seed)
    blind = tuple(
        dataclasses.replace(t, test=streams.Split(t.test.x[:0], t.test.y[:0])) for t in built.tasks
    )
    whole = execute(config)
    monkeypatch.setattr(streams, "build", lambda *a, **k: dataclasses.replace(built, tasks=blind))
    record = execute(config)
    assert record.status == "finished", record.error
    assert record.accuracy == whole.accuracy


def test_an_interrupted_run_keeps_what_it_had_measured(place, monkeypatch):
    config = smoke_config("mas_in_use", 0.1, **MEASURED)
    whole = execute(config)
    with monkeypatch.context() as patch:
        kill_after(patch, 11)
        with pytest.raises(Killed):
            execute(config, checkpoint=place, checkpoint_every=0)
    assert torch.load(place.path, weights_only=True)["done"] >= 2
    assert comparable(execute(config, checkpoint=place)) == comparable(whole)


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_state_that_cannot_be_used_is_left_and_the_run_starts_anew(place, content, capsys):
    config = smoke_config()
    if content is None:
        execute(dataclasses.replace(config, seed=9), checkpoint=place, checkpoint_every=0)
    else:
        place.path.write_bytes(content)
    record = execute(config, checkpoint=place)
    assert comparable(record) == comparable(execute(config))
    assert ("the run starts anew" in capsys.readouterr().err) == (content is not None)


def test_a_state_is_loaded_without_running_code(place, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("code was run",))

    torch.save({"id": "x", "evil": Evil()}, place.path)
    assert execute(smoke_config(), checkpoint=place).status == "finished"
    captured = capsys.readouterr()
    assert "code was run" not in captured.out
    assert "the run starts anew" in captured.err


def test_what_a_method_holds_important_is_summed_up_by_task_and_layer():
    record = execute(smoke_config("mas", 0.1))
    assert list(record.importance) == list(record.task_names)
    first, *_, last = record.importance.values()
    assert set(first) == {"trunk.1", "head.heads.0"}
    assert set(last) == {"trunk.1", *(f"head.heads.{i}" for i in range(5))}
    assert last["trunk.1"]["sum"] > first["trunk.1"]["sum"] > 0
    histogram = last["trunk.1"]["histogram"]
    assert sum(histogram["counts"]) + histogram["num_zero"] == 65 * 16
    assert execute(smoke_config()).importance is None


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_joint_trains_with_every_optimizer(optimizer):
    training = {"optimizer": optimizer, "learning_rate": 1e-3, "epochs": 1, "batch_size": 64}
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    record = execute(smoke_config("joint", training={**training, **momentum}))
    assert record.status == "finished", record.error
