import pickle

import pytest
import torch
from torch import nn

from mas_avalanche import guard
from mas_avalanche.guard import LossGuard, check_weights


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


def test_guard_pickles():
    watch = LossGuard()
    watch.watch(torch.ones(1))
    assert pickle.loads(pickle.dumps(watch))._seen == 1
