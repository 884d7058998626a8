"""Synaptic Intelligence (Zenke, Poole & Ganguli, ICML 2017).

The choices that the paper leaves open are listed in ``mas_avalanche.baselines.si``. Option:
``xi``, the damping.
"""

from typing import Any

from benchmarks.methods import Method


def _plugins(strength: float, *, xi: float = 0.1) -> list[Any]:
    from mas_avalanche.baselines import SIPlugin

    return [SIPlugin(strength, xi=xi)]


METHOD = Method(
    name="si",
    title="SI",
    strength="c",
    default_grid=(30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03),
    plugins=_plugins,
    knob="si_lambda",
    paper="Zenke et al. (2017), Continual Learning Through Synaptic Intelligence, ICML.",
    notes=(
        "Path integral of the task gradient alone; the sum over tasks is cut at 0 and has no "
        "upper limit.",
    ),
)
