"""Avalanche's own Learning without Forgetting plugin, as shipped.

Where it departs from the paper: the teacher stays in training mode (dropout acts, batch
normalisation goes on adapting); there is no factor T², and no warm-up. It distils all old heads of
a multi-head model with a second pass of the student.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from benchmarks.methods._shipped import LwF

    return [LwF(alpha=strength)]


METHOD = Method(
    name="avalanche_lwf",
    title="LwF (Avalanche's own)",
    strength="α",
    default_grid=(20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2),
    plugins=_plugins,
    knob="lwf.alpha",
    variant_of="lwf",
    paper=get("lwf").paper,
    notes=("As shipped: teacher in training mode, no factor T².",),
)
