"""Split digits: scikit-learn's 1,797 handwritten digits of 8x8 pixels, two classes a task.

Which digits share a task, and in which order tasks come, is drawn by seed. The test digits are
20 % of every class, the same for every seed; the validation digits are cut from the rest by seed.

References:
    Kaynak (1995), Methods of combining multiple classifiers and their applications to
    handwritten digit recognition (the set, by way of the UCI repository).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.streams._types import Scenario, Stream

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["build"]


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    scenario: Scenario = "task",
    validation: float = 0.15,
) -> Stream:
    """Build split digits.

    Args:
        seed: Decides the class order and the validation cut.
        data_root: Not needed: the digits come with scikit-learn.
        scenario: "task" (a head a task) or "class" (one growing head).
        validation: Share of the training digits that is held out, in [0, 1).

    Returns:
        5 tasks of 2 classes; images of shape (1, 8, 8).

    Raises:
        ValueError: If an option is outside its range.
    """
    import torch

    from benchmarks.streams._splits import Chosen, class_tasks, generator, one_of, stratified
    from benchmarks.streams._transforms import Normalize

    del data_root
    one_of("scenario", scenario, ("task", "class"))
    x, y = _digits()
    rest, test = stratified(y, 0.2, generator(0, "test"))
    first, second = stratified(y[rest], validation, generator(seed, "validation"))
    order = torch.randperm(10, generator=generator(seed, "classes")).tolist()
    return Stream(
        name="split_digits",
        scenario=scenario,
        tasks=class_tasks(
            (Chosen(x, y, rest[first]), Chosen(x, y, rest[second]), Chosen(x, y, test)),
            [order[i : i + 2] for i in range(0, 10, 2)],
            class_names=[str(digit) for digit in range(10)],
            scenario=scenario,
            transform=Normalize((0.3053,), (0.3761,), full=16.0),
        ),
        input_shape=(1, 8, 8),
        description="scikit-learn's 1,797 handwritten digits (8x8 pixels), 5 tasks of 2 digits.",
        stand_in_for="Split-CIFAR",
    )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (
        torch.as_tensor(digits.images).to(torch.uint8).unsqueeze(1),
        torch.as_tensor(digits.target).long(),
    )
