"""Memory Aware Synapses with a proximal penalty (importance of Aljundi et al., ECCV 2018).

Choices:

- Importance and anchor as for MAS. In place of adding the penalty's gradient, each step of the
  optimizer on the task's loss is followed by the exact minimum of the penalty plus the distance
  to where the step led. The step size is the optimizer's learning rate, also where the optimizer
  scales its own steps.
- It is stable for every λ; the gradient form diverges once 2 × learning rate × λ × max Ω exceeds 2.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from mas_avalanche.plugin import MASPlugin

    return [MASPlugin(strength, mode="proximal")]


METHOD = Method(
    name="mas_proximal",
    title="MAS (proximal)",
    strength="λ",
    default_grid=get("mas").default_grid,
    plugins=_plugins,
    knob="lambda_reg",
    variant_of="mas",
    paper=get("mas").paper,
    notes=("Not in the paper: the penalty acts as an implicit step, stable for every λ.",),
)
