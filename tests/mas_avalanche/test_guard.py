import pickle

import pytest
import torch
from torch import nn

from mas_avalanche import guard
from mas_avalanche.guard import LossGuard, WeightGuard, check_weights


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_first_bad_loss_is_named(bad):
    watch = LossGuard()
    for value in (0.0, 1e30):
        watch.watch(torch.tensor([value]))
    with pytest.raises(RuntimeError, match=f"Expected the loss to be finite, got {bad} in .* 3"):
        watch.watch(torch.tensor([bad]))


def test_losses_elsewhere_are_read_in_groups(monkeypatch):
    monkeypatch.setattr(guard, "_READ_EVERY", 3)
    watch = LossGuard()
    meta = torch.empty(1, device="meta")
    watch.watch(meta)
    watch.watch(meta)
    assert len(watch._pending) == 2
    watch._pending[:] = [torch.tensor([1.0]), torch.tensor([float("nan")])]
    with pytest.raises(RuntimeError, match="iteration 2"):
        watch.read()
    watch.read()


def test_bad_weights_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_weights(model)
    with torch.no_grad():
        model[1].bias[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"Expected `1.bias` to be finite, got NaN or infinity"):
        check_weights(model)


def moved(dtype=torch.float32):
    """Two layers after an update; the second has taken no part."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(dtype)
    for parameter in model[0].parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_first_bad_weight_is_named_with_its_iteration(dtype, bad):
    watch, model = WeightGuard(), moved(dtype)
    watch.watch(model)
    watch.watch(model)
    with torch.no_grad():
        model[0].weight[1, 0] = bad
    with pytest.raises(RuntimeError, match=r"`0.weight` to be .* after training iteration 3\. The"):
        watch.watch(model)


def test_weights_that_did_not_move_cost_nothing():
    watch, model = WeightGuard(), moved()
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    watch.watch(model)


def test_finite_weights_of_infinite_sum_are_finite():
    watch, model = WeightGuard(), moved()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    assert model[0].weight.sum().isinf()
    watch.watch(model)
    watch, model = WeightGuard(), moved(torch.float16)
    with torch.no_grad():
        model[0].weight.fill_(6e4)
    watch.watch(model)


def test_weights_elsewhere_are_read_in_groups(monkeypatch):
    monkeypatch.setattr(guard, "_READ_EVERY", 3)
    watch, model = WeightGuard(), moved()
    elsewhere = moved().to("meta")
    elsewhere[0].weight.grad = elsewhere[0].weight.detach()
    watch.watch(elsewhere)
    watch.watch(elsewhere)
    assert [total.device.type for total in watch._pending] == ["meta", "meta"]
    watch._pending[:] = [torch.tensor(1.0), torch.tensor(float("nan"))]
    watch.read(model)  # a false alarm: every weight is finite
    watch._pending[:] = [torch.tensor(1.0), torch.tensor(float("nan"))]
    with torch.no_grad():
        model[0].bias[0] = float("nan")
    with pytest.raises(RuntimeError, match="after training iteration 4"):
        watch.read(model)
    watch.read(model)


def test_guards_pickle():
    watch = LossGuard()
    watch.watch(torch.ones(1))
    assert pickle.loads(pickle.dumps(watch))._seen == 1
    weights = WeightGuard()
    weights.watch(moved())
    assert pickle.loads(pickle.dumps(weights))._seen == 1
