"""The learning rate falls within each task as declared, and starts afresh with the next."""

import dataclasses
import json

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.optim.lr_scheduler import StepLR

from benchmarks import methods
from benchmarks.methods import Method
from benchmarks.record import Record
from benchmarks.run import execute
from benchmarks.store import Store
from benchmarks.study import Training, load
from tests.benchmarks.studies import SMOKE, smoke_config


def config(method="naive", strength=None, **schedule):
    training = {**SMOKE["parts"]["digits"]["training"], "momentum": 0.9, "epochs": 5, **schedule}
    return smoke_config(method, strength, training=training)


class Rates(SupervisedPlugin):
    """Notes the learning rate of every step."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def before_update(self, strategy, **kwargs):
        (group,) = strategy.optimizer.param_groups
        epoch = strategy.clock.train_exp_epochs
        self.seen.append((strategy.position, epoch, group["lr"]))

    def num_stored(self):
        return 0


def rates(monkeypatch, **schedule):
    seen = []
    changed = Method("naive", "Test", None, (), lambda strength: [Rates(seen)])
    with monkeypatch.context() as patch:
        patch.setattr(methods, "get", lambda name: changed)
        record = execute(config(**schedule))
    assert record.status == "finished", record.error
    found = sorted(set(seen))
    assert len(found) == 5 * 5  # one rate an epoch
    return [rate for _, _, rate in found]


def losses(record):
    return [row["task_loss"] for row in record.history]


def torchs(every, decay):
    """The rates of torch's own schedule over five epochs."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    schedule = StepLR(optimizer, every, decay)
    found = []
    for _ in range(5):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("every", "decay"), [(2, 0.1), (1, 0.5), (9, 0.1)])
def test_the_rate_falls_as_torchs_does_and_starts_again_with_each_task(monkeypatch, every, decay):
    found = rates(monkeypatch, decay_every=every, decay=decay)
    assert found == pytest.approx(5 * torchs(every, decay), rel=1e-12)


def test_without_a_schedule_the_rate_is_constant(monkeypatch):
    assert set(rates(monkeypatch)) == {0.05}


def test_a_factor_of_one_is_no_schedule_to_the_bit():
    plain, kept = execute(config("mas", 0.1)), execute(config("mas", 0.1, decay_every=2, decay=1.0))
    assert kept.accuracy == plain.accuracy
    assert kept.history == plain.history
    lowered = execute(config("mas", 0.1, decay_every=2, decay=0.1))
    assert lowered.history[:2] == plain.history[:2]
    assert lowered.history[2] != plain.history[2]


def test_a_joint_run_has_one_schedule():
    plain = execute(config("joint"))
    lowered = execute(config("joint", decay_every=4, decay=0.1))
    assert [h == o for h, o in zip(lowered.history, plain.history, strict=True)] == 4 * [True] + [
        False
    ]


def test_a_run_stopped_between_two_steps_of_the_rate_goes_on_with_the_right_one(tmp_path):
    asked = config("mas", 0.1, decay_every=2, decay=0.1)
    whole = execute(asked)
    place = Store(tmp_path, "smoke").checkpoint("run")
    left = iter(range(10_000))

    def stopping():
        return next(left) in (17, 40)  # in the fourth epochs of the first and the second task

    for _ in range(2):
        with pytest.raises(SystemExit):
            execute(asked, checkpoint=place, stopping=stopping)
    record = execute(asked, checkpoint=place)
    assert losses(record) == losses(whole)
    assert record.accuracy == whole.accuracy


def test_a_configuration_without_a_schedule_is_written_as_before():
    table = config().to_table()
    assert set(table["training"]) == {
        "optimizer",
        "learning_rate",
        "epochs",
        "batch_size",
        "momentum",
        "weight_decay",
    }
    lowered = config(decay_every=2, decay=0.1)
    assert lowered.to_table()["training"]["decay_every"] == 2
    assert lowered.key("code") != config().key("code")
    record = execute(dataclasses.replace(lowered, training=Training("sgd", 0.1, 1, 64, 0, 0, 1, 1)))
    assert json.loads(record.to_json())["config"]["training"]["decay"] == 1
    assert Record.from_json(record.to_json()) == record


def test_the_object_recognition_study_has_the_schedule_of_the_authors_code():
    for part in load("object_recognition").parts:
        assert (part.training.decay_every, part.training.decay) == (54, 0.1)
        assert part.training.share(54) == 0.1
