"""Per-sample gradients of any function of the parameters, by ``torch.func`` or sample by sample.

This is the path for parameters that no rule covers: a vmap over chunks of samples that keep within
a memory budget, and a plain loop where vmap cannot go (control flow that depends on the data).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mas_avalanche.per_sample.rules import magnitude

__all__ = ["sum_generic"]


def sum_generic(
    model: nn.Module,
    names: list[str],
    value: Callable[[nn.Module | Callable[..., Any], Tensor, Tensor | None], Tensor],
    x: Tensor,
    labels: Tensor | None,
    power: int,
    budget: int,
) -> dict[str, Tensor]:
    """Sum the magnitudes of per-sample gradients for some parameters of any model.

    Args:
        model: A model that treats samples independently.
        names: The parameters wanted.
        value: Computes the objective, summed over a mini-batch, from a model, inputs and labels.
        x: Inputs whose first dimension counts samples.
        labels: Labels, where the objective reads them.
        power: 1 or 2.
        budget: Numbers that per-sample gradients may hold at a time.

    Returns:
        For each name the sum over the samples.
    """
    everything = dict(model.named_parameters(remove_duplicate=False))
    wanted = {name: everything[name].detach() for name in names}

    def objective(parameters: Mapping[str, Tensor], x_n: Tensor, y_n: Tensor | None) -> Tensor:
        def run(*args: Any) -> Any:
            return functional_call(model, dict(parameters), args)

        return value(run, x_n.unsqueeze(0), None if y_n is None else y_n.unsqueeze(0))

    step = max(1, budget // max(1, sum(p.numel() for p in wanted.values())))
    per_sample = vmap(grad(objective), in_dims=(None, 0, None if labels is None else 0))
    totals = {name: torch.zeros_like(p) for name, p in wanted.items()}
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        y = None if labels is None else labels[part]
        try:
            gradients = per_sample(wanted, x[part], y)
        except RuntimeError:  # vmap has no rule for something in the model
            return _loop(model, names, value, x, labels, power)
        for name, gradient in gradients.items():
            totals[name] += magnitude(gradient, power).sum(0)
    return totals


def _loop(
    model: nn.Module,
    names: list[str],
    value: Callable[..., Tensor],
    x: Tensor,
    labels: Tensor | None,
    power: int,
) -> dict[str, Tensor]:
    everything = dict(model.named_parameters(remove_duplicate=False))
    parameters = [everything[name] for name in names]
    totals = {name: torch.zeros_like(everything[name]) for name in names}
    for n in range(len(x)):
        y = None if labels is None else labels[n : n + 1]
        with torch.enable_grad():
            result = value(model, x[n : n + 1], y)
            gradients = torch.autograd.grad(result, parameters, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                totals[name] += magnitude(gradient, power)
    return totals
