"""Memory Aware Synapses on the vector of outputs (Aljundi et al., ECCV 2018).

Choices:

- Importance sums, over the outputs, the magnitude of the gradient of each one, sample by sample:
  what the paper compares its cheaper squared norm with.
- It takes a backward pass an output. Data, mode, sum over tasks and penalty as for MAS.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from mas_avalanche.plugin import MASPlugin

    return [MASPlugin(strength, objective="vector")]


METHOD = Method(
    name="mas_vector",
    title="MAS (vector output)",
    strength="λ",
    default_grid=get("mas").default_grid,
    plugins=_plugins,
    knob="lambda_reg",
    variant_of="mas",
    paper=get("mas").paper,
    notes=("Importance from the gradient of every output; one backward pass an output.",),
)
