"""Builders that several streams share, for sets that lie on the machine."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.streams._types import Scenario, Stream

__all__ = ["permuted_builder", "split_cifar_builder"]


def permuted_builder(
    name: str, dataset: str, title: str, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., Stream]:
    """Make the builder of a stream of pixel permutations of a set of 28x28 images in 10 classes.

    Args:
        name: Name of the stream.
        dataset: Name of the set.
        title: Name of the set in the description.
        mean: Of the pixels, one number a channel; they are normalised before they are reordered.
        std: Their deviation, one number a channel.

    Returns:
        The function ``build`` of a stream's module.
    """

    def build(
        seed: int,
        *,
        data_root: Path | None = None,
        tasks: int = 10,
        scenario: Scenario = "domain",
        validation: float = 0.1,
        padding: int = 0,
        train_per_class: int | None = None,
    ) -> Stream:
        """Build the stream.

        Args:
            seed: Decides the permutations and the validation cut.
            data_root: Folder of the datasets, searched first.
            tasks: Number of tasks.
            scenario: "domain" (one head) or "task" (a head a task).
            validation: Share of the training images that is held out, in [0, 1).
            padding: Zeros added at each edge before the pixels are permuted.
            train_per_class: Most training images a class; None for all.

        Returns:
            Images of shape (1, 28 + 2 padding, 28 + 2 padding).

        Raises:
            ValueError: If an option is outside its range.
        """
        from benchmarks.streams._datasets import padded, split_in_three
        from benchmarks.streams._splits import one_of, permuted_tasks
        from benchmarks.streams._transforms import Normalize

        one_of("scenario", scenario, ("domain", "task"))
        if not 0 <= padding <= 64:
            raise ValueError(f"Expected `padding` to lie in 0..64, got {padding}.")
        chosen, _ = split_in_three(dataset, seed, data_root, validation, train_per_class)
        train, validated, test = (padded(part.split(), padding) for part in chosen)
        side = 28 + 2 * padding
        return Stream(
            name=name,
            scenario=scenario,
            tasks=permuted_tasks((train, validated, test), tasks, seed, Normalize(mean, std)),
            input_shape=(1, side, side),
            description=f"{tasks} fixed pixel permutations of {title}.",
        )

    return build


def split_cifar_builder(
    dataset: str,
    title: str,
    num_classes: int,
    num_tasks: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Callable[..., Stream]:
    """Make the builder of a stream of tasks of the classes of CIFAR-10 or CIFAR-100.

    Args:
        dataset: "cifar10" or "cifar100".
        title: Name of the set in the description.
        num_classes: Number of its classes.
        num_tasks: Number of tasks where the user gives none.
        mean: Of the pixels, one number a channel; they are normalised last.
        std: Their deviation, one number a channel.

    Returns:
        The function ``build`` of a stream's module.
    """

    def build(
        seed: int,
        *,
        data_root: Path | None = None,
        tasks: int = num_tasks,
        scenario: Scenario = "task",
        class_order: str | Sequence[int] = "seed",
        validation: float = 0.1,
        augment: bool = True,
        train_per_class: int | None = None,
    ) -> Stream:
        """Build the stream.

        Args:
            seed: Decides the class order and the validation cut.
            data_root: Folder of the datasets, searched first.
            tasks: Number of tasks; it divides the number of classes.
            scenario: "task" (a head a task) or "class" (one growing head).
            class_order: "seed", "fixed" (0, 1, 2, ...) or the order itself.
            validation: Share of the training images that is held out, in [0, 1).
            augment: Whether to train on random crops (4 zeros at each edge) and mirror images.
            train_per_class: Most training images a class; None for all.

        Returns:
            Images of shape (3, 32, 32).

        Raises:
            ValueError: If an option is outside its range.
        """
        from benchmarks.streams._datasets import cifar_tasks, class_groups
        from benchmarks.streams._transforms import Normalize

        groups = class_groups(num_classes, tasks, class_order, seed)
        return Stream(
            name=f"split_{dataset}",
            scenario=scenario,
            tasks=cifar_tasks(
                dataset,
                groups,
                seed,
                data_root,
                normalize=Normalize(mean, std),
                scenario=scenario,
                validation=validation,
                augment=augment,
                train_per_class=train_per_class,
            ),
            input_shape=(3, 32, 32),
            description=f"{title}, {tasks} tasks of {num_classes // tasks} classes.",
        )

    return build
