"""Figures of what a method found important, for records that carry it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.render import text
from benchmarks.render.analysis import MethodResult, PartResult
from benchmarks.render.drawing import Sketch
from benchmarks.render.figures import Panel, headline
from benchmarks.render.palette import PAPER

__all__ = ["importance_figures", "importance_shares"]


def importance_figures() -> tuple[Panel, ...]:
    """List the figures of importance."""
    return (
        Panel(
            "importance-layers",
            "Where importance lies",
            "Share of the summed importance in each layer, after each task, of the first method "
            "whose records carry it; averaged over seeds.",
            _layers,
        ),
        Panel(
            "importance-histogram",
            "How importance is spread",
            "Histogram of the decimal logarithm of importance after each task, over all layers and "
            "seeds of the first method whose records carry it; darker is later.",
            _histogram,
        ),
    )


def importance_shares(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Divide each task's importance among the layers.

    Args:
        summary: A record's importance: by task and layer, with at least ``sum``.

    Returns:
        By task and layer a share; the shares of a task sum to 1, or are 0 where all is.

    Example:
        >>> importance_shares({"0": {"a": {"sum": 1.0}, "b": {"sum": 3.0}}})
        {'0': {'a': 0.25, 'b': 0.75}}
    """
    shares = {}
    for task, layers in summary.items():
        sums = {name: float(found["sum"]) for name, found in layers.items()}
        total = sum(sums.values())
        shares[task] = {name: value / total if total else 0.0 for name, value in sums.items()}
    return shares


def _with_importance(part: PartResult) -> MethodResult | None:
    return next(
        (m for m in part.methods if any(run.record.importance for run in m.runs.values())), None
    )


def _histogram(part: PartResult, alone: bool) -> Sketch | None:
    method = _with_importance(part)
    if method is None:
        return None
    counted: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for run in method.runs.values():
        for task, layers in (run.record.importance or {}).items():
            for layer in layers.values():
                found = layer.get("histogram")
                if found and found["counts"]:
                    edges = np.array(found["edges"], dtype=np.float64)
                    pair = ((edges[:-1] + edges[1:]) / 2, np.array(found["counts"], np.float64))
                    counted.setdefault(task, []).append(pair)
    if not counted:
        return None
    ends = [centres for pairs in counted.values() for centres, _ in pairs]
    bins = np.linspace(min(e.min() for e in ends), max(e.max() for e in ends) + 1e-9, 41)
    figure = Figure(figsize=(3.8, 2.4), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Histogram of the importance of {method.title} on {part.label}")
    shades = colormaps["cividis"](np.linspace(0.85, 0.0, len(counted)))
    for number, (shade, (task, pairs)) in enumerate(zip(shades, counted.items(), strict=True), 1):
        height, _ = np.histogram(
            np.concatenate([centres for centres, _ in pairs]),
            bins,
            weights=np.concatenate([counts for _, counts in pairs]),
        )
        axes.plot(
            (bins[:-1] + bins[1:]) / 2,
            100 * height / max(height.sum(), 1.0),
            color=shade,
            linewidth=1.1,
            marker=".",
            markersize=1.5,
            gid=sketch.mark(method.name, *_bin_tips(task, bins, height)),
            label=str(number),
        )
    axes.set_xlabel("log10 of importance")
    axes.set_ylabel("Share of parameters, %")
    figure.legend(loc="outside right upper", title="after task", fontsize=6, title_fontsize=6)
    if alone:
        headline(figure, f"{part.label}, {method.title}")
    return sketch


def _bin_tips(task: str, bins: NDArray[np.float64], height: NDArray[np.float64]) -> list[str]:
    centres = (bins[:-1] + bins[1:]) / 2
    return [
        f"after task {task}: {text.percent(count / max(height.sum(), 1.0))} % of the parameters "
        f"near 10^{text.number(centre, 1)}"
        for centre, count in zip(centres, height, strict=True)
    ]


def _layers(part: PartResult, alone: bool) -> Sketch | None:
    method = _with_importance(part)
    if method is None:
        return None
    found = [
        importance_shares(run.record.importance)
        for run in method.runs.values()
        if run.record.importance
    ]
    tasks = list(found[0])
    layers = list(dict.fromkeys(name for shares in found[0].values() for name in shares))
    share = np.array(
        [
            [np.mean([f.get(task, {}).get(layer, 0.0) for f in found]) for task in tasks]
            for layer in layers
        ]
    )
    figure = Figure(figsize=(3.8, 0.8 + 0.2 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Importance of {method.title} by layer and task on {part.label}")
    tips = [
        f"{layer}, task {task}: {text.percent(share[i, j])} % of the importance"
        for i, layer in enumerate(layers)
        for j, task in enumerate(tasks)
    ]
    axes.pcolormesh(
        100 * share, cmap="cividis", vmin=0, edgecolor=PAPER, linewidth=0.4,
        gid=sketch.mark(method.name, *tips),
    )  # fmt: skip
    axes.set_xticks(np.arange(len(tasks)) + 0.5, [str(n) for n in range(1, len(tasks) + 1)])
    axes.set_yticks(np.arange(len(layers)) + 0.5, layers)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("after task")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if alone:
        headline(figure, f"{part.label}, {method.title}")
    return sketch
