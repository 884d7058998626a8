"""What a stream is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Scenario", "Split", "Stream", "Task"]

Scenario = Literal["task", "domain", "class"]


@dataclass(frozen=True, eq=False)
class Split:
    """Samples as stored: not normalised, not permuted, possibly memory-mapped.

    Args:
        x: Inputs of shape (N, ...), uint8 or float32.
        y: Labels of shape (N,), int64.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        import torch

        if len(self.x) != len(self.y):
            raise ValueError(
                f"Expected `y` to have one label a sample, got {len(self.y)} labels for "
                f"{len(self.x)} samples."
            )
        if self.y.dtype != torch.int64:
            raise ValueError(f"Expected `y` to be int64, got {self.y.dtype}.")

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream.

    Args:
        name: Unique within the stream.
        num_classes: Every label is below it. In class-incremental streams labels count on over
            the tasks, and this counts all classes up to and including this task.
        train: Training samples.
        validation: Cut from the training data of the set, never from its test data.
        test: The same samples for every seed.
        transform: Mini-batch as stored to float32 model input, on the mini-batch's device.
        augment: Random change of a mini-batch as stored, applied in training before
            ``transform`` with the generator given (a CPU generator); None where the task has none.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split
    test: Split
    transform: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __post_init__(self) -> None:
        for split in (self.train, self.validation, self.test):
            if len(split) and not 0 <= int(split.y.min()) <= int(split.y.max()) < self.num_classes:
                raise ValueError(
                    f"Expected the labels of task {self.name!r} to lie in 0..{self.num_classes - 1}"
                    f", got {int(split.y.min())}..{int(split.y.max())}."
                )


@dataclass(frozen=True, eq=False)
class Stream:
    """A sequence of tasks.

    Args:
        name: The name it is built by.
        scenario: "task" (the task is known at test time, one head a task), "domain" (the same
            classes in every task, one head) or "class" (new classes, one growing head).
        tasks: In the order in which they are learned.
        input_shape: Shape of one model input.
        description: One sentence for reports.
        stand_in_for: The stream in whose place this one stands, or None; shown wherever the
            stream is shown.
    """

    name: str
    scenario: Scenario
    tasks: tuple[Task, ...]
    input_shape: tuple[int, ...]
    description: str
    stand_in_for: str | None = None

    def __post_init__(self) -> None:
        if self.scenario not in get_args(Scenario):
            raise ValueError(
                f"Expected `scenario` to be one of {list(get_args(Scenario))}, "
                f"got {self.scenario!r}."
            )
        task_names = [task.name for task in self.tasks]
        if not task_names or len(set(task_names)) != len(task_names):
            raise ValueError(
                f"Expected `tasks` to hold at least one task, each with a name of its own, "
                f"got {task_names}."
            )
