"""Fine-tuning without any protection: the lower bound.

The strategy trains on one task after the other. Nothing is left open.
"""

from typing import Any

from benchmarks.methods import Method


def _plugins(strength: None) -> list[Any]:
    del strength
    return []


METHOD = Method(
    name="naive",
    title="Naive",
    strength=None,
    default_grid=(),
    plugins=_plugins,
    notes=("Lower bound: fine-tuning on one task after the other.",),
)
