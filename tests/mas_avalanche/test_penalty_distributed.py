"""Under DistributedDataParallel the penalty joins the averaged gradient of the task, once."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mas_avalanche.penalty import QuadraticPenalty
from tests import processes

pytestmark = processes.MARKS

STRENGTH = 0.7
OPTIONS = [
    {},
    {"gradient_as_bucket_view": True},
    {"find_unused_parameters": True},
    {"find_unused_parameters": True, "gradient_as_bucket_view": True},
]


class Heads(nn.Module):
    """A trunk with a head that takes part and one that does not."""

    def __init__(self, unused):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.other = nn.Linear(5, 2) if unused else nn.Identity()
        self.double()

    def forward(self, x):
        return self.head(self.trunk(x).tanh())


def inputs():
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def work(rank):
    found = []
    for options in OPTIONS:
        model = Heads(unused="find_unused_parameters" in options)
        wrapped = DistributedDataParallel(model, **options)
        importance = {name: torch.ones_like(p) for name, p in wrapped.named_parameters()}
        anchor = {name: torch.zeros_like(value) for name, value in importance.items()}
        penalty = QuadraticPenalty(STRENGTH)
        for _ in range(2):  # buckets are laid out anew after the first pass
            wrapped.zero_grad(set_to_none=not options.get("gradient_as_bucket_view"))
            loss = wrapped(inputs()[rank::2]).square().mean()
            strategy = SimpleNamespace(model=wrapped, loss=loss, optimizer=None)
            penalty.before_backward(strategy, importance, anchor)
            loss.backward()
            penalty.after_backward(strategy)
        found.append(gradients(model))
    return found


def test_two_processes_train_as_one(tmp_path):
    both = processes.in_two(work, tmp_path)
    model = Heads(unused=False)
    loss = model(inputs()).square().mean()
    (loss + STRENGTH * sum(p.square().sum() for p in model.parameters())).backward()
    expected = gradients(model)
    for results in both:
        for found in results:
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
