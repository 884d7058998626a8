"""Memory Aware Synapses with importance from a part of the training data.

Choices:

- Samples are read at random until the standard error of the importance, relative to its norm over
  all parameters, is below ``tolerance``. The mean of Eq. 2 (Aljundi et al., ECCV 2018) is estimated
  so; MAS reads everything.
- Objective, mode, sum over tasks and penalty as for MAS.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float, *, tolerance: float = 0.02) -> list[Any]:
    from mas_avalanche.plugin import MASPlugin

    return [MASPlugin(strength, tolerance=tolerance)]


METHOD = Method(
    name="mas_sampled",
    title="MAS (part of the data)",
    strength="λ",
    default_grid=get("mas").default_grid,
    plugins=_plugins,
    knob="lambda_reg",
    variant_of="mas",
    paper=get("mas").paper,
    notes=("Importance from so many training samples that its standard error is 2 % or as set.",),
)
