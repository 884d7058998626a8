"""Split Fashion-MNIST: 70,000 images of clothes, two classes a task.

Which classes share a task, and in which order tasks come, is drawn by seed or fixed. The test
images are the set's own; the validation images are cut from its training part by seed.

References:
    Xiao et al. (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms, arXiv:1708.07747.
"""

from collections.abc import Sequence
from pathlib import Path

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
    train_per_class: int | None = None,
) -> Stream:
    """Build split Fashion-MNIST.

    Args:
        seed: Decides the class order and the validation cut.
        data_root: Folder of the datasets, searched first.
        tasks: Number of tasks; it divides 10.
        scenario: "task" (a head a task) or "class" (one growing head).
        class_order: "seed", "fixed" (0 to 9) or the order itself.
        validation: Share of the training images that is held out, in [0, 1).
        train_per_class: Most training images a class; None for all.

    Returns:
        Images of shape (1, 28, 28).
    """
    from benchmarks.streams._datasets import class_groups, split_in_three
    from benchmarks.streams._splits import class_tasks, one_of
    from benchmarks.streams._transforms import Normalize

    one_of("scenario", scenario, ("task", "class"))
    groups = class_groups(10, tasks, class_order, seed)
    parts, names = split_in_three("fashion_mnist", seed, data_root, validation, train_per_class)
    return Stream(
        name="split_fashion_mnist",
        scenario=scenario,
        tasks=class_tasks(
            parts,
            groups,
            class_names=names,
            scenario=scenario,
            transform=Normalize((0.2860,), (0.3530,)),
        ),
        input_shape=(1, 28, 28),
        description=f"Fashion-MNIST, {tasks} tasks of {10 // tasks} classes.",
    )
