r"""Per-sample gradients of one operation, from its inputs and the gradients of its outputs.

Each class answers two questions about one parameter of one operation: the sum over samples of
:math:`|g_n|^p`, added to an accumulator in place, and the gradients :math:`g_n` of a few samples.
The second serves parameters that are used several times, whose gradients must be added before the
magnitude is taken.

For a linear map of one vector a sample the gradient of sample n is the outer product
:math:`\delta_n a_n^\top`, so :math:`\sum_n |\delta_n a_n^\top|^p = (|\Delta|^p)^\top |A|^p`: one
matrix product, and no gradient is formed. Where a weight is applied at several positions of a
sample (sequences, convolutions) the gradient is a sum over positions, and is formed for a few
samples at a time, so that the temporary stays small.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from mas_avalanche.per_sample import kernel

__all__ = [
    "Convolution",
    "Direct",
    "Gradient",
    "LookUp",
    "Product",
    "Replay",
    "Settings",
    "add_magnitudes",
    "is_outer",
]


@dataclass(frozen=True)
class Settings:
    """How magnitudes are taken.

    Args:
        power: 1 for absolute values, 2 for squares.
        budget: Bytes that temporaries may take.
    """

    power: int
    budget: int

    def numbers(self, like: Tensor) -> int:
        """Say how many numbers temporaries may hold."""
        return self.budget // max(like.element_size(), 4)

    def samples(self, numel: int, like: Tensor) -> int:
        """Say how many samples may be worked on at a time when each takes ``numel`` numbers."""
        return max(1, self.numbers(like) // max(1, numel))


class Gradient(ABC):
    """The gradient of one operation with respect to one of its parameters."""

    @abstractmethod
    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given.

        Args:
            saved: Inputs of the operation, the samples first.
            deltas: Gradients of its outputs, the samples first; None where there is none.

        Returns:
            Gradients of shape (N, *shape of the parameter).
        """

    def add(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Add the sum over samples of the gradients' magnitudes to ``total``, in place."""
        count = next(d.shape[0] for d in deltas if d is not None)
        step = settings.samples(2 * self.size(total, saved, deltas, count), total)
        if count <= step:
            add_magnitudes(total, self.gradients(saved, deltas), settings.power)
            return
        for start in range(0, count, step):
            part = slice(start, start + step)
            gradients = self.gradients(
                [s[part] for s in saved], [None if d is None else d[part] for d in deltas]
            )
            add_magnitudes(total, gradients, settings.power)

    def size(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        count: int,
    ) -> int:
        """Count the numbers that :meth:`gradients` holds for each sample."""
        del saved
        inner = sum(d.numel() for d in deltas if d is not None) // max(1, count)
        return total.numel() + inner


def add_magnitudes(total: Tensor, gradients: Tensor, power: int) -> None:
    """Add the magnitudes of per-sample gradients, summed over samples, to ``total`` in place.

    Args:
        total: Accumulator.
        gradients: Gradients of shape (N, *shape of ``total``).
        power: 1 or 2.
    """
    gradients = _like(gradients, total)
    if gradients.shape[0] == 1:
        if power == 1:
            total.add_(gradients[0].abs())
        else:
            total.addcmul_(gradients[0], gradients[0])
    else:
        total.add_(_magnitude(gradients, power).sum(0))


def _single(deltas: Sequence[Tensor | None]) -> Tensor:
    (delta,) = deltas
    if delta is None:
        raise RuntimeError("Expected a gradient of the output, got none.")
    return delta


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.element_size() == 2 else values


def _like(values: Tensor, total: Tensor) -> Tensor:
    return values if values.dtype == total.dtype else values.to(total.dtype)


def _rows(values: Tensor) -> Tensor:
    return values if values.dim() == 3 else values.flatten(1, -2)


def _parts(step: int, x: Tensor, delta: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    if x.shape[0] <= step:
        return [(x, delta)]
    return zip(torch.split(x, step), torch.split(delta, step), strict=True)


def _magnitude(values: Tensor, power: int) -> Tensor:
    return values.abs() if power == 1 else values.square()


@dataclass(frozen=True)
class Product(Gradient):
    """The weight of a linear map, applied at one or more positions of each sample.

    ``saved[0]`` has shape (N, ..., in) and ``deltas[0]`` (N, ..., out).

    Args:
        transposed: Whether the weight has shape (in, out) instead of (out, in).
    """

    transposed: bool = False

    def _operands(
        self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        delta = _single(deltas)
        x, delta = _rows(_widened(saved[0])), _rows(_widened(delta))
        return (delta, x) if self.transposed else (x, delta)

    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given."""
        x, delta = self._operands(saved, deltas)
        return torch.bmm(delta.transpose(1, 2), x)

    def add(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Add the sum over samples of the gradients' magnitudes to ``total``, in place."""
        x, delta = self._operands(saved, deltas)
        x, delta = _like(x, total), _like(delta, total)
        if x.shape[1] == 1:
            x, delta, power = x.squeeze(1), delta.squeeze(1), settings.power
            step = settings.samples(2 * (x.shape[1] + delta.shape[1]), total)
            for a, d in _parts(step, x, delta):
                total.addmm_(_magnitude(d, power).t(), _magnitude(a, power))
        elif kernel.usable(x, total):
            kernel.add_products(total, x, delta, settings)
        else:
            step = max(1, min(settings.samples(2 * total.numel(), total), _CACHED // total.numel()))
            for a, d in _parts(step, x, delta):
                add_magnitudes(total, torch.bmm(d.transpose(1, 2), a), settings.power)


def is_outer(gradient: Gradient, saved: Sequence[Tensor]) -> bool:
    """Say whether each sample's gradient is one outer product, whose magnitude factors."""
    return isinstance(gradient, Product) and saved[0].shape[1:-1].numel() == 1


_CACHED = 2**19  # numbers that stay in a core's cache between the product and its magnitude


@dataclass(frozen=True)
class Convolution(Gradient):
    """The kernel of a convolution in any number of dimensions, transposed or not.

    ``saved[0]`` has shape (N, images of a sample, in, ...) and ``deltas[0]`` likewise with out.

    Args:
        shape: Shape of the kernel.
        stride: One number a dimension; so are ``padding`` and ``dilation``.
        padding: Zeros added before; as many after as the windows reach.
        dilation: Distance between the elements of the kernel.
        groups: Groups of channels that do not mix.
        transposed: Whether the convolution is a transposed one.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False

    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given."""
        x, delta = self._operands(saved, deltas)
        n, images = x.shape[:2]
        groups, (rows, _, *window) = self.groups, self.shape
        patches = self._patches(x.flatten(0, 1), delta.shape[3:])  # (n t, in, window, positions)
        columns = patches.reshape(n, images, groups, -1, math.prod(delta.shape[3:]))
        left = delta.reshape(n, images, groups, rows // groups, -1)
        columns, left = columns.movedim(1, 3), left.movedim(1, 3)
        product = left.flatten(3) @ columns.flatten(3).transpose(-1, -2)
        return product.reshape(n, *self.shape[:2], *window)

    def add(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Add the sum over samples of the gradients' magnitudes to ``total``, in place."""
        x, delta = self._operands(saved, deltas)
        x, delta = _like(x, total), _like(delta, total)
        depthwise = self.shape[1] < 8 and self.groups > 1
        if kernel.usable(x, total) and not depthwise:
            kernel.add_convolutions(total, x, delta, self, settings)
            return
        columns = math.prod(delta.shape[3:]) * math.prod(self.shape[1:]) * self.groups * x.shape[1]
        step = settings.samples(2 * (total.numel() + 2 * columns), total)
        step = max(1, min(step, _CACHED // (total.numel() + columns)))
        operands = (x, delta) if not self.transposed else (delta, x)
        for a, d in _parts(step, *operands):
            add_magnitudes(total, self.gradients([a], [d]), settings.power)

    def _operands(
        self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Order input and output gradient so that the kernel maps the first to the second."""
        delta = _single(deltas)
        x, delta = _widened(saved[0]), _widened(delta)
        # A transposed convolution is the adjoint of a convolution: input and output change roles.
        return (delta, x) if self.transposed else (x, delta)

    def padded(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """Pad images (n, in, ...) as the windows at ``positions`` need them."""
        sides = [side for pair in reversed(self.sides(x.shape[2:], positions)) for side in pair]
        return torch.nn.functional.pad(x, sides) if any(sides) else x

    def sides(self, sizes: Sequence[int], positions: Sequence[int]) -> list[tuple[int, int]]:
        """Say how far windows reach past each side of an image; negative where they stay inside."""
        each = zip(
            sizes,
            positions,
            self.stride,
            self.padding,
            self.dilation,
            self.shape[2:],
            strict=True,
        )
        return [
            (before, (count - 1) * stride + (window - 1) * dilation + 1 - size - before)
            for size, count, stride, before, dilation, window in each
        ]

    def _patches(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """View the windows of padded images: (n, in, *window, *positions)."""
        x = self.padded(x, positions)
        inner = x.stride()[2:]
        shape = (*x.shape[:2], *self.shape[2:], *positions)
        steps = [
            *x.stride()[:2],
            *(s * d for s, d in zip(inner, self.dilation, strict=True)),
            *(s * d for s, d in zip(inner, self.stride, strict=True)),
        ]
        return x.as_strided(shape, steps)


@dataclass(frozen=True)
class Direct(Gradient):
    """A parameter whose per-sample gradients are no larger than the output: biases, scales.

    Args:
        form: Maps inputs and output gradients to gradients of shape (N, *shape).
    """

    form: Callable[[Sequence[Tensor], Tensor], Tensor]

    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given."""
        x, delta = [_widened(s) for s in saved], _widened(_single(deltas))
        return self.form(x, delta)

    def add(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Add the sum over samples of the gradients' magnitudes to ``total``, in place."""
        delta = _single(deltas)
        few = delta.shape[0] * total.numel() + delta.numel() + sum(s.numel() for s in saved)
        if few <= settings.numbers(total) // 2:
            add_magnitudes(total, self.gradients(saved, deltas), settings.power)
        else:
            super().add(total, saved, deltas, settings)

    def size(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        count: int,
    ) -> int:
        """Count the numbers that :meth:`gradients` holds for each sample."""
        return super().size(total, saved, deltas, count) + sum(s.numel() for s in saved) // count


@dataclass(frozen=True)
class LookUp(Gradient):
    """The table of an embedding; ``saved[0]`` holds row numbers (N, ...).

    Args:
        rows: Rows of the table.
        padding_idx: Row that gets no gradient, or -1.
    """

    rows: int
    padding_idx: int

    def _masked(
        self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        delta = _single(deltas)
        index = saved[0].flatten(1)
        delta = delta.reshape(*index.shape, -1)
        if self.padding_idx >= 0:
            delta = delta * (index != self.padding_idx).unsqueeze(-1)
        return index, delta

    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given."""
        index, delta = self._masked(saved, deltas)
        offset = torch.arange(len(index), device=index.device).unsqueeze(1) * self.rows
        dense = delta.new_zeros(len(index) * self.rows, delta.shape[-1])
        dense.index_add_(0, (index + offset).flatten(), delta.flatten(0, 1))
        result: Tensor = dense.unflatten(0, (len(index), self.rows))
        return result

    def add(
        self,
        total: Tensor,
        saved: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        settings: Settings,
    ) -> None:
        """Add the sum over samples of the gradients' magnitudes to ``total``, in place."""
        index, delta = self._masked(saved, deltas)
        # Sorting brings equal rows of a sample together: no dense gradient is formed.
        index, order = index.sort(dim=1, stable=True)
        delta = delta.gather(1, order.unsqueeze(-1).expand_as(delta)).to(total.dtype)
        starts = torch.ones_like(index, dtype=torch.bool)
        starts[:, 1:] = index[:, 1:] != index[:, :-1]
        segment = starts.flatten().cumsum(0) - 1
        sums = torch.zeros_like(delta).flatten(0, 1).index_add_(0, segment, delta.flatten(0, 1))
        place = torch.zeros_like(segment).scatter_(0, segment, index.flatten())
        total.index_add_(0, place, _magnitude(sums, settings.power))


@dataclass(frozen=True)
class Replay(Gradient):
    """Any operation: it is run again for each sample and differentiated by ``torch.func``.

    Args:
        func: The operation.
        spec: Structure of its arguments.
        leaves: The arguments in order, with the parameter's value in its place.
        operand: Position of the parameter among the arguments.
        places: Positions of the arguments that depend on the sample, in the order of ``saved``.
        outputs: Positions of the tapped tensors among the outputs.
    """

    func: Any
    spec: TreeSpec
    leaves: tuple[Any, ...]
    operand: int
    places: tuple[int, ...]
    outputs: tuple[int, ...]

    def gradients(self, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Tensor:
        """Form the gradients of all samples given."""
        wanted = [i for i, d in enumerate(deltas) if d is not None]
        given = [d for d in deltas if d is not None]

        def one(inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
            def run(parameter: Tensor) -> tuple[Tensor, ...]:
                leaves = list(self.leaves)
                for place, tensor in zip(self.places, inputs, strict=True):
                    leaves[place] = tensor
                leaves[self.operand] = parameter
                args, kwargs = tree_unflatten(leaves, self.spec)
                outputs = tree_leaves(self.func(*args, **kwargs))
                return tuple(outputs[self.outputs[i]] for i in wanted)

            pull: Any = vjp(run, self.leaves[self.operand])[1]
            gradient: Tensor = pull(tuple(grads))[0]
            return gradient

        try:
            with quiet_vmap():
                result: Tensor = vmap(one)(list(saved), given)
        except RuntimeError:  # vmap has no rule for the operation
            result = torch.stack(
                [one([s[n] for s in saved], [d[n] for d in given]) for n in range(len(given[0]))]
            )
        return result


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Silence torch's hint that an operation is looped over inside vmap: it is still exact."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def sum_to(gradients: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo broadcasting or repetition: (N, *larger) to (N, *shape), adding what was repeated."""
    while gradients.dim() - 1 > len(shape):
        gradients = gradients.sum(1)
    for dim, size in enumerate(shape, start=1):
        if gradients.shape[dim] != size:
            gradients = gradients.unflatten(dim, (-1, size)).sum(dim)
    return gradients


def channels(dims: int, dim: int) -> list[int]:
    """List the dimensions of a (N, ...) tensor other than the first and ``dim``."""
    return [d for d in range(1, dims) if d != dim % dims]
