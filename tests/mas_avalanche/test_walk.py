import pickle

import torch
from torch import nn
from torch.nn.utils import parametrizations

from mas_avalanche.walk import ParameterWalk


def same(walk, model):
    """Whether the walk gives what the model gives, the very tensors."""
    found, expected = walk(model), list(model.named_parameters())
    assert [name for name, _ in found] == [name for name, _ in expected]
    return all(a is b for (_, a), (_, b) in zip(found, expected, strict=True))


def shared():
    layer = nn.Linear(3, 3)
    return nn.ModuleDict({"first": layer, "again": layer, "norm": nn.BatchNorm1d(3)})


def models():
    yield shared()
    yield nn.ParameterList([torch.ones(1), torch.ones(2)])
    yield nn.ParameterDict({"a": torch.ones(1), "b": None})
    yield parametrizations.weight_norm(nn.Linear(2, 2))
    yield nn.Linear(2, 2, bias=False)
    yield nn.LSTM(2, 3)
    yield nn.ReLU()


def test_the_walk_is_that_of_the_model():
    walk = ParameterWalk()
    for model in models():
        assert same(walk, model)
        assert same(walk, model)


def test_changes_of_a_model_are_found():
    walk, model = ParameterWalk(), shared()
    walk(model)
    model["first"].weight = nn.Parameter(torch.ones(3, 3))
    assert same(walk, model)
    model["first"].register_parameter("bias", None)
    assert same(walk, model)
    model["norm"] = nn.Linear(3, 3)
    walk.renew(model)
    assert same(walk, model)


def test_a_copy_holds_no_model():
    walk, model = ParameterWalk(), shared()
    walk(model)
    again = pickle.loads(pickle.dumps(walk))
    assert again.__dict__ == ParameterWalk().__dict__
    assert same(again, model)
