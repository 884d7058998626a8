"""Collect inputs and output gradients at the operations that read trainable parameters.

A model is run once under a function mode that sees every call into torch. Where a linear map or a
convolution reads a trainable parameter, the parameter is detached, so autograd computes no
gradient of the mini-batch for it, and the output is tapped: when its gradient arrives, the rule
turns it into the sum over samples. A parameter that reaches the objective on any other way is
found by autograd itself and left to the generic path.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mas_avalanche.per_sample import rules

__all__ = ["sum_by_rules"]

_CONV2D = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV2D_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def sum_by_rules(
    model: nn.Module,
    value: Callable[[nn.Module, Tensor, Tensor | None], Tensor],
    x: Tensor,
    labels: Tensor | None,
    power: int,
    budget: int,
) -> tuple[dict[str, Tensor], list[str]]:
    """Sum per-sample gradient magnitudes over a mini-batch, in one forward and one backward pass.

    Args:
        model: A model that treats samples independently.
        value: Computes the objective, summed over a mini-batch, from a model, inputs and labels.
        x: Inputs whose first dimension counts samples.
        labels: Labels, where the objective reads them.
        power: 1 or 2.
        budget: Numbers that a temporary may hold.

    Returns:
        For each trainable parameter the sum over the samples, and the names of those parameters
        that the rules do not cover.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    tap = _Tap({id(p): n for n, p in parameters.items()}, len(x), power, budget)
    with torch.enable_grad(), tap:
        result = value(model, x, labels)
    anchors = [tap.anchor, *parameters.values()]
    if not result.requires_grad:
        return {n: torch.zeros_like(p) for n, p in parameters.items()}, []
    _, *leaks = torch.autograd.grad(result, anchors, allow_unused=True)
    left = {n for n, leak in zip(parameters, leaks, strict=True) if leak is not None}
    left |= {n for n, uses in tap.uses.items() if uses > 1}
    sums = {n: tap.sums.get(n, torch.zeros_like(p)) for n, p in parameters.items()}
    return {n: s for n, s in sums.items() if n not in left}, sorted(left)


class _Attach(torch.autograd.Function):
    """Identity on an operation's output that hands its gradient to the rule."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, anchor: Tensor, x: Tensor, finish: Any) -> Tensor:
        ctx.mark_dirty(out)
        ctx.save_for_backward(x)
        ctx.finish = finish
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        ctx.finish(x, gradients[0])
        return gradients[0], None, None, None


class _Tap(TorchFunctionMode):
    def __init__(self, names: dict[int, str], num_samples: int, power: int, budget: int) -> None:
        super().__init__()
        self.names = names
        self.num_samples = num_samples
        self.power = power
        self.budget = budget
        self.anchor = torch.zeros((), requires_grad=True)
        self.sums: dict[str, Tensor] = {}
        self.uses: dict[str, int] = dict.fromkeys(names.values(), 0)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            bound = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            return self._linear(func, bound)
        if func is F.conv2d:
            bound = _CONV2D_DEFAULTS | dict(zip(_CONV2D, args, strict=False)) | kwargs
            return self._conv2d(func, bound)
        return func(*args, **kwargs)

    def _linear(self, func: Any, bound: dict[str, Any]) -> Tensor:
        x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
        names = self._claim(x, weight, bias, dims=2)
        if names is None:
            return func(x, weight, bias)  # type: ignore[no-any-return]
        weight_name, bias_name = names

        def finish(x: Tensor, delta: Tensor) -> None:
            if weight_name is not None:
                self._add(weight_name, rules.sum_linear_weight(x, delta, self.power, self.budget))
            if bias_name is not None:
                self._add(bias_name, rules.sum_bias(delta, -1, self.power))

        out = func(x, weight.detach(), None if bias is None else bias.detach())
        return _Attach.apply(out, self.anchor, x.detach(), finish)  # type: ignore[no-any-return]

    def _conv2d(self, func: Any, bound: dict[str, Any]) -> Tensor:
        x, weight, bias = bound["input"], bound["weight"], bound["bias"]
        options = {k: bound[k] for k in ("stride", "padding", "dilation", "groups")}
        names = None
        if not isinstance(options["padding"], str):
            names = self._claim(x, weight, bias, dims=4)
        if names is None:
            return func(x, weight, bias, **options)  # type: ignore[no-any-return]
        weight_name, bias_name = names
        shape = weight.shape

        def finish(x: Tensor, delta: Tensor) -> None:
            if weight_name is not None:
                total = rules.sum_conv2d_weight(x, delta, shape, self.power, self.budget, options)
                self._add(weight_name, total)
            if bias_name is not None:
                self._add(bias_name, rules.sum_bias(delta, 1, self.power))

        out = func(x, weight.detach(), None if bias is None else bias.detach(), **options)
        return _Attach.apply(out, self.anchor, x.detach(), finish)  # type: ignore[no-any-return]

    def _claim(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, dims: int
    ) -> tuple[str | None, str | None] | None:
        """Name the trainable parameters of a call that a rule covers, or say that none does."""
        names = (self.names.get(id(weight)), self.names.get(id(bias)))
        if names == (None, None) or x.dim() != dims or len(x) != self.num_samples:
            return None
        for tensor in (weight, bias):
            if tensor is not None and tensor.requires_grad and id(tensor) not in self.names:
                return None  # computed from parameters: the chain rule would be needed
        for name in names:
            if name is not None:
                self.uses[name] += 1
        return names

    def _add(self, name: str, total: Tensor) -> None:
        if name in self.sums:
            self.sums[name] += total
        else:
            self.sums[name] = total
