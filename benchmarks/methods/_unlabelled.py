"""Inputs without labels that a method may measure importance on in place of the training data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from benchmarks.streams import Task

if TYPE_CHECKING:
    from mas_avalanche.tensor_batches import BatchDataset

__all__ = ["Source", "Unlabelled", "inputs_from"]

Source = Literal["train", "test", "both", "subset"]
"""What importance is measured on: a task's training inputs, its test inputs, both, or the training
inputs of those classes of the first task that stay in use."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The inputs of one task; a run gives them to each experience as ``experience.unlabelled``.

    Args:
        task: The task.
        measured: The split that the run is measured on. It is what "test" means, so that a run that
            serves the choice of a strength does not see test inputs either.
        subset: Classes that stay in use; empty where all do.
    """

    task: Task
    measured: str
    subset: tuple[int, ...] = ()

    def inputs(self, source: Source) -> BatchDataset:
        """Collect inputs, transformed and never augmented; every label is 0.

        Args:
            source: Where from.

        Raises:
            ValueError: If the task has none of the classes that stay in use.
        """
        import torch

        from mas_avalanche.tensor_batches import BatchDataset

        x, test = self.task.train.x, getattr(self.task, self.measured).x
        if source == "test":
            x = test
        elif source == "both":
            x = torch.cat([x, test])
        elif source == "subset" and self.subset:
            x = x[torch.isin(self.task.train.y, torch.tensor(self.subset))]
            if not len(x):
                raise ValueError(
                    f"Expected `subset` to name classes of task {self.task.name!r}, got "
                    f"{list(self.subset)}: no training sample has one of them."
                )
        return BatchDataset(x, torch.zeros(len(x), dtype=torch.int64), self.task.transform)


def inputs_from(source: Source) -> Callable[[Any], BatchDataset] | None:
    """Make what :class:`mas_avalanche.MASPlugin` takes as ``importance_data``.

    Args:
        source: See :data:`Source`.

    Returns:
        None for "train", which is what the plugin does anyway.

    Raises:
        ValueError: If the source is unknown.
    """
    if source not in get_args(Source):
        raise ValueError(
            f"Expected `importance_data` to be one of {list(get_args(Source))}, got {source!r}."
        )
    return None if source == "train" else _Inputs(source)


@dataclass(frozen=True)
class _Inputs:
    """A function that can be pickled: from an experience to inputs."""

    source: Source

    def __call__(self, experience: Any) -> BatchDataset:
        found: Unlabelled = experience.unlabelled
        return found.inputs(self.source)
