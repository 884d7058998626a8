"""Permuted Fashion-MNIST: 70,000 images of clothes, in another order of pixels in every task.

Made as permuted MNIST is, of a harder set. The test images are the set's own; the validation
images are cut from its training part by seed.

References:
    Xiao et al. (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms, arXiv:1708.07747.
"""

from pathlib import Path

from benchmarks.streams._datasets import permuted_stream
from benchmarks.streams._transforms import Normalize
from benchmarks.streams._types import Scenario, Stream

__all__ = ["build"]


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
    """Build permuted Fashion-MNIST.

    Args:
        seed: Decides the permutations and the validation cut.
        data_root: Folder of the datasets, searched first.
        tasks: Number of tasks.
        scenario: "domain" (one head) or "task" (a head a task).
        validation: Share of the training images that is held out, in [0, 1).
        padding: Zeros added at each edge before the pixels are permuted.
        train_per_class: Most training images a class; None for all.

    Returns:
        Images of shape (1, 28 + 2 padding, 28 + 2 padding) in 10 classes.
    """
    return permuted_stream(
        "permuted_fashion_mnist",
        "fashion_mnist",
        Normalize((0.2860,), (0.3530,)),
        seed,
        data_root,
        tasks=tasks,
        scenario=scenario,
        validation=validation,
        padding=padding,
        train_per_class=train_per_class,
        title="Fashion-MNIST",
    )
