"""Which operations have a rule of their own, and how their arguments are read.

A rule looks at one call into torch and says, for each trainable parameter that the call reads, how
its per-sample gradients follow from the inputs and the gradient of the output. Calls without a rule
are replayed for each sample by :class:`~mas_avalanche.per_sample.gradients.Replay`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mas_avalanche.per_sample.gradients import (
    Convolution,
    Direct,
    Gradient,
    LookUp,
    Product,
    channels,
    sum_to,
)
from mas_avalanche.per_sample.layout import Layout

__all__ = ["REPEATING", "Bound", "Ruling", "bind", "find_rule", "repeated"]

_PAIR = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_SUM = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
_TIMES = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
_PRODUCT = {"input": None, "weight": None}
_ARITHMETIC = {"input": None, "other": None, "alpha": 1}
_CONVOLUTION = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
}
_TRANSPOSED = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "dilation": 1,
}
_SIGNATURES: dict[Any, dict[str, Any]] = {
    F.linear: {"input": None, "weight": None, "bias": None},
    F.embedding: {
        "input": None,
        "weight": None,
        "padding_idx": None,
        "max_norm": None,
        "norm_type": 2.0,
        "scale_grad_by_freq": False,
        "sparse": False,
    },
    F.prelu: {"input": None, "weight": None},
    F.layer_norm: {
        "input": None,
        "normalized_shape": None,
        "weight": None,
        "bias": None,
        "eps": 1e-5,
    },
    F.group_norm: {"input": None, "num_groups": 1, "weight": None, "bias": None, "eps": 1e-5},
    F.batch_norm: {
        "input": None,
        "running_mean": None,
        "running_var": None,
        "weight": None,
        "bias": None,
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    F.instance_norm: {
        "input": None,
        "running_mean": None,
        "running_var": None,
        "weight": None,
        "bias": None,
        "use_input_stats": True,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _CONVOLUTION),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
    **dict.fromkeys(_PAIR, _PRODUCT),
    **dict.fromkeys((*_SUM, *_TIMES), _ARITHMETIC),
}

REPEATING = (
    Tensor.expand,
    Tensor.expand_as,
    Tensor.repeat,
    Tensor.tile,
    torch.broadcast_to,
    torch.tile,
)


@dataclass(frozen=True)
class Bound:
    """The arguments of a call by name, and where the samples are in them.

    Args:
        values: Every argument; defaults filled in.
        parameters: Names of the arguments that are trainable parameters or made of them alone.
        layouts: Layout of each argument that depends on the sample.
    """

    values: dict[str, Any]
    parameters: frozenset[str]
    layouts: dict[str, Layout]


@dataclass(frozen=True)
class Ruling:
    """How a call's parameters get their gradients.

    Args:
        gradients: One a parameter argument.
        saved: Names of the arguments to keep until the backward pass.
        output: Layout of the output.
    """

    gradients: dict[str, Gradient]
    saved: tuple[str, ...]
    output: Layout


def bind(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Name a call's arguments, or return None where the function has no rule."""
    signature = _SIGNATURES.get(func) if _hashable(func) else None
    if signature is None or len(args) > len(signature) or not kwargs.keys() <= signature.keys():
        return None
    return {**signature, **dict(zip(signature, args, strict=False)), **kwargs}


def _hashable(func: Any) -> bool:
    return getattr(func, "__hash__", None) is not None


def find_rule(func: Any, bound: Bound) -> Ruling | None:
    """Find the rule of a call.

    Args:
        func: A function that :func:`bind` knows.
        bound: Its arguments.

    Returns:
        The ruling, or None where the call is not of the form that the rule covers.
    """
    allowed = {"input"} if func not in _ELEMENTWISE else {"input", "other"}
    if not bound.layouts.keys() <= allowed:
        return None
    return _RULES[func](bound)


def _linear(bound: Bound) -> Ruling | None:
    layout = bound.layouts["input"]
    if layout.dim == bound.values["input"].dim() - 1:
        return None
    gradients = {"weight": Product(), "bias": Direct(_sum_to_last)}
    return Ruling(gradients, ("input",) if "weight" in bound.parameters else (), layout)


def _sum_to_last(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
    del saved
    single = delta.dim() == 3 and delta.shape[1] == 1
    return delta.squeeze(1) if single else delta.flatten(1, -2).sum(1)


def _matmul(bound: Bound) -> Ruling | None:
    x, weight = bound.values["input"], bound.values["weight"]
    if weight.dim() != 2 or "weight" not in bound.parameters or "input" not in bound.layouts:
        return None
    layout = bound.layouts["input"]
    if x.dim() < 2 or layout.dim == x.dim() - 1:
        return None
    return Ruling({"weight": Product(transposed=True)}, ("input",), layout)


def _convolution(dims: int, transposed: bool) -> Callable[[Bound], Ruling | None]:
    def rule(bound: Bound) -> Ruling | None:
        v, layout = bound.values, bound.layouts["input"]
        if layout.dim != 0 or v["input"].dim() != dims + 2:
            return None
        window = tuple(v["weight"].shape[2:])
        dilation = _repeat(v["dilation"], dims)
        if isinstance(v["padding"], str):
            same = v["padding"] == "same"
            padding = tuple(d * (w - 1) // 2 * same for d, w in zip(dilation, window, strict=True))
        else:
            padding = _repeat(v["padding"], dims)
        gradient = Convolution(
            tuple(v["weight"].shape),
            _repeat(v["stride"], dims),
            padding,
            dilation,
            v["groups"],
            transposed,
        )
        gradients = {"weight": gradient, "bias": Direct(_sum_to_channel)}
        return Ruling(gradients, ("input",) if "weight" in bound.parameters else (), layout)

    return rule


def _repeat(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dims
    return tuple(value) if len(value) == dims else (value[0],) * dims


def _sum_to_channel(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
    del saved  # delta has shape (N, images, channels, ...)
    return delta.sum(channels(delta.dim(), 2))


def _normalised(plain: Callable[[Tensor], Tensor], sum_up: Callable[[Tensor], Tensor]) -> Any:
    """Make the gradients of a scale and a shift after a normalisation without them."""

    def scale(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        x = saved[0]
        return sum_up(delta * plain(x.flatten(0, 1)).reshape(x.shape))

    def shift(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        del saved
        return sum_up(delta)

    return {"weight": Direct(scale), "bias": Direct(shift)}


def _layer_norm(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    shape = tuple(v["normalized_shape"])
    if layout.dim >= v["input"].dim() - len(shape):
        return None

    def plain(x: Tensor) -> Tensor:
        return F.layer_norm(x, shape, None, None, v["eps"])

    def sum_up(values: Tensor) -> Tensor:
        return values.flatten(1, -len(shape) - 1).sum(1)

    saved = ("input",) if "weight" in bound.parameters else ()
    return Ruling(_normalised(plain, sum_up), saved, layout)


def _group_norm(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    if layout.dim != 0:
        return None

    def plain(x: Tensor) -> Tensor:
        return F.group_norm(x, v["num_groups"], None, None, v["eps"])

    return Ruling(_normalised(plain, _to_channel), ("input",), layout)


def _instance_norm(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    if layout.dim != 0:
        return None
    if not v["use_input_stats"]:
        return _batch_norm(bound)

    def plain(x: Tensor) -> Tensor:
        return F.instance_norm(x, eps=v["eps"])

    return Ruling(_normalised(plain, _to_channel), ("input",), layout)


def _to_channel(values: Tensor) -> Tensor:
    return values.sum(channels(values.dim(), 2))


def _batch_norm(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    mean, variance = v["running_mean"], v["running_var"]
    if (
        layout.dim != 0
        or v.get("training", False)
        or mean is None
        or bound.layouts.keys() != {"input"}
    ):
        return None
    eps = v["eps"]

    def scale(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        x = saved[0]
        centre = mean.view(-1, *(1,) * (x.dim() - 3))
        total: Tensor = _to_channel(delta * (x - centre)) * (variance + eps).rsqrt()
        return total

    def shift(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        del saved
        return _to_channel(delta)

    saved = ("input",) if "weight" in bound.parameters else ()
    return Ruling({"weight": Direct(scale), "bias": Direct(shift)}, saved, layout)


def _embedding(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    if v["scale_grad_by_freq"]:
        return None
    rows = v["weight"].shape[0]
    padding = -1 if v["padding_idx"] is None else v["padding_idx"] % rows
    return Ruling({"weight": LookUp(rows, padding)}, ("input",), layout)


def _prelu(bound: Bound) -> Ruling | None:
    v, layout = bound.values, bound.layouts["input"]
    if layout.dim != 0:
        return None
    shape = tuple(v["weight"].shape)
    single = v["weight"].numel() == 1

    def slope(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        x = saved[0]
        products = delta * x.clamp(max=0)
        if single:
            total: Tensor = products.flatten(1).sum(1).reshape(-1, *shape)
            return total
        return _to_channel(products)

    return Ruling({"weight": Direct(slope)}, ("input",), layout)


def _elementwise(times: bool) -> Callable[[Bound], Ruling | None]:
    def rule(bound: Bound) -> Ruling | None:
        v = bound.values
        (name,) = bound.parameters if len(bound.parameters) == 1 else (None,)
        if name is None or bound.layouts.keys() != {"input", "other"} - {name}:
            return None
        (x_name,) = bound.layouts
        x, parameter, layout = v[x_name], v[name], bound.layouts[x_name]
        reach = x.dim() - layout.dim  # dimensions from the samples to the end
        crosses = parameter.dim() >= reach and parameter.shape[-reach] != 1
        if parameter.dim() > x.dim() or crosses or v["alpha"] != 1:
            return None
        shape = tuple(parameter.shape)
        if any(q not in (1, p) for p, q in zip(x.shape[::-1], shape[::-1], strict=False)):
            return None  # the parameter broadcasts the input too

        def total(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
            return sum_to(delta * saved[0] if times else delta, shape)

        return Ruling({name: Direct(total)}, (x_name,) if times else (), layout)

    return rule


_ELEMENTWISE = {**dict.fromkeys(_SUM, False), **dict.fromkeys(_TIMES, True)}

_RULES: dict[Any, Callable[[Bound], Ruling | None]] = {
    F.linear: _linear,
    **dict.fromkeys(_PAIR, _matmul),
    F.conv1d: _convolution(1, transposed=False),
    F.conv2d: _convolution(2, transposed=False),
    F.conv3d: _convolution(3, transposed=False),
    F.conv_transpose1d: _convolution(1, transposed=True),
    F.conv_transpose2d: _convolution(2, transposed=True),
    F.conv_transpose3d: _convolution(3, transposed=True),
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.embedding: _embedding,
    F.prelu: _prelu,
    **{func: _elementwise(times) for func, times in _ELEMENTWISE.items()},
}


def repeated(shape: Sequence[int]) -> Direct:
    """Make the gradient of a parameter that is repeated for each sample (expand, repeat)."""
    wanted = tuple(shape)

    def total(saved: Sequence[Tensor], delta: Tensor) -> Tensor:
        del saved
        return sum_to(delta, wanted)

    return Direct(total)
