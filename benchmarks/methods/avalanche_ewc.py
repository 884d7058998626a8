"""Avalanche's own EWC plugin, as shipped, in its default mode (a term a task).

Where it departs from the paper: the square is taken of the gradient of a mini-batch's mean, so that
the Fisher information is many times too small and depends on the batch size; augmented data; no
factor ½; the terms of all tasks are kept and walked one by one.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from benchmarks.methods._shipped import EWC

    return [EWC(ewc_lambda=strength)]


METHOD = Method(
    name="avalanche_ewc",
    title="EWC (Avalanche's own)",
    strength="λ",
    default_grid=(3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0),
    plugins=_plugins,
    knob="ewc_lambda",
    variant_of="ewc",
    paper=get("ewc").paper,
    notes=(
        "As shipped: squares mini-batch gradients, augmented data, no factor ½, two copies of the "
        "parameters a task.",
    ),
)
