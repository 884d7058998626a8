"""Memory Aware Synapses (Aljundi et al., ECCV 2018).

Choices:

- Importance is the mean over samples of the magnitude of each sample's own gradient of the squared
  L2 norm of the logits (Eq. 2 with the paper's cheaper objective), exact for any mini-batch.
- It is measured once, after each task, on the task's training data without augmentation, in
  evaluation mode, and summed over tasks.
- The penalty is λ Σ Ω (θ − θ*)² (Eq. 3, no factor ½), added as a closed-form gradient. Heads that
  the task at hand does not train are not touched.
- λ is tuned here as every method's strength is; the paper used 1 without tuning.
"""

from typing import Any

from benchmarks.methods import Method
from mas_avalanche.plugin import MASPlugin


def _plugins(strength: float) -> list[Any]:
    return [MASPlugin(strength)]


METHOD = Method(
    name="mas",
    title="MAS",
    strength="λ",
    default_grid=(3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
    plugins=_plugins,
    knob="lambda_reg",
    paper="Aljundi et al. (2018), Memory Aware Synapses: Learning what (not) to forget, ECCV.",
    notes=("Importance is exact per sample and summed over tasks.",),
)
