"""Cutting data into splits and classes into tasks, by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from benchmarks.streams._transforms import Normalize, Permute
from benchmarks.streams._types import Scenario, Split, Task

__all__ = ["Chosen", "class_tasks", "generator", "one_of", "permuted_tasks", "stratified"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples chosen from a set and not copied yet.

    Args:
        x: Inputs of the whole set, of shape (N, ...); may be memory-mapped.
        y: Labels of the whole set, of shape (N,).
        index: Which samples, in which order, of shape (M,).
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def split(self) -> Split:
        """Copy the chosen samples."""
        return Split(self.x[self.index], self.y[self.index])


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Make a random generator for one purpose, independent of those for other purposes.

    Args:
        seed: Any integer.
        *purpose: Words or numbers that say what is drawn.

    Returns:
        A CPU generator; equal arguments give equal draws on every machine.

    Example:
        >>> torch.randperm(3, generator=generator(0, "order")).shape
        torch.Size([3])
    """
    key = crc32(repr((int(seed), *map(str, purpose))).encode())
    return torch.Generator().manual_seed(key)


def stratified(y: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut a set in two so that every class gives the same share to the second part.

    Args:
        y: Labels of shape (N,).
        share: Share of each class, in [0, 1), that goes to the second part; rounded to whole
            samples, at least one where the class has two or more and the share is not 0.
        rng: Decides which samples go.

    Returns:
        Sorted indices of the first and of the second part.

    Raises:
        ValueError: If `share` is outside [0, 1).

    Example:
        >>> first, second = stratified(torch.tensor([0, 0, 1, 1]), 0.5, generator(0))
        >>> len(first), len(second)
        (2, 2)
    """
    if not 0 <= share < 1:
        raise ValueError(f"Expected `share` to lie in [0, 1), got {share}.")
    first, second = [], []
    for label in sorted(set(y.tolist())):
        members = (y == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=rng)]
        cut = round(share * len(members))
        if share > 0 and len(members) > 1:
            cut = min(max(cut, 1), len(members) - 1)
        second.append(members[:cut])
        first.append(members[cut:])
    return _joined(first), _joined(second)


def permuted_tasks(
    parts: tuple[Split, Split, Split], count: int, seed: int, normalize: Normalize
) -> tuple[Task, ...]:
    """Make tasks that show the same 10 classes of images in pixel orders of their own.

    The samples are shared, not copied. The first task leaves the pixels where they are, and a
    longer sequence begins with the tasks of a shorter one.

    Args:
        parts: Training, validation and test images, each of shape (N, channels, height, width).
        count: Number of tasks.
        seed: Decides the orders.
        normalize: Applied before the pixels are reordered.

    Returns:
        The tasks.

    Raises:
        ValueError: If `count` is less than 1.
    """
    if count < 1:
        raise ValueError(f"Expected `tasks` to be at least 1, got {count}.")
    train, validation, test = parts
    pixels = train.x[0, 0].numel()
    orders = [torch.arange(pixels)] + [
        torch.randperm(pixels, generator=generator(seed, "pixels", t)) for t in range(1, count)
    ]
    return tuple(
        Task(f"permutation {t}", 10, train, validation, test, Permute(order, normalize))
        for t, order in enumerate(orders)
    )


def class_tasks(
    parts: tuple[Chosen, Chosen, Chosen],
    groups: Sequence[Sequence[int]],
    *,
    class_names: Sequence[str],
    scenario: Scenario,
    transform: Callable[[Tensor], Tensor],
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    first: int = 0,
) -> tuple[Task, ...]:
    """Make one task of every group of classes. Each sample is copied once.

    Args:
        parts: Training, validation and test samples of the whole set.
        groups: The classes of each task, in the order in which they are numbered.
        class_names: Name of every class of the set.
        scenario: In "task" labels start at 0 in every task, in "class" they count on.
        transform: See :class:`Task`.
        augment: See :class:`Task`.
        first: Where labels that count on begin: the number of classes in tasks before these.

    Returns:
        The tasks, in the order of `groups`.

    Raises:
        ValueError: If a group is empty, or a class is in two groups.
    """
    listed = [label for group in groups for label in group]
    if len(set(listed)) != len(listed) or not all(map(len, groups)):
        raise ValueError(f"Expected every class in one group and no empty group, got {groups}.")
    tasks, seen = [], first
    for group in groups:
        start = seen if scenario == "class" else 0
        numbers = {label: start + i for i, label in enumerate(group)}
        train, validation, test = (_restrict(part, numbers) for part in parts)
        seen += len(group)
        tasks.append(
            Task(
                name=_group_name([class_names[label] for label in group]),
                num_classes=seen if scenario == "class" else len(group),
                train=train,
                validation=validation,
                test=test,
                transform=transform,
                augment=augment,
            )
        )
    return tuple(tasks)


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not allowed.

    Args:
        name: Of the option.
        value: As given.
        allowed: What may be given.

    Raises:
        ValueError: If `value` is not allowed.
    """
    if value not in allowed:
        raise ValueError(f"Expected `{name}` to be one of {list(allowed)}, got {value!r}.")


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values if parts else torch.empty(0, dtype=torch.int64)


def _restrict(part: Chosen, numbers: dict[int, int]) -> Split:
    lookup = torch.full((max(int(part.y.max()), *numbers) + 1,), -1, dtype=torch.int64)
    lookup[list(numbers)] = torch.tensor(list(numbers.values()))
    y = lookup[part.y[part.index]]
    kept = (y >= 0).nonzero().flatten()
    return Split(part.x[part.index[kept]], y[kept])


def _group_name(words: list[str]) -> str:
    return "-".join(words) if len(words) <= 3 else f"{words[0]}..{words[-1]}"
