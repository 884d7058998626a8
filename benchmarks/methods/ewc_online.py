"""Online Elastic Weight Consolidation (Schwarz et al., ICML 2018).

One running importance F ← γ F + F_new, anchored at the latest parameters. The choices that the
paper leaves open are listed in ``mas_avalanche.baselines.ewc``. Option: ``decay_factor``, the γ;
1 by default, which forgets nothing.
"""

from typing import Any

from benchmarks.methods import Method, get


def _plugins(strength: float, *, decay_factor: float = 1.0) -> list[Any]:
    from mas_avalanche.baselines import EWCPlugin

    return [EWCPlugin(strength, mode="online", decay_factor=decay_factor)]


METHOD = Method(
    name="ewc_online",
    title="Online EWC",
    strength="λ",
    default_grid=get("ewc").default_grid,
    plugins=_plugins,
    knob="ewc_lambda",
    paper=(
        "Schwarz et al. (2018), Progress & Compress: A scalable framework for continual learning, "
        "ICML."
    ),
    notes=("Empirical Fisher information as for EWC; a task's is not normalised.",),
)
