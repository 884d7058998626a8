"""Memory Aware Synapses for Avalanche: exact importance, a cheap penalty, and its baselines.

Most users need one of these:

- :class:`MASPlugin` in an Avalanche strategy, or :class:`MAS`, the strategy with the plugin in it;
- :func:`estimate_importance` for the importance of a model's parameters on any data;
- :class:`MultiHeadAlexNet`, the network of the paper, a head a task.

Beside them: :mod:`mas_avalanche.baselines` (EWC, SI and LwF as their papers say),
:mod:`mas_avalanche.tensor_batches` (training on tensors at the speed of a plain loop) and
:mod:`mas_avalanche.wandb_logger` (needs the extra ``wandb``).
"""

from mas_avalanche.alexnet import MultiHeadAlexNet
from mas_avalanche.importance import estimate_importance
from mas_avalanche.plugin import MASPlugin
from mas_avalanche.strategy import MAS

__all__ = ["MAS", "MASPlugin", "MultiHeadAlexNet", "estimate_importance"]
