"""Elastic Weight Consolidation, a term a task (Kirkpatrick et al., PNAS 2017).

The choices that the paper leaves open are listed in ``mas_avalanche.baselines.ewc``. Options:
``mode`` and ``decay_factor`` as there.
"""

from typing import Any, Literal

from benchmarks.methods import Method


def _plugins(
    strength: float,
    *,
    mode: Literal["separate", "online"] = "separate",
    decay_factor: float = 1.0,
) -> list[Any]:
    from mas_avalanche.baselines import EWCPlugin

    return [EWCPlugin(strength, mode=mode, decay_factor=decay_factor)]


METHOD = Method(
    name="ewc",
    title="EWC",
    strength="λ",
    default_grid=(1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0),
    plugins=_plugins,
    knob="ewc_lambda",
    paper=(
        "Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks, PNAS."
    ),
    notes=(
        "Empirical Fisher information with true labels, squared per sample, all samples of a task.",
        "One quadratic term a task, merged without loss into one importance and one anchor.",
    ),
)
