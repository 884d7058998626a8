"""Training once on the union of all tasks: the upper bound.

Choices:

- One training on all data from the same initial weights, with as many epochs as every task has
  alone. An epoch is a pass over all tasks, so it makes as many passes over each task's data as a
  sequential method does, and about as many steps in all.
- It is no continual method: it needs all data at once. A learner that stored everything and
  retrained at each of T tasks would pay (T + 1) / 2 times this cost.
"""

from typing import Any

from benchmarks.methods import Method


def _plugins(strength: None) -> list[Any]:
    del strength
    return []


METHOD = Method(
    name="joint",
    title="Joint",
    strength=None,
    default_grid=(),
    plugins=_plugins,
    joint=True,
    notes=(
        "Upper bound: one training on the union of all tasks, not a continual method.",
        "Retraining on all data so far at each of T tasks would cost about (T + 1) / 2 times the "
        "seconds shown.",
    ),
)
