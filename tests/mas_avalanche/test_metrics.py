import pytest
import torch
from avalanche.evaluation.metrics import loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from mas_avalanche import MASPlugin
from mas_avalanche.baselines import EWCPlugin
from mas_avalanche.metrics import penalty_metrics
from mas_avalanche.penalty import penalty_value
from tests import continual
from tests.continual import experiences, single_head


class Keep(BaseLogger):
    """Keeps every value by the metric's own name."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_single_metric(self, name, value, x_plot):
        self.values.setdefault(name.split("/")[0], []).append(float(value))


def run(plugins, stream, **metrics):
    model, logger = single_head(), Keep()
    learner = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=22,
        train_epochs=2,
        plugins=plugins,
        evaluator=EvaluationPlugin(
            *penalty_metrics(**metrics), *loss_metrics(minibatch=True), loggers=[logger]
        ),
    )
    for experience in stream:
        learner.train(experience, shuffle=False)
    return learner, logger.values


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_penalty_and_task_loss_are_told_apart(mode):
    stream = experiences()
    plugin = MASPlugin(0.3, mode=mode)
    learner, values = run([plugin], stream[:2], minibatch=True, epoch=True, experience=True)
    assert values["Penalty_MB"][:3] == [0.0, 0.0, 0.0]  # the third starts at the anchor
    assert values["Penalty_MB"][3] > 0
    assert values["TaskLoss_MB"] == pytest.approx(values["Loss_MB"])
    assert values["Penalty_Epoch"] == pytest.approx(values["Penalty_MB"])
    assert values["TaskLoss_Epoch"] == pytest.approx(values["TaskLoss_MB"])
    assert values["ImportanceTime_Exp"] == pytest.approx(plugin.importance_seconds)
    importance = {n: v.clone() for n, v in plugin.importance.items()}
    with torch.no_grad():
        learner.model[0].weight += 0.1
    x, y = continual.tensors(stream[2])
    expected_loss = nn.functional.cross_entropy(learner.model(x), y).detach()
    expected = penalty_value(learner.model, importance, plugin.anchor, 0.3)
    learner.train_epochs = 1
    before = {name: len(v) for name, v in values.items()}
    learner.train(stream[2], shuffle=False)
    assert values["Penalty_MB"][before["Penalty_MB"]] == pytest.approx(float(expected))
    assert values["TaskLoss_MB"][before["TaskLoss_MB"]] == pytest.approx(float(expected_loss))


def test_penalties_of_all_plugins_are_added_and_training_is_not_changed():
    stream = experiences()
    both, values = run([MASPlugin(0.3), EWCPlugin(1.0)], stream[:2], minibatch=True)
    one, first = run([MASPlugin(0.3)], stream[:1], minibatch=True)
    unseen, _ = run([MASPlugin(0.3), EWCPlugin(1.0)], stream[:2])
    continual.assert_same_weights(both.model, unseen.model)
    assert not unseen.plugins[0].penalty.track_value
    assert values["Penalty_MB"][3] > 0
    assert first["TaskLoss_MB"] == values["TaskLoss_MB"][:2]
    assert one.plugins[0].penalty.track_value


def test_names():
    names = [str(m) for m in penalty_metrics(minibatch=True, epoch=True, experience=True)]
    assert names == [
        "Penalty_MB",
        "TaskLoss_MB",
        "Penalty_Epoch",
        "TaskLoss_Epoch",
        "ImportanceTime_Exp",
    ]
    assert penalty_metrics() == []
