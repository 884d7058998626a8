"""Avalanche's own Synaptic Intelligence plugin, as shipped.

Where it departs from the paper: on a CPU its copies of the weights are views of the live ones, so
that all importance is 0 and the penalty changes nothing, but for weights that are not contiguous in
memory (kernels with channels last), which flattening copies. What else it does there is to give the
heads of old tasks a gradient of 0, which weight decay and momentum take as a reason to move them.
On other devices importance is limited to 0.001 and may be negative, the path integral takes the
total gradient, and the penalty has a factor ½ and leaves out normalisation layers.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float) -> list[Any]:
    from benchmarks.methods._shipped import SI

    return [SI(si_lambda=strength)]


METHOD = Method(
    name="avalanche_si",
    title="SI (Avalanche's own)",
    strength="λ",
    default_grid=get("si").default_grid,
    plugins=_plugins,
    knob="strength",
    variant_of="si",
    paper=get("si").paper,
    notes=(
        "As shipped: protects next to nothing on a CPU, where all its importance is 0 but that of "
        "kernels with channels last; elsewhere it is limited to 0.001 and taken from the total "
        "gradient.",
    ),
)
