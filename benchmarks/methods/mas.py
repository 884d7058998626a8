"""Memory Aware Synapses (Aljundi et al., ECCV 2018).

Choices:

- Importance is the mean over samples of the magnitude of each sample's own gradient of the squared
  L2 norm of the logits (Eq. 2 with the paper's cheaper objective), exact for any mini-batch.
- It is measured once, after each task, on the task's training data without augmentation, in
  evaluation mode, and summed over tasks. The option ``importance_data`` takes other inputs in
  their place, without labels: "test", "both", or "subset" (see ``_unlabelled.py``).
- The penalty is λ Σ Ω (θ − θ*)² (Eq. 3, no factor ½), added as a closed-form gradient. Heads that
  the task at hand does not train are not touched.
- λ is tuned here as every method's strength is; the paper used 1 without tuning.
"""

from typing import Any

from benchmarks.methods import Method
from benchmarks.methods._unlabelled import Source, inputs_from


def _plugins(strength: float, *, importance_data: Source = "train") -> list[Any]:
    from mas_avalanche.plugin import MASPlugin

    return [MASPlugin(strength, importance_data=inputs_from(importance_data))]


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
