"""Avalanche's own plugins with what they need to take part: a count of what they keep."""

from collections.abc import Iterator
from typing import Any

from avalanche.training.plugins import (
    EWCPlugin,
    LwFPlugin,
    MASPlugin,
    SynapticIntelligencePlugin,
)
from torch import Tensor, nn


class CountsStored:
    """Mixin for a plugin of Avalanche's: counts, after each experience, the numbers it holds.

    Put it before the plugin; training is not changed. Tensors that share memory count once, and
    those that share it with the model not at all.
    """

    _num_stored = 0

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Let the plugin do its work, then count."""
        super().after_training_exp(strategy, **kwargs)  # type: ignore[misc]
        self._num_stored = count_numbers(self, beside=strategy.model)

    def num_stored(self) -> int:
        """Count the numbers kept beside the model between experiences."""
        return self._num_stored


class EWC(CountsStored, EWCPlugin):  # type: ignore[misc]
    """Avalanche's EWC with a count of what it stores."""


class LwF(CountsStored, LwFPlugin):  # type: ignore[misc]
    """Avalanche's LwF with a count of what it stores."""


class MAS(CountsStored, MASPlugin):  # type: ignore[misc]
    """Avalanche's MAS with a count of what it stores."""


class SI(CountsStored, SynapticIntelligencePlugin):  # type: ignore[misc]
    """Avalanche's SI with a count of what it stores."""

    @property
    def strength(self) -> float:
        """The strength of every experience, which Avalanche keeps in a list of one."""
        return float(self.si_lambda[0])

    @strength.setter
    def strength(self, value: float) -> None:
        self.si_lambda = [value]


def count_numbers(holder: object, *, beside: nn.Module) -> int:
    """Count the numbers in all tensors that an object holds, beside a model's own.

    Args:
        holder: Any object; its attributes, containers and modules are searched.
        beside: The model whose own memory does not count.

    Returns:
        The number of elements. Memory that several tensors share counts once.

    Example:
        >>> import torch
        >>> model, kept = nn.Linear(2, 1), torch.zeros(5)
        >>> count_numbers({"copy": kept, "view": kept[:2], "own": model.bias}, beside=model)
        5
    """
    own = {_place(t) for t in (*beside.parameters(), *beside.buffers())}
    sizes: dict[int, int] = {}
    for tensor in _tensors(holder, set()):
        place = _place(tensor)
        if place not in own:
            sizes[place] = max(sizes.get(place, 0), tensor.numel())
    return sum(sizes.values())


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(holder: Any, visited: set[int]) -> Iterator[Tensor]:
    if id(holder) in visited:
        return
    visited.add(id(holder))
    if isinstance(holder, Tensor):
        if holder.numel():
            yield holder
        return
    if isinstance(holder, nn.Module):
        parts = [*holder.parameters(), *holder.buffers()]
    elif isinstance(holder, dict):
        parts = list(holder.values())
    elif isinstance(holder, list | tuple | set | frozenset):
        parts = list(holder)
    else:
        parts = list(getattr(holder, "__dict__", {}).values())
    for part in parts:
        yield from _tensors(part, visited)
