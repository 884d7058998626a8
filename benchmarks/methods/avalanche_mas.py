"""Avalanche's own MAS plugin, as shipped.

Where it departs from the paper: the magnitude is taken of the gradient of a mini-batch's mean, in
which samples cancel, so that importance depends on the batch size; it is measured in training mode
on augmented data; and tasks are averaged with α = 0.5 in place of a sum.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from benchmarks.methods._shipped import MAS

    return [MAS(lambda_reg=strength)]


METHOD = Method(
    name="avalanche_mas",
    title="MAS (Avalanche's own)",
    strength="λ",
    default_grid=get("mas").default_grid,
    plugins=_plugins,
    knob="_lambda",
    variant_of="mas",
    paper=get("mas").paper,
    notes=(
        "As shipped: magnitude of mini-batch gradients, training mode, augmented data, moving "
        "average with α = 0.5.",
    ),
)
