import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mas_avalanche.importance import estimate_importance
from tests import oracles, zoo


def layer_by_layer(layers, x):
    """Differentiate each layer's own squared norm, one sample at a time.

    ``layers`` holds (prefix, module, activation or None, what follows without parameters).
    """
    total = {}
    for n in range(len(x)):
        hidden = x[n : n + 1]
        for prefix, module, activation, rest in layers:
            output = module(hidden.detach())
            output = output if activation is None else activation(output)
            names, parameters = zip(*module.named_parameters(), strict=True)
            gradients = torch.autograd.grad(output.square().sum(), parameters)
            for name, gradient in zip(names, gradients, strict=True):
                key = f"{prefix}.{name}"
                total[key] = total.get(key, 0) + gradient.abs() / len(x)
            hidden = output if rest is None else rest(output)
    return total


def assert_equal(found, expected):
    errors = oracles.relative_errors(found, expected)
    assert max(errors.values()) < 1e-10, errors


def test_hebbs_rule_for_relu_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ReLU())
    model.double()
    x = torch.rand(7, 4, dtype=torch.float64)
    with torch.no_grad():
        y = model[1](model[0](x))
        z = model[3](model[2](y))
    expected = {
        "0.weight": 2 * y.t() @ x / 7,
        "0.bias": 2 * y.sum(0) / 7,
        "2.weight": 2 * z.t() @ y / 7,
        "2.bias": 2 * z.sum(0) / 7,
    }
    assert_equal(estimate_importance(model, x, objective="local"), expected)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Tanh(), nn.LeakyReLU(0.1, inplace=True), nn.GELU()]
)
def test_convolutions_add_over_positions(activation):
    torch.manual_seed(0)
    conv, last = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(12, 4)
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(conv, activation, pool, last).double()
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    expected = layer_by_layer([("0", conv, activation, pool), ("3", last, None, None)], x)
    for sizes in ([5], [2, 3]):
        found = estimate_importance(model, x.split(sizes), objective="local")
        assert_equal(found, expected)


def test_normalisations_are_layers_too():
    torch.manual_seed(0)
    conv, norm, last = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 2)
    norm.running_mean.normal_()
    model = nn.Sequential(conv, norm, nn.ReLU(inplace=True), nn.Flatten(), last).double().eval()
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    layers = [("0", conv, None, None), ("1", norm, F.relu, nn.Flatten()), ("4", last, None, None)]
    assert_equal(estimate_importance(model, x, objective="local"), layer_by_layer(layers, x))


def test_a_layer_whose_output_is_changed_in_place():
    torch.manual_seed(0)
    first, last = nn.Linear(4, 3), nn.Linear(3, 2)
    model = zoo.Lambda(lambda s, x: s.last(s.first(x).add_(1)), first=first, last=last).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    layers = [("first", first, None, lambda y: y + 1), ("last", last, None, None)]
    assert_equal(estimate_importance(model, x, objective="local"), layer_by_layer(layers, x))


def test_uses_of_one_layer_are_added_before_the_magnitude():
    torch.manual_seed(0)
    model = zoo.Lambda(lambda s, x: s.a(F.relu(s.a(x))), a=nn.Linear(3, 3)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        y = F.relu(model.a(x))
        z = model.a(y)
    gradients = 2 * (torch.einsum("nj,ni->nji", y, x) + torch.einsum("nj,ni->nji", z, y))
    expected = {"a.weight": gradients.abs().mean(0), "a.bias": 2 * (y + z).abs().mean(0)}
    assert_equal(estimate_importance(model, x, objective="local"), expected)


def test_no_backward_pass_is_taken():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    reached = []
    model[2].register_full_backward_hook(lambda *_: reached.append("backward"))
    estimate_importance(model, x, objective="local")
    assert not reached
    estimate_importance(model, x)
    assert reached


def test_parameters_without_a_rule_are_an_error():
    model, x = zoo.case("written-in-place").build()
    with pytest.raises(NotImplementedError, match=r"operations with a local rule, got p\."):
        estimate_importance(model, x, objective="local")


def test_no_graph_is_kept():
    """Nothing that the model computes requires a gradient, so autograd keeps no activations."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2))
    x, seen = torch.randn(9, 2, 4, 4), []
    for layer in model:
        layer.register_forward_hook(lambda module, args, output: seen.append(output))
    estimate_importance(model, x, objective="local")
    whole = [output for output in seen if len(output) == 9]
    assert len(whole) == 4
    assert not any(output.requires_grad for output in whole)


# Samples one by one and together must agree; what has no regular way through has no local rule.
WITHOUT_RULE = {
    "written-in-place",
    "checkpointed",
    "custom-function",
    "data-dependent",
    "loop-over-samples",
    "packed-sequence",
}


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_every_layer_of_the_zoo_has_a_rule_or_says_that_it_has_none(case):
    model, x = case.build()
    if case.name in WITHOUT_RULE:
        with pytest.raises(NotImplementedError, match="operations with a local rule, got"):
            estimate_importance(model, x, objective="local")
        return
    found = estimate_importance(model, x, objective="local")
    assert any(value.any() for value in found.values())
    assert_equal(estimate_importance(model, x.split([1, 4]), objective="local"), found)


def test_cells_are_layers_of_linear_maps():
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 4).double()
    model = zoo.Lambda(lambda s, x: s.cell(x)[0], cell=cell)
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        z = x @ cell.weight_ih.t() + cell.bias_ih
    expected = {
        "cell.weight_ih": 2 * z.abs().t() @ x.abs() / 5,
        "cell.bias_ih": 2 * z.abs().mean(0),
        "cell.weight_hh": torch.zeros(16, 4, dtype=torch.float64),  # the state is zero
        "cell.bias_hh": 2 * cell.bias_hh.detach().abs(),
    }
    assert_equal(estimate_importance(model, x, objective="local"), expected)
