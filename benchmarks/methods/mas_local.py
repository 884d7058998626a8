"""l-MAS, the local form of Memory Aware Synapses (Aljundi et al., ECCV 2018).

Choices:

- Each layer is taken as a function of its own, and importance is the mean over samples of the
  magnitude of the gradient of the squared norm of *its* output: 2 × input × output activity after
  a ReLU, which is Hebb's rule up to the factor.
- Where an input can be negative the magnitude is taken; a convolution sums over positions, and a
  bias has 2 × output.
- Data, mode, sum over tasks and penalty as for MAS; the option ``importance_data`` too.
"""

from typing import Any

from benchmarks.methods import Method, get
from benchmarks.methods._unlabelled import Source, inputs_from


def _plugins(strength: float, *, importance_data: Source = "train") -> list[Any]:
    from mas_avalanche.plugin import MASPlugin

    data = inputs_from(importance_data)
    return [MASPlugin(strength, objective="local", importance_data=data)]


METHOD = Method(
    name="mas_local",
    title="l-MAS",
    strength="λ",
    default_grid=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
    plugins=_plugins,
    knob="lambda_reg",
    variant_of="mas",
    paper=get("mas").paper,
    notes=("Importance from each layer's own output, without a backward pass through the net.",),
)
