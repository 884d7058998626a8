"""The figures of a report, each a function from results to a sketch.

Each shows one part in one small panel: readable on a phone, side by side on a wide screen, one
column of a paper.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from benchmarks.metrics import METRICS
from benchmarks.render import text
from benchmarks.render.analysis import MethodInfo, MethodResult, PartResult, describe_method
from benchmarks.render.drawing import Sketch
from benchmarks.render.palette import INK, MUTED, PAPER, Look, look
from benchmarks.statistics import Estimate

__all__ = [
    "Panel",
    "color_ramp",
    "cost",
    "curves",
    "headline",
    "heat_map",
    "heat_maps",
    "overview",
    "overviews",
    "paired",
    "panels",
    "plasticity",
    "sensitivity",
    "swatch",
]

_WIDTH, _HEIGHT = 3.8, 2.7  # inches
_MAP = "cividis"
_MAX_LINES = 8  # of the same accuracy, so that they stay in the background
_MAX_WRITTEN = 6  # more tasks leave no room for numbers in the cells

Matrix = NDArray[np.float64]
_SHORT = {m.key: m.title for m in METRICS}


@dataclass(frozen=True)
class Panel:
    """A figure that a report may hold.

    Args:
        name: Name in file names.
        title: What it shows, in a few words.
        caption: How it is read.
        draw: From a part to a sketch, None where the part has nothing to show. With True the
            sketch carries title and legend, for use away from the page.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[PartResult, bool], Sketch | None]


def panels() -> tuple[Panel, ...]:
    """List the figures in the order of the report; the accuracy matrices come apart."""
    return (
        Panel(
            "overview",
            "Average accuracy after the last task",
            "Small points are seeds, the large one is their mean; a thick bar is a 95 % interval, "
            "a thin one the smallest and largest of fewer than 5 seeds, which is no interval.",
            overview,
        ),
        Panel(
            "curves",
            "Accuracy as tasks come",
            "Average accuracy over the tasks seen so far, with the 95 % interval (with fewer than "
            "5 seeds: the smallest and largest); joint training on all tasks is a level line.",
            curves,
        ),
        Panel(
            "plasticity",
            "Stability against plasticity",
            "Right is plastic (learns each task well), up is stable (keeps it). Along a thin line "
            "the average accuracy is the same.",
            plasticity,
        ),
        Panel(
            "cost",
            "Cost against accuracy",
            "Seconds of training and consolidation in one run, on a logarithmic axis.",
            cost,
        ),
        Panel(
            "strength-accuracy",
            "Sensitivity to strength: accuracy",
            "Final average accuracy on the validation data of the tuning seeds for every strength "
            "tried; the ring marks the one chosen, a cross at the foot a strength at which a run "
            "was lost.",
            lambda part, alone: sensitivity(part, alone, "accuracy"),
        ),
        Panel(
            "strength-forgetting",
            "Sensitivity to strength: forgetting",
            "Forgetting (best minus last) on the validation data of the tuning seeds for every "
            "strength tried; the ring marks the one chosen.",
            lambda part, alone: sensitivity(part, alone, "forgetting"),
        ),
        Panel(
            "paired",
            "Paired differences in average accuracy",
            "Seed by seed, the method named first minus the other; small points are seeds. Where a "
            "bar crosses zero, noise could explain the difference.",
            paired,
        ),
    )


def overview(part: PartResult, alone: bool) -> Sketch | None:
    """Show each method's final average accuracy: seeds, mean and interval.

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.

    Returns:
        The sketch; None without a finished run.
    """
    rows = [m.name for m in part.methods if m.runs]
    if not rows:
        return None
    # On the page it stands beside others on the first screen.
    height, width = (0.55 + 0.24 * len(rows), _WIDTH) if alone else (0.5 + 0.2 * len(rows), 2.2)
    sketch, axes = _blank(part, alone, "Average accuracy", height=height, width=width)
    _overview_axes(sketch, axes, part, rows)
    if not alone:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    return sketch


def overviews(parts: Sequence[PartResult]) -> Sketch | None:
    """Show :func:`overview` of all parts in one figure, for files.

    Args:
        parts: What is shown, a panel each; a method has the same row in all.

    Returns:
        The sketch; None without a finished run.
    """
    shown = [part for part in parts if any(m.runs for m in part.methods)]
    if not shown:
        return None
    rows = list(dict.fromkeys(m.name for part in shown for m in part.methods if m.runs))
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    heading = {
        part.name: wrap(part.label, 44 if columns == 1 else 34, break_on_hyphens=False)
        for part in shown
    }
    height = 0.6 + 0.24 * len(rows) + 0.13 * max(map(len, heading.values()))
    size = (_WIDTH if columns == 1 else 0.6 + 2.3 * columns, height * lines)
    figure = Figure(figsize=size, layout="constrained")
    sketch = Sketch(figure, "Average accuracy after the last task")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for number, (axes, part) in enumerate(zip(grid.flat, shown, strict=False)):
        _overview_axes(sketch, axes, part, rows)
        axes.set_title("\n".join(heading[part.name]), fontsize=8)
        if number % columns:
            axes.tick_params(axis="y", labelleft=False)
    return sketch


def _overview_axes(sketch: Sketch, axes: Axes, part: PartResult, rows: Sequence[str]) -> None:
    titles = {m.name: m.title for m in part.methods}
    for position, name in enumerate(rows):
        method = part.method(name)
        if method is None or not method.runs:
            continue
        y = len(rows) - 1 - position
        found = method.estimates["average_accuracy"]
        row_of_seeds(sketch, axes, y, method.info, method.values("average_accuracy"), found)
        bar(sketch, axes, method.name, found, y=y)
        tip = f"{method.title}: {text.percent_interval(found)} %, {_seeds(found)}"
        points(sketch, axes, method.info, [100 * found.mean], [y], [tip])
    method_rows(axes, [titles.get(name) or describe_method(name).title for name in rows])
    axes.set_xlabel("Average accuracy, %")


def curves(part: PartResult, alone: bool) -> Sketch | None:
    """Show the average accuracy over the tasks seen so far, after each task.

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.

    Returns:
        The sketch; None where no run saw two tasks in sequence.
    """
    rows = [m for m in part.methods if len(m.curve) > 1]
    if not rows:
        return None
    sketch, axes = _blank(part, alone, "Average accuracy over the tasks seen so far")
    num_tasks = max(len(m.curve) for m in rows)
    for method in part.methods:
        final = method.estimates["average_accuracy"]
        if method.info.joint and final.n:
            tip = f"{method.title}, all tasks at once: {text.percent_interval(final)} %"
            _line(sketch, axes, method.info, [1, num_tasks], [100 * final.mean] * 2, ["", tip])
    for method in rows:
        tasks = [float(i) for i in range(1, len(method.curve) + 1)]
        look_ = look(method.name)
        axes.fill_between(
            tasks,
            [100 * e.low for e in method.curve],
            [100 * e.high for e in method.curve],
            color=look_.color,
            alpha=0.14,
            linewidth=0,
            gid=sketch.mark(method.name),
        )
        tips = [
            f"{method.title}, after task {i}{_task(part, i)}: {text.percent_interval(e)} %"
            for i, e in enumerate(method.curve, start=1)
        ]
        _line(sketch, axes, method.info, tasks, [100 * e.mean for e in method.curve], tips)
    axes.set_xlabel("Tasks learned")
    axes.set_ylabel("Accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    _legend(sketch, part.methods, alone)
    return sketch


def plasticity(part: PartResult, alone: bool) -> Sketch | None:
    """Show backward transfer (stability) against learning accuracy (plasticity).

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.

    Returns:
        The sketch; None where no run saw two tasks in sequence.
    """
    rows = [m for m in part.methods if m.estimates["backward_transfer"].n]
    if not rows:
        return None
    sketch, axes = _blank(part, alone, "Backward transfer against learning accuracy")
    for method in rows:
        x, y = method.estimates["learning_accuracy"], method.estimates["backward_transfer"]
        bar(sketch, axes, method.name, x, y=100 * y.mean)
        bar(sketch, axes, method.name, y, x=100 * x.mean)
        tip = (
            f"{method.title}: learning accuracy {text.percent_interval(x)} %, "
            f"backward transfer {text.points_interval(y)} points"
        )
        points(sketch, axes, method.info, [100 * x.mean], [100 * y.mean], [tip])
    axes.margins(0.12)
    num_tasks = max(len(m.curve) for m in rows)
    _iso_accuracy(axes, num_tasks)
    axes.set_xlabel("Learning accuracy, %")
    axes.set_ylabel("Backward transfer, points")
    _legend(sketch, rows, alone)
    return sketch


def cost(part: PartResult, alone: bool) -> Sketch | None:
    """Show the final average accuracy against the seconds of one run.

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.

    Returns:
        The sketch; None where no time was recorded.
    """
    rows = [m for m in part.methods if m.estimates["seconds_training"].mean > 0]
    if not rows:
        return None
    sketch, axes = _blank(part, alone, "Average accuracy against seconds of a run")
    for method in rows:
        accuracy = method.estimates["average_accuracy"]
        training = method.estimates["seconds_training"].mean
        between = method.estimates["seconds_consolidation"].mean
        total = training + (between if isfinite(between) else 0.0)
        bar(sketch, axes, method.name, accuracy, x=total)
        tip = (
            f"{method.title}: {text.percent_interval(accuracy)} %, {text.seconds(training)} s of "
            f"training and {text.seconds(between)} s of consolidation"
        )
        points(sketch, axes, method.info, [total], [100 * accuracy.mean], [tip])
    axes.set_xscale("log")
    axes.margins(0.12)
    _plain_log_ticks(axes)
    axes.set_xlabel("Seconds of training and consolidation")
    axes.set_ylabel("Average accuracy, %")
    _legend(sketch, rows, alone)
    return sketch


def sensitivity(part: PartResult, alone: bool, what: str) -> Sketch | None:
    """Show what the tuning seeds saw at every strength of the grid.

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.
        what: "accuracy" or "forgetting".

    Returns:
        The sketch; None where no grid was tried.
    """
    rows = [m for m in part.methods if len(m.grid) > 1]
    if not rows:
        return None
    title = f"Validation {what} against strength"
    sketch, axes = _blank(part, alone, title)
    positive = [p.strength for m in rows for p in m.grid if p.strength > 0]
    zero = min(positive) / 10 if positive else 0.1  # where a strength of 0 is drawn
    for method in rows:
        found = [
            (point, point.mean_accuracy if what == "accuracy" else point.mean_forgetting)
            for point in method.grid
        ]
        shown = [(point, value) for point, value in found if isfinite(value)]
        symbol = method.info.strength or "strength"
        tips = [
            f"{method.title}, {symbol} = {text.strength(point.strength)}: {text.percent(value)} %"
            + (" (chosen)" if point.strength == method.chosen else "")
            for point, value in shown
        ]
        x = [point.strength or zero for point, _ in shown]
        _line(sketch, axes, method.info, x, [100 * value for _, value in shown], tips)
        ring = [(p.strength or zero, 100 * v) for p, v in shown if p.strength == method.chosen]
        for at in ring:
            axes.plot(
                *at,
                marker="o",
                markersize=10,
                markerfacecolor="none",
                markeredgecolor=look(method.name).color,
                gid=sketch.mark(method.name),
            )
        lost = [(p, p.strength or zero) for p in method.grid if p.num_lost]
        if lost:
            lost_tips = [
                f"{method.title}, {symbol} = {text.strength(p.strength)}: {p.num_lost} lost"
                for p, _ in lost
            ]
            axes.plot(
                [at for _, at in lost],
                [0.02] * len(lost),
                linestyle="none",
                marker="x",
                color=look(method.name).color,
                transform=axes.get_xaxis_transform(),
                gid=sketch.mark(method.name, *lost_tips),
            )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if any(p.strength == 0 for m in rows for p in m.grid):
        axes.xaxis.set_major_formatter(FuncFormatter(partial(_from_zero, zero)))
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=7))  # so that 10000 has room beside 1000
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("Strength")
    axes.set_ylabel(f"Validation {what}, %")
    _legend(sketch, rows, alone)
    return sketch


def paired(part: PartResult, alone: bool) -> Sketch | None:
    """Show the focal method minus each other one, seed by seed.

    Args:
        part: What is shown.
        alone: Whether it is used away from the page.

    Returns:
        The sketch; None where nothing can be compared.
    """
    rows = [c for c in part.comparisons if c.metric.key == "average_accuracy"]
    focal = part.method(part.focal) if part.focal else None
    if focal is None or not rows:
        return None
    sketch, axes = _blank(
        part, alone, "Paired differences in accuracy", height=0.55 + 0.24 * len(rows)
    )
    axes.axvline(0, color=INK, linewidth=0.8)
    titles = []
    for position, comparison in enumerate(rows):
        other = part.method(comparison.other)
        if other is None:
            continue
        y = len(rows) - 1 - position
        difference = comparison.paired.difference
        ours, theirs = focal.values("average_accuracy"), other.values("average_accuracy")
        by_seed = {seed: ours[seed] - theirs[seed] for seed in comparison.paired.seeds}
        name = f"{focal.title} − {other.title}"
        row_of_seeds(sketch, axes, y, other.info, by_seed, difference, name=name, signed=True)
        bar(sketch, axes, other.name, difference, y=y)
        tip = f"{name}: {text.points_interval(difference)} points, {_seeds(difference)}"
        points(sketch, axes, other.info, [100 * difference.mean], [y], [tip])
        titles.append(f"− {other.title}")
    method_rows(axes, titles)
    axes.set_xlabel(f"{focal.title} minus the other, points")
    return sketch


def heat_map(part: PartResult, method: MethodResult) -> Sketch | None:
    """Show one method's accuracy matrix, averaged over seeds.

    Args:
        part: What is shown.
        method: Whose matrix it is.

    Returns:
        The sketch; None without a finished run.
    """
    matrix = _mean_matrix(method)
    if matrix is None:
        return None
    height = 2.0 * (0.28 + 0.72 * len(matrix) / matrix.shape[1])
    figure = Figure(figsize=(2.0, max(height, 0.75)), layout="constrained")
    sketch = Sketch(figure, f"Accuracy matrix of {method.title} on {part.label}")
    _matrix_axes(sketch, figure.add_subplot(), part, method, matrix)
    return sketch


def heat_maps(part: PartResult) -> Sketch | None:
    """Show the accuracy matrices of all methods of a part in one figure, for files.

    Args:
        part: What is shown.

    Returns:
        The sketch; None without a finished run.
    """
    found = [(m, matrix) for m in part.methods if (matrix := _mean_matrix(m)) is not None]
    if not found:
        return None
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(1.75 * columns + 0.5, 1.85 * lines + 0.35), layout="constrained")
    figure.suptitle(f"{part.label}: accuracy matrices", fontsize=8.5, x=0.01, ha="left")
    sketch = Sketch(figure, f"Accuracy matrices on {part.label}")
    grid = figure.subplots(lines, columns, squeeze=False)
    meshes = []
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, (method, matrix) in zip(grid.flat, found, strict=False):
        meshes.append(_matrix_axes(sketch, axes, part, method, matrix))
        axes.set_title(method.title)
    bar = figure.colorbar(meshes[0], ax=grid, shrink=0.7, aspect=30)
    bar.set_label("Accuracy, %")
    bar.outline.set_linewidth(0.5)
    return sketch


def color_ramp() -> tuple[str, ...]:
    """Give the colours of the heat maps from 0 to 100 %."""
    ramp = colormaps[_MAP]
    return tuple(to_hex(ramp(step / 10)) for step in range(11))


def swatch(method: MethodInfo) -> Sketch:
    """Show a method's line and marker, for legends of a page.

    Args:
        method: Whose look it is.

    Returns:
        A sketch of 26 by 10 points.
    """
    figure = Figure(figsize=(26 / 72, 10 / 72))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    sketch = Sketch(figure, f"{method.title}: line and marker")
    axes.plot([0.04, 0.96], [0.5, 0.5], **_line_style(look(method.name)))
    axes.plot([0.5], [0.5], **_marker_style(look(method.name)))
    return sketch


def headline(figure: Figure, label: str) -> None:
    """Write a heading over a figure that is used away from the page.

    Args:
        figure: The figure.
        label: The heading; broken into lines that fit.
    """
    lines = "\n".join(wrap(label, 48, break_on_hyphens=False))
    figure.suptitle(lines, fontsize=8.5, x=0.015, horizontalalignment="left")


def _blank(
    part: PartResult, alone: bool, title: str, *, height: float = _HEIGHT, width: float = _WIDTH
) -> tuple[Sketch, Axes]:
    figure = Figure(figsize=(width, height + (0.2 if alone else 0.0)), layout="constrained")
    axes = figure.add_subplot()
    if alone:
        headline(figure, part.label)
    return Sketch(figure, f"{title} on {part.label}"), axes


def _line_style(found: Look) -> dict[str, Any]:
    return {"color": found.color, "linestyle": found.line}


def _marker_style(found: Look) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": found.marker,
        "markersize": 7 if found.marker == "*" else 5,
        "markerfacecolor": PAPER if found.hollow else found.color,
        "markeredgecolor": found.color if found.hollow else PAPER,
        "markeredgewidth": 1.0 if found.hollow else 0.5,
    }


def _line(
    sketch: Sketch,
    axes: Axes,
    method: MethodInfo,
    x: Sequence[float] | Matrix,
    y: Sequence[float],
    tips: Sequence[str],
) -> None:
    axes.plot(x, y, gid=sketch.mark(method.name), **_line_style(look(method.name)))
    named = [(a, b, tip) for a, b, tip in zip(x, y, tips, strict=True) if tip]
    points(
        sketch,
        axes,
        method,
        [a for a, _, _ in named],
        [b for _, b, _ in named],
        [tip for _, _, tip in named],
    )


def points(
    sketch: Sketch,
    axes: Axes,
    method: MethodInfo,
    x: Sequence[float],
    y: Sequence[float],
    tips: Sequence[str],
) -> None:
    gid = sketch.mark(method.name, *tips)
    axes.plot(x, y, gid=gid, zorder=4, clip_on=False, **_marker_style(look(method.name)))


def row_of_seeds(
    sketch: Sketch,
    axes: Axes,
    y: float,
    method: MethodInfo,
    values: Mapping[int, float],
    found: Estimate,
    *,
    name: str | None = None,
    signed: bool = False,
) -> None:
    if found.n < 2:
        return
    unit = "points" if signed else "%"
    tips = [
        f"{name or method.title}, seed {seed}: {text.percent(value, signed=signed)} {unit}"
        for seed, value in values.items()
    ]
    axes.plot(
        [100 * value for value in values.values()],
        [y - 0.22] * len(values),
        linestyle="none",
        marker="o",
        markersize=2.4,
        alpha=0.65,
        color=look(method.name).color,
        markeredgewidth=0,
        gid=sketch.mark(method.name, *tips),
    )


def bar(
    sketch: Sketch,
    axes: Axes,
    method: str,
    found: Estimate,
    *,
    x: float | None = None,
    y: float = 0.0,
) -> None:
    if found.n < 2:
        return
    ends = [100 * found.low, 100 * found.high]
    xs, ys = (ends, [y, y]) if x is None else ([x, x], ends)
    axes.plot(
        xs,
        ys,
        color=look(method).color,
        linewidth=1.3 if found.is_interval else 0.7,
        linestyle="-",
        gid=sketch.mark(method),
    )


def method_rows(axes: Axes, titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), list(reversed(titles)))
    axes.set_ylim(-0.6, len(titles) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _iso_accuracy(axes: Axes, num_tasks: int) -> None:
    # ACC = LA + BWT (T - 1) / T, so a constant ACC is a straight line.
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    slope = (num_tasks - 1) / num_tasks
    crossing = (low + slope * bottom, high + slope * top)
    step = 5 if crossing[1] - crossing[0] <= 5 * _MAX_LINES else 10
    for level in range(0, 101, step):
        if not crossing[0] <= level <= crossing[1]:
            continue
        ends = [(level - x) / slope for x in (low, high)]
        axes.plot([low, high], ends, color=MUTED, linewidth=0.4, zorder=1)
        x = high if ends[1] >= bottom else level - slope * bottom
        axes.annotate(
            f"{level} %",
            (x, max(ends[1], bottom)),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=6,
            color=MUTED,
        )
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)


# Functions of this module, so that a figure can be sent to another process.
def _from_zero(zero: float, value: float, _: int | None = None) -> str:
    return "0" if value == zero else f"{value:g}"


def _two_and_five(value: float, _: int | None = None) -> str:
    return f"{value:g}" if f"{value:.0e}"[0] in ("2", "5") else ""


def _plain_log_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    low, high = axes.get_xlim()
    if high / low < 6:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
    elif high / low < 30:  # a decade has too few ticks of its own
        axes.xaxis.set_minor_formatter(FuncFormatter(_two_and_five))
        axes.tick_params(axis="x", which="minor", labelsize=7.5)
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(sketch: Sketch, rows: Sequence[MethodResult], alone: bool) -> None:
    if not alone:
        return
    handles = [
        Line2D([], [], label=m.title, **(_line_style(look(m.name)) | _handle(look(m.name))))
        for m in rows
        if m.runs or m.grid
    ]
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(4, len(handles), int(_WIDTH / (0.5 + 0.06 * longest))))
    lines = -(-len(handles) // columns)
    figure = sketch.figure
    figure.set_size_inches(_WIDTH, figure.get_figheight() + 0.16 * lines + 0.08)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.2)


def _handle(found: Look) -> dict[str, Any]:
    styled = _marker_style(found)
    return {key: value for key, value in styled.items() if key != "linestyle"}


def _mean_matrix(method: MethodResult) -> Matrix | None:
    shapes = {(len(run.matrix), len(run.matrix[0])) for run in method.runs.values()}
    if len(shapes) != 1:
        return None
    mean: Matrix = np.array([run.matrix for run in method.runs.values()]).mean(axis=0)
    return mean


def _matrix_axes(
    sketch: Sketch, axes: Axes, part: PartResult, method: MethodResult, matrix: Matrix
) -> QuadMesh:
    rows, columns = matrix.shape
    tips = [
        f"{method.title}, "
        + (f"after task {i + 1}" if rows > 1 else "after all tasks")
        + f": {text.percent(matrix[i, j])} % on task {j + 1}{_task(part, j + 1)}"
        for i in range(rows)
        for j in range(columns)
    ]
    mesh = axes.pcolormesh(
        np.arange(columns + 1) + 0.5,
        np.arange(rows + 1) + 0.5,
        100 * matrix,
        cmap=_MAP,
        vmin=0,
        vmax=100,
        edgecolor=PAPER,
        linewidth=0.4,
        gid=sketch.mark(method.name, *tips),
    )
    mesh.set(alpha=_faint(rows, columns))
    if columns <= _MAX_WRITTEN:
        _write_cells(axes, matrix)
    axes.set_ylim(rows + 0.5, 0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.tick_params(length=0)
    axes.set_xlabel("on task")
    if rows > 1:
        axes.set_ylabel("after task")
    else:
        axes.set_yticks([1], ["all"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def _faint(rows: int, columns: int) -> Matrix:
    # What had not been learned yet is pale; a joint run has learned all.
    alpha = np.ones((rows, columns))
    if rows > 1:
        alpha[np.triu_indices(rows, 1, columns)] = 0.3
    return alpha


def _write_cells(axes: Axes, matrix: Matrix) -> None:
    rows, columns = matrix.shape
    for i in range(rows):
        for j in range(columns if rows == 1 else i + 1):
            axes.text(
                j + 1,
                i + 1,
                text.number(100 * matrix[i, j], 0),
                ha="center",
                va="center",
                fontsize=6,
                color="#0b0b0b" if matrix[i, j] > 0.5 else "#fdfdfd",
            )


def _seeds(found: Estimate) -> str:
    return f"{found.n} seed" if found.n == 1 else f"{found.n} seeds"


def _task(part: PartResult, number: int) -> str:
    name = part.task_names[number - 1] if 0 < number <= len(part.task_names) else ""
    return f" ({name})" if name else ""
