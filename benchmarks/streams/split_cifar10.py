"""Split CIFAR-10: 5 tasks of 2 classes.

Which classes share a task, and in which order tasks come, is drawn by seed or fixed. The test
images are the set's own; the validation images are cut from its training part by seed.

References:
    Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.streams._datasets import cifar_tasks, class_groups
from benchmarks.streams._transforms import Normalize
from benchmarks.streams._types import Scenario, Stream

__all__ = ["build"]


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    tasks: int = 5,
    scenario: Scenario = "task",
    class_order: str | Sequence[int] = "seed",
    validation: float = 0.1,
    augment: bool = True,
    train_per_class: int | None = None,
) -> Stream:
    """Build split CIFAR-10.

    Args:
        seed: Decides the class order and the validation cut.
        data_root: Folder of the datasets, searched first.
        tasks: Number of tasks; it divides 10.
        scenario: "task" (a head a task) or "class" (one growing head).
        class_order: "seed", "fixed" (0 to 9) or the order itself.
        validation: Share of the training images that is held out, in [0, 1).
        augment: Whether to train on random crops (4 zeros at each edge) and mirror images.
        train_per_class: Most training images a class; None for all.

    Returns:
        Images of shape (3, 32, 32).
    """
    return Stream(
        name="split_cifar10",
        scenario=scenario,
        tasks=cifar_tasks(
            "cifar10",
            class_groups(10, tasks, class_order, seed),
            seed,
            data_root,
            normalize=Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
            scenario=scenario,
            validation=validation,
            augment=augment,
            train_per_class=train_per_class,
        ),
        input_shape=(3, 32, 32),
        description=f"CIFAR-10, {tasks} tasks of {10 // tasks} classes.",
    )
