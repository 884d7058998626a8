import pickle
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mas_avalanche import penalty as penalty_module
from mas_avalanche.penalty import (
    QuadraticPenalty,
    StabilityWarning,
    penalty_value,
    proximal_step,
)

DOUBLE = torch.float64


def problem(*, strength=0.7, mode="gradient", dtype=DOUBLE, optimizer=None):
    """A two-layer net away from its anchor, an input, and a stand-in for a strategy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    importance = {n: torch.rand_like(p) for n, p in model.named_parameters()}
    anchor = {n: p.detach() + torch.randn_like(p) for n, p in model.named_parameters()}
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strategy = SimpleNamespace(model=model, optimizer=optimizer, loss=None)
    return model, importance, anchor, strategy, QuadraticPenalty(strength, mode)


def task_loss(model, dtype=DOUBLE):
    x = torch.linspace(-1, 1, 8, dtype=dtype).reshape(2, 4)
    return model(x).square().mean().reshape(1)


def gradients(model):
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def reference_gradients(model, importance, anchor, strength, scale=1.0):
    """Autograd's gradient of the loss with the penalty written out."""
    parameters = dict(model.named_parameters())
    total = task_loss(model)
    for name, weight in importance.items():
        rows = parameters[name][: len(weight)]
        total = total + strength * (weight * (rows - anchor[name]) ** 2).sum()
    model.zero_grad()
    (scale * total).backward()
    found = gradients(model)
    model.zero_grad()
    return found


def step(strategy, penalty, importance, anchor, scale=1.0):
    strategy.loss = task_loss(strategy.model)
    penalty.before_backward(strategy, importance, anchor)
    (strategy.loss * scale).backward()
    penalty.after_backward(strategy)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)


def hooks_left(strategy):
    return bool(strategy.loss._backward_hooks)


@pytest.fixture(params=["off", "auto"])
def kernel_mode(request, monkeypatch):
    monkeypatch.setenv("MAS_AVALANCHE_KERNEL", request.param)


@pytest.mark.usefixtures("kernel_mode")
@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
@pytest.mark.parametrize("scale", [1.0, 0.25, 2.0**16])
def test_gradient_is_that_of_loss_plus_penalty_under_any_scale(monkeypatch, chunk, scale):
    monkeypatch.setattr(penalty_module, "_CHUNK", chunk)
    model, importance, anchor, strategy, penalty = problem()
    expected = reference_gradients(model, importance, anchor, 0.7, scale)
    step(strategy, penalty, importance, anchor, scale)
    assert_equal(gradients(model), expected)
    assert not hooks_left(strategy)


def test_gradient_is_linear_in_the_strength_and_zero_at_the_anchor():
    model, importance, anchor, strategy, _ = problem()
    step(strategy, QuadraticPenalty(0.0), importance, anchor)
    plain = gradients(model)
    pulls = []
    for strength in (1.0, 3.0):
        model.zero_grad()
        step(strategy, QuadraticPenalty(strength), importance, anchor)
        pulls.append({n: g - plain[n] for n, g in gradients(model).items()})
    assert_equal(pulls[1], {n: 3 * pull for n, pull in pulls[0].items()})
    here = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.zero_grad()
    step(strategy, QuadraticPenalty(1.0), importance, here)
    assert all(torch.equal(g, plain[n]) for n, g in gradients(model).items())


def test_another_plugins_backward_pass_adds_no_penalty():
    model, importance, anchor, strategy, penalty = problem()
    strategy.loss = task_loss(model)
    penalty.before_backward(strategy, importance, anchor)
    task_loss(model).backward()
    before = gradients(model)
    model.zero_grad()
    step(strategy, QuadraticPenalty(0.0), importance, anchor)
    assert_equal(before, gradients(model))
    model.zero_grad()
    strategy.loss = task_loss(model)
    penalty.before_backward(strategy, importance, anchor)
    strategy.loss.backward()
    with_penalty = gradients(model)
    task_loss(model).backward()
    assert_equal(gradients(model), {n: with_penalty[n] + before[n] for n in before})


def test_a_strategy_that_differentiates_something_else_is_told():
    model, importance, anchor, strategy, penalty = problem()
    strategy.loss = task_loss(model)
    penalty.before_backward(strategy, importance, anchor)
    task_loss(model).backward()
    with pytest.raises(RuntimeError, match=r"Expected `strategy.loss` to be differentiated, got a"):
        penalty.after_backward(strategy)
    assert not hooks_left(strategy)
    penalty.before_backward(strategy, importance, anchor)
    penalty.after_backward(strategy)  # no backward pass at all is the strategy's choice


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_there_already_are_added_to(set_to_none):
    model, importance, anchor, strategy, penalty = problem()
    expected = reference_gradients(model, importance, anchor, 0.7, 0.5)
    model.add_module("spare", nn.Linear(5, 3).to(DOUBLE))
    importance |= {"spare.bias": torch.ones(3, dtype=DOUBLE)}
    anchor |= {"spare.bias": torch.zeros(3, dtype=DOUBLE)}
    model.spare(torch.ones(5, dtype=DOUBLE)).sum().backward()  # of an earlier iteration
    earlier = gradients(model)
    assert earlier["spare.bias"] is not None

    def pass_over_the_others():
        strategy.loss = task_loss(nn.Sequential(model[0], model[1], model[2]))
        penalty.before_backward(strategy, importance, anchor)
        (strategy.loss * 0.5).backward()
        penalty.after_backward(strategy)

    for _ in range(3):
        pass_over_the_others()
    found = gradients(model)
    assert torch.equal(found.pop("spare.bias"), earlier["spare.bias"])
    assert torch.equal(found.pop("spare.weight"), earlier["spare.weight"])
    assert_equal(found, {name: 3 * value for name, value in expected.items()})
    model.zero_grad(set_to_none=set_to_none)
    pass_over_the_others()
    assert_equal({name: gradients(model)[name] for name in expected}, expected)
    assert not set_to_none or model.spare.bias.grad is None
    assert set_to_none or not model.spare.bias.grad.any()


def test_checkpointed_layers_are_penalised_like_others():
    model, importance, anchor, strategy, penalty = problem()
    expected = reference_gradients(model, importance, anchor, 0.7)
    x = torch.linspace(-1, 1, 8, dtype=DOUBLE).reshape(2, 4).requires_grad_()
    for reentrant in (True, False):
        model.zero_grad()
        hidden = checkpoint(model[:2], x, use_reentrant=reentrant)
        strategy.loss = model[2](hidden).square().mean().reshape(1)
        penalty.before_backward(strategy, importance, anchor)
        strategy.loss.backward()
        penalty.after_backward(strategy)
        assert_equal(gradients(model), expected)


def test_parameters_and_weights_that_were_replaced_are_found():
    model, importance, anchor, strategy, penalty = problem()
    step(strategy, penalty, importance, anchor)
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1.0)
    importance["2.bias"] = importance["2.bias"] + 1.0
    anchor["0.bias"] = anchor["0.bias"] - 1.0
    expected = reference_gradients(model, importance, anchor, 0.7)
    step(strategy, penalty, importance, anchor)
    assert_equal(gradients(model), expected)
    model[2] = nn.Linear(5, 3).to(DOUBLE)
    penalty.warn_if_unstable(strategy, importance)  # as at the start of each epoch
    expected = reference_gradients(model, importance, anchor, 0.7)
    step(strategy, penalty, importance, anchor)
    assert_equal(gradients(model), expected)


def test_loss_may_be_changed_in_place_afterwards():
    model, importance, anchor, strategy, penalty = problem()
    strategy.loss = torch.zeros(1, dtype=DOUBLE)
    strategy.loss += task_loss(model)
    penalty.before_backward(strategy, importance, anchor)
    strategy.loss += model[0].weight.square().sum()
    strategy.loss.backward()
    found = gradients(model)
    expected = reference_gradients(model, importance, anchor, 0.7)
    expected["0.weight"] = expected["0.weight"] + 2 * model[0].weight.detach()
    assert_equal(found, expected)


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_parameters_without_a_task_gradient_are_left_alone(mode):
    model, importance, anchor, strategy, penalty = problem(mode=mode)
    model.add_module("spare", nn.Linear(5, 3).to(DOUBLE))
    importance |= {"spare.weight": torch.ones(3, 5, dtype=DOUBLE)}
    anchor |= {"spare.weight": torch.zeros(3, 5, dtype=DOUBLE)}
    strategy.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    before = model.spare.weight.detach().clone()
    trunk = nn.Sequential(model[0], model[1], model[2])
    strategy.loss = task_loss(trunk)
    penalty.before_backward(strategy, importance, anchor)
    strategy.loss.backward()
    penalty.after_backward(strategy)
    strategy.optimizer.step()
    penalty.after_update(strategy, importance, anchor)
    assert model.spare.weight.grad is None
    assert torch.equal(model.spare.weight, before)


@pytest.mark.usefixtures("kernel_mode")
@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_rows_that_have_grown_are_free(mode):
    model, importance, anchor, strategy, penalty = problem(mode=mode)
    importance["2.weight"] = importance["2.weight"][:2].clone()
    anchor["2.weight"] = anchor["2.weight"][:2].clone()
    penalty.track_value = True
    plain = {n: p.detach().clone() for n, p in model.named_parameters()}
    expected = reference_gradients(model, importance, anchor, 0.7)
    value = penalty_value(model, importance, anchor, 0.7)
    step(strategy, penalty, importance, anchor)
    torch.testing.assert_close(penalty.value, value, rtol=1e-12, atol=0.0)
    if mode == "gradient":
        assert_equal(gradients(model), expected)
        return
    strategy.optimizer.step()
    task_only = model[2].weight.detach().clone()
    penalty.after_update(strategy, importance, anchor)
    assert torch.equal(model[2].weight[2], task_only[2])
    s = 2 * 0.1 * 0.7 * importance["2.weight"]
    expected = (task_only[:2] + s * anchor["2.weight"]) / (1 + s)
    torch.testing.assert_close(model[2].weight[:2].detach(), expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(model[2].weight, plain["2.weight"])


@pytest.mark.usefixtures("kernel_mode")
def test_strided_parameters_are_walked_like_others():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).to(DOUBLE)
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    importance = {n: torch.rand_like(p) for n, p in values.items()}
    anchor = {n: torch.randn_like(p) for n, p in values.items()}
    found = []
    for memory in (torch.contiguous_format, torch.channels_last):
        net = nn.Conv2d(3, 4, 3).to(DOUBLE)
        net.load_state_dict(values)
        net = net.to(memory_format=memory)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        strategy = SimpleNamespace(model=net, optimizer=optimizer)
        strategy.loss = net(torch.ones(1, 3, 5, 5, dtype=DOUBLE)).square().sum()
        penalty = QuadraticPenalty(1.0)
        penalty.before_backward(strategy, importance, anchor)
        strategy.loss.backward()
        proximal_step(net.weight, importance["weight"], anchor["weight"], 0.5)
        found.append((gradients(net), net.weight.detach().clone()))
    assert_equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=0.0)


def test_half_precision_model_takes_single_precision_importance():
    model, importance, anchor, strategy, penalty = problem(dtype=torch.bfloat16)
    importance = {n: value.float() for n, value in importance.items()}
    strategy.loss = task_loss(model, torch.bfloat16)
    penalty.before_backward(strategy, importance, anchor)
    strategy.loss.backward()
    bias, star = model[2].bias.detach(), anchor["2.bias"]
    pull = 1.4 * importance["2.bias"] * (bias - star).float()
    assert model[2].bias.grad.dtype is torch.bfloat16
    model.zero_grad()
    task_loss(model, torch.bfloat16).backward()
    found = gradients(model)["2.bias"]
    strategy.loss = task_loss(model, torch.bfloat16)
    model.zero_grad()
    penalty.before_backward(strategy, importance, anchor)
    strategy.loss.backward()
    torch.testing.assert_close((model[2].bias.grad - found).float(), pull, rtol=0.05, atol=0.02)
    proximal_step(model[2].bias.detach(), importance["2.bias"], star, 1e30)
    assert torch.equal(model[2].bias, star)


def test_sparse_gradients_are_refused_in_the_gradient_form():
    model = nn.Embedding(4, 2, sparse=True)
    strategy = SimpleNamespace(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    strategy.loss = model(torch.tensor([1])).sum()
    penalty = QuadraticPenalty(1.0)
    ones = {"weight": torch.ones(4, 2)}
    penalty.before_backward(strategy, ones, ones)
    with pytest.raises(NotImplementedError, match="Expected `weight` to have a dense gradient"):
        strategy.loss.backward()


def test_stale_hooks_of_an_interrupted_pass_are_removed():
    model, importance, anchor, strategy, penalty = problem()
    expected = reference_gradients(model, importance, anchor, 0.7)
    strategy.loss = interrupted = task_loss(model)
    penalty.before_backward(strategy, importance, anchor)
    step(strategy, penalty, importance, anchor)
    assert_equal(gradients(model), expected)
    assert not interrupted._backward_hooks
    assert not hooks_left(strategy)


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_task_gradient_can_be_read_before_the_penalty_is_added(mode):
    model, importance, anchor, strategy, penalty = problem(mode=mode)
    seen = {}
    penalty.on_task_gradient = lambda name, p: seen.update({name: p.grad / penalty.scale})
    step(strategy, penalty, importance, anchor, scale=8.0)
    with_importance, seen = seen, {}
    penalty.on_task_gradient = lambda name, p: seen.update({name: p.grad.clone()})
    model.zero_grad()
    step(strategy, penalty, {}, {})
    assert_equal(with_importance, seen)
    model.zero_grad()
    task_loss(model).backward()
    assert_equal(seen, gradients(model))


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_value_is_computed_only_where_it_is_asked_for(mode):
    model, importance, anchor, strategy, penalty = problem(mode=mode)
    step(strategy, penalty, importance, anchor)
    assert penalty.value == 0
    penalty.track_value = True
    model.zero_grad()
    expected = sum(
        (0.7 * importance[n] * (p - anchor[n]) ** 2).sum() for n, p in model.named_parameters()
    )
    step(strategy, penalty, importance, anchor, scale=4.0)
    torch.testing.assert_close(penalty.value, expected.detach(), rtol=1e-12, atol=0.0)
    step(strategy, penalty, {}, {})
    assert penalty.value == 0


def test_proximal_step_is_the_implicit_one():
    torch.manual_seed(0)
    theta = torch.randn(50, dtype=DOUBLE)
    omega = torch.rand(50, dtype=DOUBLE) * torch.logspace(-12, 12, 50, dtype=DOUBLE)
    star = torch.randn(50, dtype=DOUBLE)
    expected = (theta + 0.3 * omega * star) / (1 + 0.3 * omega)
    proximal_step(theta, omega, star, 0.3)
    torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step_size", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_proximal_step_keeps_what_matters_not_to_the_bit(step_size, dtype):
    theta = torch.tensor([0.1, -3.7, 1e-30], dtype=dtype)
    before = theta.clone()
    proximal_step(theta, torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype), step_size)
    assert torch.equal(theta, before)
    if step_size == 1e300:
        proximal_step(theta, torch.full((3,), 1e30, dtype=dtype), torch.ones(3, dtype=dtype), 1e300)
        assert torch.equal(theta, torch.ones(3, dtype=dtype))


def test_proximal_step_follows_true_steps_of_the_optimizer_only():
    model, importance, anchor, strategy, penalty = problem(mode="proximal")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(strategy, penalty, importance, anchor)
    penalty.after_update(strategy, importance, anchor)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    step(strategy, penalty, importance, anchor)
    strategy.optimizer.step()
    strategy.optimizer.zero_grad()
    task_only = {n: p.detach().clone() for n, p in model.named_parameters()}
    penalty.after_update(strategy, importance, anchor)
    for name, parameter in model.named_parameters():
        s = 2 * 0.1 * 0.7 * importance[name]
        expected = (task_only[name] + s * anchor[name]) / (1 + s)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


def test_proximal_step_uses_the_rate_of_each_group():
    model, importance, anchor, strategy, penalty = problem(mode="proximal")
    strategy.optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": [model[2].weight]}], lr=0.0
    )
    step(strategy, penalty, importance, anchor)
    strategy.optimizer.step()
    task_only = {n: p.detach().clone() for n, p in model.named_parameters()}
    penalty.after_update(strategy, importance, anchor)
    s = 2 * 0.5 * 0.7 * importance["0.bias"]
    expected = (task_only["0.bias"] + s * anchor["0.bias"]) / (1 + s)
    torch.testing.assert_close(model[0].bias.detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(model[2].weight, task_only["2.weight"])
    assert torch.equal(model[2].bias, task_only["2.bias"])


def test_changed_shapes_are_refused():
    _, importance, anchor, strategy, penalty = problem()
    importance["2.weight"] = torch.ones(4, 5)
    strategy.loss = task_loss(strategy.model)
    with pytest.raises(ValueError, match=r"Expected `2.weight` to keep its shape or to grow"):
        penalty.before_backward(strategy, importance, anchor)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strength_must_be_finite_and_not_negative(strength):
    message = f"Expected `strength` to be finite and at least 0, got {strength}"
    with pytest.raises(ValueError, match=message):
        QuadraticPenalty(strength)
    penalty = QuadraticPenalty(1.0)
    with pytest.raises(ValueError, match=message):
        penalty.strength = strength


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"Expected `mode` to be one of .*, got 'implicit'"):
        QuadraticPenalty(1.0, "implicit")


def test_pickles_between_iterations():
    model, importance, anchor, strategy, penalty = problem()
    step(strategy, penalty, importance, anchor)
    again = pickle.loads(pickle.dumps(penalty))
    new = pickle.dumps(QuadraticPenalty(0.7))
    assert len(pickle.dumps(penalty)) < len(new) + 200  # no weights, of which there are 43
    model.zero_grad()
    step(strategy, again, importance, anchor)
    assert_equal(gradients(model), reference_gradients(model, importance, anchor, 0.7))


SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.5},
    {"dampening": 0.5},
]


def swing(options, product, steps=400):
    """Let SGD act on the penalty alone, of a given learning rate times curvature."""
    theta = nn.Parameter(torch.ones(1, dtype=DOUBLE))
    optimizer = torch.optim.SGD([theta], lr=1.0, **options)
    for _ in range(steps):
        theta.grad = product * theta.detach()
        optimizer.step()
    return float(theta.detach().abs())


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_warns_exactly_where_sgd_diverges(options):
    bound = penalty_module._bound({"lr": 0.5, **options})
    assert swing(options, 0.98 * bound) < 1.0
    assert swing(options, 1.02 * bound) > 1e3
    for factor in (0.98, 1.02):
        caught = warnings_of_two_iterations(
            lambda p: torch.optim.SGD(p, lr=0.5, **options), factor * bound / (2 * 0.5 * 4.0)
        )
        assert [w.category for w in caught] == ([StabilityWarning] if factor > 1 else [])
    text = str(caught[0].message)
    assert f"{1.02 * bound:.3g} exceeds {bound:.3g} in `used.weight`" in text
    assert "mode='proximal'" in text
    assert "by more than 1.02" in text


def warnings_of_two_iterations(optimizer, strength, mode="gradient"):
    """Largest importance 4 in the layer that takes part, more in one that does not."""
    model = nn.ModuleDict({name: nn.Linear(2, 1, bias=False) for name in ("used", "unused")})
    strategy = SimpleNamespace(model=model, optimizer=optimizer(model.parameters()))
    importance = {"used.weight": torch.tensor([[1.0, 4.0]]), "unused.weight": torch.ones(1, 2) * 99}
    anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
    penalty = QuadraticPenalty(strength, mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        penalty.warn_if_unstable(strategy, importance)
        for _ in range(2):
            strategy.loss = model["used"](torch.ones(1, 2)).sum()
            penalty.before_backward(strategy, importance, anchor)
            strategy.loss.backward()
            penalty.after_backward(strategy)
            penalty.after_update(strategy, importance, anchor)
        penalty.warn_if_unstable(strategy, importance)
    return caught


def test_no_warning_where_no_bound_holds():
    assert warnings_of_two_iterations(torch.optim.Adam, 1e6) == []
    sgd = partial(torch.optim.SGD, lr=1.0)
    assert warnings_of_two_iterations(sgd, 1e6, "proximal") == []
    assert len(warnings_of_two_iterations(sgd, 1e6)) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_an_accelerator_gives_the_numbers_of_the_processor(mode):
    found = []
    for device in ("cpu", "cuda"):
        model, importance, anchor, strategy, penalty = problem(mode=mode)
        model.to(device)
        importance = {n: value.to(device) for n, value in importance.items()}
        anchor = {n: value.to(device) for n, value in anchor.items()}
        x = torch.linspace(-1, 1, 8, dtype=DOUBLE, device=device).reshape(2, 4)
        penalty.track_value = True
        strategy.loss = model(x).square().mean().reshape(1)
        penalty.before_backward(strategy, importance, anchor)
        (8.0 * strategy.loss).backward()
        penalty.after_backward(strategy)
        value = penalty.value.cpu()
        strategy.optimizer.step()
        penalty.after_update(strategy, importance, anchor)
        found.append({n: p.detach().cpu() for n, p in model.named_parameters()} | {"": value})
    assert_equal(found[1], found[0])
