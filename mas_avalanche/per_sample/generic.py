"""Per-sample gradients of any function of the parameters, by ``torch.func`` or sample by sample.

This is the path for parameters that no rule covers: a vmap over chunks of samples that keep within
a memory budget, and a plain loop where vmap cannot go (control flow that depends on the data).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from mas_avalanche.per_sample.gradients import Settings, add_magnitudes, quiet_vmap

__all__ = ["add_generic"]

Evaluate = Callable[[Callable[..., Any], Any, Tensor | None], Tensor]


def add_generic(
    model: nn.Module,
    names: Sequence[str],
    evaluate: Evaluate,
    x: Any,
    labels: Tensor | None,
    totals: Mapping[str, Tensor],
    settings: Settings,
) -> None:
    """Add the magnitudes of per-sample gradients of some parameters of any model.

    Args:
        model: A model that treats samples independently.
        names: The parameters wanted.
        evaluate: Gives the objectives, each summed over a mini-batch, of shape (objectives,), from
            a function that runs the model, inputs and labels.
        x: Inputs: nested tensors whose first dimension counts samples.
        labels: Labels, where the objective reads them.
        totals: Accumulators by name.
        settings: How magnitudes are taken.
    """
    everything = dict(model.named_parameters())
    wanted = {name: everything[name].detach() for name in names}
    numel = 3 * max(1, sum(p.numel() for p in wanted.values()))
    step = settings.samples(numel, next(iter(wanted.values())))
    count = len(tree_leaves(x)[0])
    for start in range(0, count, step):
        part = slice(start, start + step)
        x_part = tree_map(lambda t, part=part: t[part], x)
        y_part = None if labels is None else labels[part]
        try:
            _add_by_vmap(model, wanted, evaluate, x_part, y_part, totals, settings)
        except _CannotMapError:
            parameters: dict[str, Tensor] = {name: everything[name] for name in names}
            _add_one_by_one(model, parameters, evaluate, x_part, y_part, totals, settings)


class _CannotMapError(RuntimeError):
    """The model cannot be run under vmap."""


def _add_by_vmap(
    model: nn.Module,
    wanted: dict[str, Tensor],
    evaluate: Evaluate,
    x: Any,
    labels: Tensor | None,
    totals: Mapping[str, Tensor],
    settings: Settings,
) -> None:
    def objective(
        parameters: Mapping[str, Tensor], x_n: Any, y_n: Tensor | None, index: int
    ) -> Tensor:
        def run(*args: Any) -> Any:
            return functional_call(model, dict(parameters), args)

        single = tree_map(lambda t: t.unsqueeze(0), x_n)
        return evaluate(run, single, None if y_n is None else y_n.unsqueeze(0))[index]

    with torch.no_grad():
        one = evaluate(model, tree_map(lambda t: t[:1], x), None if labels is None else labels[:1])
    per_sample = vmap(grad(objective), in_dims=(None, 0, None if labels is None else 0, None))
    for index in range(len(one)):
        try:
            with quiet_vmap():
                gradients = per_sample(wanted, x, labels, index)
        except (RuntimeError, ValueError) as error:
            if index > 0:
                raise
            raise _CannotMapError from error
        for name, gradient in gradients.items():
            add_magnitudes(totals[name], gradient, settings.power)


def _add_one_by_one(
    model: nn.Module,
    parameters: dict[str, Tensor],
    evaluate: Evaluate,
    x: Any,
    labels: Tensor | None,
    totals: Mapping[str, Tensor],
    settings: Settings,
) -> None:
    for n in range(len(tree_leaves(x)[0])):
        single = tree_map(lambda t, n=n: t[n : n + 1], x)
        with torch.enable_grad():
            values = evaluate(model, single, None if labels is None else labels[n : n + 1])
        if not values.requires_grad:
            continue
        for index in range(len(values)):
            gradients = torch.autograd.grad(
                values[index],
                list(parameters.values()),
                retain_graph=index < len(values) - 1,
                allow_unused=True,
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    add_magnitudes(totals[name], gradient.unsqueeze(0), settings.power)
