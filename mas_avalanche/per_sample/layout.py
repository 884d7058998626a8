"""Where the samples of a mini-batch are in a tensor, established by running two mini-batches.

The same model is run on samples (a, b, c) and on (b, a). A dimension whose size goes from 3k to 2k
counts samples, k entries each; that the entries of b and a have changed places shows in which order
the samples and their k entries are folded into it. Nothing is inferred from a size that happens to
equal the batch size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FIRST", "SECOND", "Layout", "agree", "find_layout", "tolerance"]

FIRST = 3
SECOND = 2


@dataclass(frozen=True)
class Layout:
    """The dimension that counts samples.

    Args:
        dim: Position of the dimension.
        entries: Entries a sample (k above).
        sample_first: Whether the entries of one sample follow each other, or those of one entry.
    """

    dim: int
    entries: int = 1
    sample_first: bool = True

    def samples(self, tensor: Tensor) -> Tensor:
        """Move the samples to the front; dimension ``dim`` + 1 then counts a sample's entries.

        Args:
            tensor: Tensor with this layout.

        Returns:
            A view where possible.
        """
        if self.dim == 0 and self.entries == 1:
            return tensor.unsqueeze(1)
        if self.sample_first:
            moved = tensor.unflatten(self.dim, (-1, self.entries)).movedim(self.dim, 0)
        else:
            moved = tensor.unflatten(self.dim, (self.entries, -1)).movedim(self.dim + 1, 0)
        result: Tensor = moved
        return result


def find_layout(first: Tensor, second: Tensor) -> Layout | None:
    """Find how samples are laid out from a tensor met with (a, b, c) and then with (b, a).

    Args:
        first: The tensor as it was for the first mini-batch.
        second: The same for the second.

    Returns:
        The layout, or None where it cannot be established.
    """
    if first.dim() != second.dim():
        return None
    changed = [d for d in range(first.dim()) if first.shape[d] != second.shape[d]]
    if len(changed) != 1:
        return None
    dim = changed[0]
    entries, rest = divmod(first.shape[dim], FIRST)
    if rest or entries == 0 or second.shape[dim] != entries * SECOND:
        return None
    orders = (True,) if entries == 1 else (True, False)
    fitting = [
        Layout(dim, entries, o) for o in orders if _fits(Layout(dim, entries, o), first, second)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _fits(layout: Layout, first: Tensor, second: Tensor) -> bool:
    return agree(layout.samples(first)[[1, 0]], layout.samples(second))


def agree(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors are equal up to the rounding of different batch sizes."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if not first.is_floating_point() and not first.is_complex():
        return torch.equal(first, second)
    if first.numel() == 0:
        return True
    finite = torch.isfinite(first)
    if not torch.equal(finite, torch.isfinite(second)):
        return False
    zero = torch.zeros((), dtype=first.dtype, device=first.device)
    first, second = torch.where(finite, first, zero), torch.where(finite, second, zero)
    scale = torch.maximum(first.abs().max(), second.abs().max())
    return bool((first - second).abs().max() <= tolerance(first) * scale)


def tolerance(tensor: Tensor) -> float:
    """Give the relative difference that rounding may cause: the root of the type's precision."""
    eps: Any = torch.finfo(tensor.dtype).eps
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        eps = max(eps, torch.finfo(torch.get_autocast_dtype(kind)).eps)
    elif kind == "cuda" and tensor.dtype == torch.float32:
        eps = max(eps, torch.finfo(torch.float16).eps)  # TensorFloat-32 keeps as many bits
    return math.sqrt(eps)
