"""Streams made of datasets that lie on the machine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import data
from benchmarks.streams._splits import (
    class_tasks,
    generator,
    one_of,
    permuted_tasks,
    stratified,
)
from benchmarks.streams._transforms import CentreCrop, Normalize, RandomCrop
from benchmarks.streams._types import Scenario, Split, Stream, Task

__all__ = [
    "at_most_per_class",
    "cifar_tasks",
    "class_groups",
    "permuted_stream",
    "split_in_three",
]


def split_in_three(
    name: str,
    seed: int,
    data_root: Path | None,
    validation: float,
    train_per_class: int | None,
) -> tuple[tuple[Split, Split, Split], tuple[str, ...]]:
    """Load a dataset and cut a validation part from its training part.

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
    parts = (Split(x[first], y[first]), Split(x[second], y[second]), Split(*loaded.test))
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


def permuted_stream(
    name: str,
    dataset: str,
    normalize: Normalize,
    seed: int,
    data_root: Path | None,
    *,
    tasks: int,
    scenario: Scenario,
    validation: float,
    padding: int,
    train_per_class: int | None,
    title: str,
) -> Stream:
    """Make a stream of pixel permutations of a set of 28x28 images.

    Args:
        name: Name of the stream.
        dataset: Name of the set.
        normalize: Applied before the pixels are reordered.
        seed: Decides the permutations and the validation cut.
        data_root: Searched first.
        tasks: Number of tasks.
        scenario: "domain" or "task".
        validation: Share of the training images that is held out.
        padding: Zeros added at each edge before the pixels are permuted.
        train_per_class: Most training images a class; None for all.
        title: Name of the set in the description.

    Returns:
        The stream.

    Raises:
        ValueError: If an option is outside its range.
    """
    one_of("scenario", scenario, ("domain", "task"))
    if not 0 <= padding <= 64:
        raise ValueError(f"Expected `padding` to lie in 0..64, got {padding}.")
    parts, _ = split_in_three(dataset, seed, data_root, validation, train_per_class)
    if padding:
        pad = (padding,) * 4
        first, second, third = (
            Split(torch.nn.functional.pad(part.x, pad), part.y) for part in parts
        )
        parts = (first, second, third)
    side = 28 + 2 * padding
    return Stream(
        name=name,
        scenario=scenario,
        tasks=permuted_tasks(parts, tasks, seed, normalize),
        input_shape=(1, side, side),
        description=f"{tasks} fixed pixel permutations of {title}.",
    )


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
    )
