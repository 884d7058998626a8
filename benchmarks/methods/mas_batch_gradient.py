"""Memory Aware Synapses with the magnitude of mini-batch gradients, as most codes compute it.

Choices:

- Importance is Σ_b |Σ_{n in b} ∂‖F(x_n)‖² / ∂θ| / N over mini-batches b of ``batch_size`` samples.
  The magnitude is taken of a sum in which samples of opposite sign cancel: it is at most that of
  Eq. 2 (Aljundi et al., ECCV 2018), falls as mini-batches grow, and with ``batch_size`` 1 it is
  Eq. 2 itself.
- A shorter last mini-batch counts by its samples; the authors' code and Avalanche's count it like a
  full one.
- Samples are put into mini-batches in an order drawn once, the same after every task, as samples
  sorted by class cancel less.
- Data, mode, sum over tasks and penalty as for MAS. The loop is written out in
  ``_batch_gradient.py``, apart from the engine that MAS uses.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float, *, batch_size: int = 32) -> list[Any]:
    from benchmarks.methods._batch_gradient import BatchGradientMAS

    return [BatchGradientMAS(strength, batch_size)]


METHOD = Method(
    name="mas_batch_gradient",
    title="MAS (batch gradients)",
    strength="λ",
    default_grid=get("mas").default_grid,
    plugins=_plugins,
    knob="lambda_reg",
    variant_of="mas",
    paper=get("mas").paper,
    notes=("Importance from the magnitude of mini-batch gradients, in which samples cancel.",),
)
