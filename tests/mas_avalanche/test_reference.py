"""The plugin in Avalanche trains to the weights of a plain PyTorch implementation of MAS."""

import copy

import pytest
import torch

from mas_avalanche import MASPlugin
from tests import continual
from tests.plain_mas import train_plain_mas

CASES = {
    "sum": {"strength": 0.3},
    "moving average": {"strength": 0.3, "alpha": 0.5},
    "strong": {"strength": 2.0},
}


@pytest.mark.parametrize("headed", [False, True], ids=["one head", "a head a task"])
@pytest.mark.parametrize("optimizer", [continual.plain_sgd, continual.sgd, continual.adam])
@pytest.mark.parametrize("case", CASES)
def test_three_tasks_give_the_weights_of_plain_pytorch(case, optimizer, headed):
    options = CASES[case]
    stream = continual.experiences(task_labels=headed)
    model = continual.HeadedNet() if headed else continual.single_head()
    plain = copy.deepcopy(model)
    tasks = [continual.tensors(experience) for experience in stream]
    importance, anchor = train_plain_mas(
        plain,
        tasks,
        optimizer,
        options["strength"],
        alpha=options.get("alpha"),
        headed=headed,
    )
    plugin = MASPlugin(options["strength"], options.get("alpha"))
    continual.train(model, stream, [plugin], optimizer=optimizer)
    continual.assert_same_weights(model, plain, tolerance=1e-8)
    for name, value in plugin.importance.items():
        torch.testing.assert_close(value, importance[name], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(plugin.anchor[name], anchor[name], rtol=1e-8, atol=1e-8)
    unprotected = continual.HeadedNet() if headed else continual.single_head()
    continual.train(unprotected, stream, optimizer=optimizer)
    assert continual.largest_difference(model, unprotected) > 1e-3
