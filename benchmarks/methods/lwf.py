"""Learning without Forgetting (Li & Hoiem, ECCV 2016).

The choices that the paper leaves open are listed in ``mas_avalanche.baselines.lwf``. Options:
``temperature`` and ``warmup_epochs``.
"""

from typing import Any

from benchmarks.methods import Method


def _plugins(strength: float, *, temperature: float = 2.0, warmup_epochs: int = 0) -> list[Any]:
    from mas_avalanche.baselines import LwFPlugin

    return [LwFPlugin(strength, temperature=temperature, warmup_epochs=warmup_epochs)]


METHOD = Method(
    name="lwf",
    title="LwF",
    strength="α",
    default_grid=(10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1),
    plugins=_plugins,
    knob="alpha",
    paper="Li and Hoiem (2016), Learning without Forgetting, ECCV.",
    notes=(
        "Each old head is distilled with temperature 2 and factor T²; the losses are summed.",
        "The teacher is in evaluation mode; no warm-up unless said.",
    ),
)
