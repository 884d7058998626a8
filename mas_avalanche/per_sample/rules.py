r"""Sums of per-sample gradient magnitudes for single operations.

For a linear map of one vector a sample the gradient of sample n is the outer product
:math:`\delta_n a_n^\top`, so :math:`\sum_n |\delta_n a_n^\top|^p = (|\Delta|^p)^\top |A|^p`:
one matrix product. Where a weight is used at several positions (a convolution) the positions of
a sample are summed before the magnitude is taken, in chunks of samples that bound the memory.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

__all__ = ["magnitude", "sum_bias", "sum_conv2d_weight", "sum_linear_weight"]


def magnitude(gradient: Tensor, power: int) -> Tensor:
    """Take the absolute value (power 1) or the square (power 2) of per-sample gradients."""
    return gradient.abs() if power == 1 else gradient.square()


def sum_linear_weight(x: Tensor, delta: Tensor, power: int, budget: int) -> Tensor:
    """Sum over samples for the weight of a linear layer.

    Args:
        x: Inputs of shape (N, ..., in).
        delta: Gradients of the outputs, of shape (N, ..., out).
        power: 1 or 2.
        budget: Numbers that a temporary may hold.

    Returns:
        The sum of shape (out, in).
    """
    if x.dim() == 2:
        return magnitude(delta, power).t() @ magnitude(x, power)
    x, delta = x.flatten(1, -2), delta.flatten(1, -2)
    total = x.new_zeros(delta.shape[-1], x.shape[-1])
    step = max(1, budget // total.numel())
    for a, d in zip(torch.split(x, step), torch.split(delta, step), strict=True):
        total += magnitude(torch.bmm(d.transpose(1, 2), a), power).sum(0)
    return total


def sum_bias(delta: Tensor, channel: int, power: int) -> Tensor:
    """Sum over samples for a bias that is added along dimension ``channel`` of the output."""
    rest = [i for i in range(1, delta.dim()) if i != channel % delta.dim()]
    per_sample = delta.sum(rest) if rest else delta
    return magnitude(per_sample, power).sum(0)


def sum_conv2d_weight(
    x: Tensor, delta: Tensor, shape: torch.Size, power: int, budget: int, options: dict[str, Any]
) -> Tensor:
    """Sum over samples for the kernel of a two-dimensional convolution.

    Args:
        x: Inputs of shape (N, in, height, width).
        delta: Gradients of the outputs, of shape (N, out, ...).
        shape: Shape of the kernel.
        power: 1 or 2.
        budget: Numbers that a temporary may hold.
        options: ``stride``, ``padding``, ``dilation`` and ``groups`` of the convolution.

    Returns:
        The sum, of the kernel's shape.
    """
    total = x.new_zeros(shape)
    step = max(1, budget // total.numel())
    groups = options["groups"]
    for a, d in zip(torch.split(x, step), torch.split(delta, step), strict=True):
        n = len(a)
        # The samples become groups of one convolution, which keeps their kernels apart.
        kernels = conv2d_weight(  # type: ignore[no-untyped-call]
            a.reshape(1, -1, *a.shape[2:]),
            torch.Size((n * shape[0], *shape[1:])),
            d.reshape(1, -1, *d.shape[2:]),
            stride=options["stride"],
            padding=options["padding"],
            dilation=options["dilation"],
            groups=n * groups,
        )
        total += magnitude(kernels.view(n, *shape), power).sum(0)
    return total
