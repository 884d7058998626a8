import copy
import io

import pytest
import torch
from avalanche.models import IncrementalClassifier
from torch import nn

from mas_avalanche.baselines import EWCPlugin, LwFPlugin, SIPlugin
from tests.continual import (
    NUM_FEATURES,
    HeadedNet,
    assert_same_weights,
    class_incremental_experiences,
    experiences,
    single_head,
    train,
)

MAKERS = {
    "ewc": lambda: EWCPlugin(5.0),
    "ewc_online": lambda: EWCPlugin(5.0, "online", 0.5),
    "si": lambda: SIPlugin(3.0),
    "lwf": lambda: LwFPlugin(1.0),
    "lwf_warmup": lambda: LwFPlugin(1.0, warmup_epochs=1),
}


def through_a_file(state):
    """Write and read, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["one head", "a head a task", "a growing head"])
def test_a_new_plugin_with_the_state_of_another_goes_on_the_same(name, kind):
    if kind == "a growing head":
        model = nn.Sequential(nn.Linear(NUM_FEATURES, 4), IncrementalClassifier(4, 2))
        stream = class_incremental_experiences(dtype=torch.float32)
    elif kind == "a head a task":
        model, stream = HeadedNet(), experiences(task_labels=True)
    else:
        model, stream = single_head(), experiences()
    plugin = MAKERS[name]()
    one = train(model, stream[:2], [plugin])
    two = copy.deepcopy(one)
    two.plugins[0] = MAKERS[name]()
    two.plugins[0].load_state_dict(through_a_file(plugin.state_dict()))
    for learner in (one, two):
        torch.manual_seed(0)  # the new rows of a growing head are drawn
        learner.train(stream[2], shuffle=False)
    assert_same_weights(one.model, two.model)
    assert two.plugins[0].num_stored() == plugin.num_stored() > 0


@pytest.mark.parametrize("name", MAKERS)
def test_the_state_of_a_plugin_that_has_seen_nothing_is_one(name):
    plugin = MAKERS[name]()
    plugin.load_state_dict(through_a_file(MAKERS[name]().state_dict()))
    model, fresh = HeadedNet(), HeadedNet()
    train(model, experiences(task_labels=True), [plugin])
    train(fresh, experiences(task_labels=True), [MAKERS[name]()])
    assert_same_weights(model, fresh)


@pytest.mark.parametrize("name", MAKERS)
def test_foreign_states_are_refused(name):
    plugin = MAKERS[name]()
    state = plugin.state_dict()
    with pytest.raises(ValueError, match=r"Expected `state` to have the keys"):
        plugin.load_state_dict({"importance": {}})
    with pytest.raises(ValueError, match=r"and format 1, got .* and 99"):
        plugin.load_state_dict(state | {"format": 99})


@pytest.mark.parametrize("name", ["ewc", "si"])
def test_an_importance_without_its_anchor_is_refused(name):
    plugin = MAKERS[name]()
    state = plugin.state_dict() | {"importance": {"w": torch.ones(2)}}
    for anchor in ({}, {"w": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"an anchor of each importance's name .* for `w`"):
            plugin.load_state_dict(state | {"anchor": anchor})
