"""Methods to compare with, as plugins that do what their papers say.

Each is a ``SupervisedPlugin`` for any Avalanche strategy, and its module lists what the paper
leaves open:

- :class:`EWCPlugin`: Elastic Weight Consolidation, with the exact empirical Fisher, one term a task
  or online.
- :class:`SIPlugin`: Synaptic Intelligence, with the path integral of the task gradient alone.
- :class:`LwFPlugin`: Learning without Forgetting, every old head distilled by a teacher in
  evaluation mode.
"""

from mas_avalanche.baselines.ewc import EWCPlugin
from mas_avalanche.baselines.lwf import LwFPlugin
from mas_avalanche.baselines.si import SIPlugin

__all__ = ["EWCPlugin", "LwFPlugin", "SIPlugin"]
