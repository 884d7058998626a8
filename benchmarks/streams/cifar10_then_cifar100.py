"""CIFAR-10 as the first task, then tasks of ten classes of CIFAR-100.

The stream of Zenke et al. (2017): all of CIFAR-10, followed by five tasks of ten classes of
CIFAR-100; with a head a task, or with one head that grows. Which classes of CIFAR-100 are taken is
drawn by seed or fixed. The test images are the sets' own; the validation images are cut from the
training parts by seed.

References:
    Zenke et al. (2017), Continual learning through synaptic intelligence, ICML.
    Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import data
from benchmarks.streams._types import Scenario, Stream

__all__ = ["build"]


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    tasks: int = 6,
    scenario: Scenario = "task",
    class_order: str | Sequence[int] = "seed",
    validation: float = 0.1,
    augment: bool = False,
    train_per_class: int | None = None,
) -> Stream:
    """Build the stream.

    Args:
        seed: Decides the classes of CIFAR-100 and the validation cut.
        data_root: Folder of the datasets, searched first.
        tasks: Number of tasks, CIFAR-10 included: 2 to 11.
        scenario: "task" (a head a task) or "class" (one growing head).
        class_order: Of CIFAR-100: "seed", "fixed" (0 to 99) or the order itself.
        validation: Share of the training images that is held out, in [0, 1).
        augment: Whether to train on random crops (4 zeros at each edge) and mirror images.
        train_per_class: Most training images a class; None for all.

    Returns:
        Images of shape (3, 32, 32); every task brings 10 classes.

    Raises:
        ValueError: If an option is outside its range.
    """
    from benchmarks.streams._datasets import cifar_tasks, class_groups
    from benchmarks.streams._transforms import Normalize

    if not 2 <= tasks <= 11:
        raise ValueError(f"Expected `tasks` to lie in 2..11, got {tasks}.")
    data.require(("cifar10", "cifar100"), data_root)
    sets = (
        ("cifar10", [list(range(10))], 0),
        ("cifar100", class_groups(100, 10, class_order, seed)[: tasks - 1], 10),
    )
    made = [
        replace(task, name=f"{name} {task.name}")
        for name, groups, first in sets
        for task in cifar_tasks(
            name,
            groups,
            seed,
            data_root,
            normalize=Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
            scenario=scenario,
            validation=validation,
            augment=augment,
            train_per_class=train_per_class,
            first=first,
        )
    ]
    return Stream(
        name="cifar10_then_cifar100",
        scenario=scenario,
        tasks=tuple(made),
        input_shape=(3, 32, 32),
        description=f"CIFAR-10, then {tasks - 1} tasks of 10 classes of CIFAR-100.",
    )
