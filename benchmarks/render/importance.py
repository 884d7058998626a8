"""Figures of what a method found important, for records that carry it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.render import text
from benchmarks.render.analysis import MethodResult, PartResult
from benchmarks.render.drawing import Sketch
from benchmarks.render.figures import Panel, headline
from benchmarks.render.palette import PAPER

__all__ = ["importance_figures", "importance_shares"]

_NUM_BINS = 40
_NOT_SHOWN = 1e-3  # smallest part of a task's parameters, which may spread over many decades
_MAX_WRITTEN = 10  # more tasks leave no room for numbers in the cells

_Floats = NDArray[np.float64]
_Layers = Mapping[str, Any]
_Cumulative = tuple[_Floats, _Floats]  # edges, and the counts below each


def importance_figures() -> tuple[Panel, ...]:
    """List the figures of importance."""
    return (
        Panel(
            "importance-layers",
            "Where importance lies",
            "Share of the summed importance in each layer, in %, after each task, of the method "
            "named; averaged over seeds.",
            _layers,
        ),
        Panel(
            "importance-histogram",
            "How importance is spread",
            "Histogram of the decimal logarithm of importance after each task, over all layers and "
            "seeds, of the parameters that have any; darker is later. At most the smallest 0.1 % "
            "of a task's lie left of the axis.",
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
    found = [m for m in part.methods if any(run.record.importance for run in m.runs.values())]
    return next((m for m in found if m.name == part.focal), found[0] if found else None)


def _by_task(method: MethodResult) -> list[list[_Layers]]:
    """Sort importance by position in the sequence, which names do not tell: seeds reorder tasks.

    Returns:
        For each position the layers of each run.
    """
    found: list[list[_Layers]] = []
    for run in method.runs.values():
        importance = run.record.importance or {}
        there = [importance[name] for name in run.record.task_names if name in importance]
        found += [[] for _ in range(len(there) - len(found))]
        for position, layers in enumerate(there):
            found[position].append(layers)
    return found


def _cumulate(histogram: Mapping[str, Any]) -> _Cumulative:
    below = np.concatenate([[0.0], np.cumsum(histogram["counts"])])
    return np.array(histogram["edges"], dtype=float), below


def _spread(histograms: Sequence[_Cumulative], bins: _Floats) -> _Floats:
    """Divide counts among other bins, evenly within each of their own, and add them up."""
    counts = np.diff([np.interp(bins, edges, below) for edges, below in histograms], axis=1)
    total: _Floats = counts.sum(axis=0)
    return total


def _first(histograms: Sequence[_Cumulative], bins: _Floats) -> float:
    """Find the edge below which no more than the part not shown lies."""
    below = np.cumsum(_spread(histograms, bins))
    return float(bins[np.searchsorted(below, _NOT_SHOWN * below[-1], side="right")])


def _histogram(part: PartResult, alone: bool) -> Sketch | None:
    method = _with_importance(part)
    if method is None:
        return None
    found = [
        [
            _cumulate(layer["histogram"])
            for layers in runs
            for layer in layers.values()
            if layer.get("histogram") and sum(layer["histogram"]["counts"])
        ]
        for runs in _by_task(method)
    ]
    ends = [end for h in found for edges, _ in h for end in (edges.min(), edges.max())]
    if not ends:
        return None
    fine = np.linspace(min(ends), max(ends), 10 * _NUM_BINS + 1)
    low = min(_first(histograms, fine) for histograms in found if histograms)
    bins = np.linspace(low, max(ends), _NUM_BINS + 1)
    figure = Figure(figsize=(3.8, 2.4), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Histogram of the importance of {method.title} on {part.label}")
    shades = colormaps["cividis"](np.linspace(0.85, 0.0, len(found)))
    named = set(np.linspace(1, len(found), min(8, len(found))).round().astype(int).tolist())
    for number, (shade, histograms) in enumerate(zip(shades, found, strict=True), 1):
        if not histograms:
            continue
        share = _spread(histograms, bins) / sum(below[-1] for _, below in histograms)
        axes.plot(
            (bins[:-1] + bins[1:]) / 2,
            100 * share,
            color=shade,
            linewidth=1.1,
            marker=".",
            markersize=1.5,
            gid=sketch.mark(method.name, *_bin_tips(number, bins, share)),
            label=str(number) if number in named else None,
        )
    axes.set_xlabel("Importance, decimal logarithm")
    axes.set_ylabel("Share of parameters, %")
    figure.legend(loc="outside right upper", title="after task", fontsize=6, title_fontsize=6)
    headline(figure, f"{part.label}, {method.title}" if alone else method.title)
    return sketch


def _bin_tips(task: int, bins: _Floats, share: _Floats) -> list[str]:
    centres = (bins[:-1] + bins[1:]) / 2
    return [
        f"after task {task}: {text.percent(value)} % of the parameters near "
        f"10^{text.number(centre, 1)}"
        for centre, value in zip(centres, share, strict=True)
    ]


def _layers(part: PartResult, alone: bool) -> Sketch | None:
    method = _with_importance(part)
    if method is None:
        return None
    tasks = [
        list(importance_shares({str(i): layers for i, layers in enumerate(runs)}).values())
        for runs in _by_task(method)
    ]
    layers = sorted({name for runs in tasks for run in runs for name in run}, key=_order)
    if not layers:
        return None
    share = np.array([[np.mean([r.get(n, 0.0) for r in runs]) for runs in tasks] for n in layers])
    figure = Figure(figsize=(3.8, 0.9 + 0.2 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Importance of {method.title} by layer and task on {part.label}")
    titles = [f"layer {name}" if name.isdigit() else name for name in layers]
    tips = [
        f"{title}, after task {j + 1}: {text.percent(share[i, j])} % of the importance"
        for i, title in enumerate(titles)
        for j in range(len(tasks))
    ]
    mesh = axes.pcolormesh(
        100 * share, cmap="cividis", vmin=0, edgecolor=PAPER, linewidth=0.4,
        gid=sketch.mark(method.name, *tips),
    )  # fmt: skip
    if len(tasks) <= _MAX_WRITTEN:
        _write_shares(axes, share)
    else:
        figure.colorbar(mesh, ax=axes, shrink=0.9, aspect=25).set_label("Share, %")
    step = -(-len(tasks) // _MAX_WRITTEN)
    axes.set_xticks(
        np.arange(0, len(tasks), step) + 0.5, [str(n) for n in range(1, len(tasks) + 1, step)]
    )
    axes.set_yticks(np.arange(len(layers)) + 0.5, titles)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("after task")
    for spine in axes.spines.values():
        spine.set_visible(False)
    headline(figure, f"{part.label}, {method.title}" if alone else method.title)
    return sketch


def _write_shares(axes: Axes, share: _Floats) -> None:
    for (i, j), value in np.ndenumerate(share):
        axes.text(
            j + 0.5,
            i + 0.5,
            text.number(100 * value, 0),
            ha="center",
            va="center",
            fontsize=6,
            color="#0b0b0b" if value > 0.5 * share.max() else "#fdfdfd",
        )


def _order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort layers as they usually follow each other: records do not keep their order."""
    rank = 2 if name.startswith("head") else int("classifier" in name)
    pieces = re.findall(r"\d+|\D+", name)
    return rank, [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
