"""Permuted MNIST: every task shows the 70,000 digits in another fixed order of their pixels.

The first task keeps the order of the set. The test digits are MNIST's own; the validation digits
are cut from its training part by seed. With ``padding=2`` images have 32x32 pixels that are all
permuted, as in van de Ven and Tolias (2018).

References:
    Goodfellow et al. (2013), An empirical investigation of catastrophic forgetting.
    LeCun et al. (1998), Gradient-based learning applied to document recognition (MNIST).
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
    """Build permuted MNIST.

    Args:
        seed: Decides the permutations and the validation cut.
        data_root: Folder of the datasets, searched first.
        tasks: Number of tasks.
        scenario: "domain" (one head) or "task" (a head a task).
        validation: Share of the training digits that is held out, in [0, 1).
        padding: Zeros added at each edge before the pixels are permuted.
        train_per_class: Most training images a class; None for all.

    Returns:
        Images of shape (1, 28 + 2 padding, 28 + 2 padding) in 10 classes.
    """
    return permuted_stream(
        "permuted_mnist",
        "mnist",
        Normalize((0.1307,), (0.3081,)),
        seed,
        data_root,
        tasks=tasks,
        scenario=scenario,
        validation=validation,
        padding=padding,
        train_per_class=train_per_class,
        title="MNIST",
    )
