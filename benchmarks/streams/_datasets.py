"""Streams made of datasets that lie on the machine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import data
from benchmarks.streams._splits import (
    Chosen,
    class_tasks,
    generator,
    one_of,
    stratified,
)
from benchmarks.streams._transforms import CentreCrop, Normalize, RandomCrop
from benchmarks.streams._types import Scenario, Split, Task

__all__ = [
    "at_most_per_class",
    "cifar_tasks",
    "class_groups",
    "padded",
    "split_in_three",
]


def split_in_three(
    name: str,
    seed: int,
    data_root: Path | None,
    validation: float,
    train_per_class: int | None,
) -> tuple[tuple[Chosen, Chosen, Chosen], tuple[str, ...]]:
    """Load a dataset and choose a validation part of its training part.

    Args:
        name: A dataset of whole arrays in the catalogue.
        seed: Decides the cut.
        data_root: Searched first.
        validation: Share of every class that is held out, in [0, 1).
        train_per_class: Most training images a class; None for all.

    Returns:
        Training, validation and test part, and the names of the classes.
    """
    loaded = data.load(name, data_root)
    x, y = loaded.train
    first, second = stratified(y, validation, generator(seed, "validation"))
    first = first[at_most_per_class(y[first], train_per_class)]
    every = torch.arange(len(loaded.test[1]))
    parts = (Chosen(x, y, first), Chosen(x, y, second), Chosen(*loaded.test, every))
    return parts, loaded.class_names


def at_most_per_class(y: Tensor, count: int | None) -> Tensor:
    """Choose the first samples of every class.

    Args:
        y: Labels of shape (N,).
        count: Most samples a class; None for all.

    Returns:
        Sorted indices.

    Raises:
        ValueError: If `count` is less than 1.
    """
    if count is None:
        return torch.arange(len(y))
    if count < 1:
        raise ValueError(f"Expected at least 1 sample a class, got {count}.")
    chosen = [(y == label).nonzero().flatten()[:count] for label in sorted(set(y.tolist()))]
    return torch.cat(chosen).sort().values


def class_groups(
    num_classes: int, tasks: int, order: str | Sequence[int], seed: int
) -> list[list[int]]:
    """Deal classes out to tasks, the same number to each.

    Args:
        num_classes: Number of classes of the set.
        tasks: Number of tasks; it divides the number of classes.
        order: "seed" (drawn), "fixed" (0, 1, 2, ...) or the order itself.
        seed: Decides the order where it is drawn.

    Returns:
        The classes of each task.

    Raises:
        ValueError: If the tasks would not be alike, or the order is not one.
    """
    if tasks < 1 or num_classes % tasks:
        raise ValueError(f"Expected `tasks` to divide {num_classes} classes, got {tasks}.")
    if order == "seed":
        labels = torch.randperm(num_classes, generator=generator(seed, "classes")).tolist()
    elif order == "fixed":
        labels = list(range(num_classes))
    elif isinstance(order, str) or sorted(order) != list(range(num_classes)):
        raise ValueError(
            f'Expected `class_order` to be "seed", "fixed" or every class of 0..{num_classes - 1} '
            f"once, got {order!r}."
        )
    else:
        labels = list(order)
    size = num_classes // tasks
    return [labels[i : i + size] for i in range(0, num_classes, size)]


def padded(part: Split, padding: int) -> Split:
    """Put zeros around every image.

    Args:
        part: Images of shape (N, channels, height, width).
        padding: Zeros added at each edge.

    Returns:
        The samples, as they were where there is nothing to add.
    """
    if not padding:
        return part
    return Split(torch.nn.functional.pad(part.x, (padding,) * 4), part.y)


def cifar_tasks(
    dataset: str,
    groups: Sequence[Sequence[int]],
    seed: int,
    data_root: Path | None,
    *,
    normalize: Normalize,
    scenario: Scenario,
    validation: float,
    augment: bool,
    train_per_class: int | None,
    first: int = 0,
) -> tuple[Task, ...]:
    """Make tasks of classes of CIFAR-10 or CIFAR-100.

    Args:
        dataset: "cifar10" or "cifar100".
        groups: The classes of each task.
        seed: Decides the validation cut.
        data_root: Searched first.
        normalize: Applied last.
        scenario: "task" or "class".
        validation: Share of the training images that is held out.
        augment: Whether to train on random crops (4 zeros at each edge) and mirror images.
        train_per_class: Most training images a class; None for all.
        first: Where labels begin in "class": the number of classes in tasks before these.

    Returns:
        The tasks.

    Raises:
        ValueError: If an option is outside its range.
    """
    one_of("scenario", scenario, ("task", "class"))
    parts, names = split_in_three(dataset, seed, data_root, validation, train_per_class)
    return class_tasks(
        parts,
        groups,
        class_names=names,
        scenario=scenario,
        transform=CentreCrop(32, 32, normalize),
        augment=RandomCrop(32, pad=4) if augment else None,
        first=first,
    )
