import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from benchmarks.measures import Measures, features, importance_overlap, layers_of, probe_accuracy
from mas_avalanche.alexnet import MultiHeadAlexNet
from mas_avalanche.heads import MultiHeadModel


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_features_are_what_goes_into_the_last_layer():
    model, x = two_layers(), torch.randn(5, 4)
    found = features(model, x, 0)
    assert torch.equal(found, model[:3](x))
    assert not found.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_features_of_a_model_with_heads_are_the_trunk_s():
    trunk = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    model, x = MultiHeadModel(trunk, 6, [2, 3]), torch.randn(5, 4)
    assert torch.equal(features(model, x, 1), trunk(x))
    net = MultiHeadAlexNet(num_classes=[2, 3], width=0.0625, image_size=64).eval()
    image = torch.randn(2, 3, 64, 64)
    weight, bias = net.head.heads["1"].weight, net.head.heads["1"].bias
    expected = features(net, image, 1) @ weight.T + bias
    assert torch.allclose(net(image, 1), expected, atol=1e-6)


def test_features_are_taken_in_evaluation_mode_which_is_given_back():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[1].eval()
    x = torch.ones(3, 4)
    assert torch.equal(features(model, x, 0), x)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_a_model_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="to run through a linear layer, got none"):
        features(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 1), 0)


def test_a_probe_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    told = rng.normal(size=(400, 3)) + 6 * y[:, None] * np.array([1.0, 0.0, 0.0])
    blind = rng.normal(size=(400, 3))
    assert probe_accuracy(told[:200], y[:200], told[200:], y[200:]) > 0.98
    assert 0.35 < probe_accuracy(blind[:200], y[:200], blind[200:], y[200:]) < 0.65
    # The scale of a feature does not matter.
    scaled = told * np.array([1e-4, 1.0, 1e4])
    assert probe_accuracy(scaled[:200], y[:200], scaled[200:], y[200:]) > 0.98


def test_layers_join_weight_and_bias_and_draw_the_same_entries_each_time():
    importance = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([9.0, 8.0])}
    assert layers_of(importance, 100)["a"].tolist() == [0, 1, 2, 3, 4, 5, 9, 8]
    first = layers_of(importance, 4)["a"]
    assert len(first) == len(set(first.tolist())) == 4
    assert torch.equal(layers_of(importance, 4)["a"], first)


def test_overlap_is_the_rank_correlation_of_what_each_task_added():
    torch.manual_seed(1)
    own = [torch.rand(50, dtype=torch.float64) for _ in range(3)]
    held = [
        {"shared": sum(own[: i + 1]), **{f"head{j}": torch.rand(4) for j in range(i + 1)}}
        for i in range(3)
    ]
    for state in held[1:]:
        state["head0"] = held[0]["head0"]
    (found,) = importance_overlap(held)
    assert (found.layer, found.num_compared) == ("shared", 50)
    matrix = np.array(found.correlation)
    expected = [[spearmanr(a, b).statistic for b in own] for a in own]
    assert np.abs(matrix - expected).max() < 6e-4  # three digits
    assert (matrix == matrix.T).all()


def test_a_task_that_adds_a_constant_correlates_with_none():
    held = [{"a": torch.tensor([1.0, 2.0, 3.0])}, {"a": torch.tensor([2.0, 3.0, 4.0])}]
    assert importance_overlap(held)[0].correlation == ((1.0, None), (None, 1.0))


class Stub:
    """Three tasks of hand-made mini-batches."""

    def __init__(self):
        torch.manual_seed(3)
        self.y = torch.tensor([0, 1, 2, 0, 1, 2])
        self.x = torch.eye(3)[self.y] + 0.01 * torch.randn(6, 3)

    def __call__(self, split, position):
        yield self.x[:4], self.y[:4]
        yield self.x[4:], self.y[4:]


def reader(*swapped):
    """Return a net that reads the class off its input, and takes the classes given for others."""
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        for i in swapped:
            model.weight[i] = -1.0
    return model


def test_the_subset_is_counted_apart():
    measures = Measures((), (2,), Stub(), "test", 3)
    measures.after(reader(), None, [0])
    measures.after(reader(0), None, [1])
    measures.after(reader(2), None, [2])
    found = measures.findings()
    assert set(found) == {"subset"}
    assert (found["subset"].num_in_use, found["subset"].num_others) == (2, 4)
    assert found["subset"].in_use == (1.0, 1.0, 0.0)
    assert found["subset"].others == (1.0, 0.5, 1.0)


def test_probes_see_features_and_not_the_output_layer():
    blank = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    blind = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.zeros_(blind[0].weight)
    measures = Measures(("probes",), (), Stub(), "test", 3)
    measures.before(blind)
    for task in range(3):
        measures.after(blank if task < 2 else blind, None, [task])
    found = measures.findings()["probes"]
    assert found.initial == pytest.approx((1 / 3,) * 3)
    assert found.learned == pytest.approx((1.0, 1.0, 1 / 3))
    assert found.final == pytest.approx((1 / 3,) * 3)


def test_a_joint_run_has_learned_all_at_once():
    measures = Measures(("probes",), (), Stub(), "test", 3)
    measures.after(reader(), None, range(3))
    found = measures.findings()["probes"]
    assert found.learned == found.final == (1.0, 1.0, 1.0)


def test_what_is_not_complete_is_left_out():
    measures = Measures(("probes", "overlap"), (), Stub(), "test", 3)
    measures.after(reader(), {"weight": torch.ones(3, 3)}, [0])
    assert measures.findings() == {}
