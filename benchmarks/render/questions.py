"""Figures and tables of what some studies measure beside accuracy, and of parts of two tasks.

Each is drawn only where the records hold what it shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log2, nan
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from benchmarks.record import Overlap, Record
from benchmarks.render import text
from benchmarks.render.analysis import MethodResult, PartResult, StudyResult
from benchmarks.render.drawing import Sketch
from benchmarks.render.figures import Panel, bar, headline, method_rows, points, row_of_seeds
from benchmarks.render.palette import INK, MUTED, PAPER, look
from benchmarks.render.tables import Cell, Column, Row, Table, to_csv
from benchmarks.statistics import Estimate, estimate

__all__ = ["csv_files", "panels", "probe_table", "subset_table"]

_BATCH_GRADIENT = "mas_batch_gradient"


@dataclass(frozen=True)
class Quantity:
    """A number of a run that is drawn or tabled.

    Args:
        key: Short name.
        title: Label of an axis or head of a column.
        value: From a record to a number, a share of 1; ``nan`` where it is not defined.
    """

    key: str
    title: str
    value: Callable[[Record], float]


def panels() -> dict[str, Panel]:
    """List the figures by name, in the order of the report."""
    spread = (
        "Small points are seeds, the large one is their mean; a thick bar is a 95 % interval, a "
        "thin one the smallest and largest of fewer than 5 seeds, which is no interval."
    )
    made = (
        Panel(
            "two-tasks",
            "What the second task costs the first",
            f"Accuracy lost on the first task while the second is learned, and what is reached on "
            f"the second. {spread}",
            _two_tasks,
        ),
        Panel(
            "subset",
            "What is kept of the classes in use and of the others",
            "Accuracy lost on the first task from when it was learned to the end, on the classes "
            "that stay in use and on its other classes, and the accuracy that later tasks reach "
            f"when they are learned. {spread}",
            _subset,
        ),
        Panel(
            "probes",
            "What the network forgets and what its features forget",
            "Accuracy lost from right after a task was learned to the end, averaged over all tasks "
            "but the last. Filled: of the network's own answers. Hollow: of a logistic regression "
            "fitted anew to the frozen features. What lies between the two is forgotten by the "
            "output layer alone.",
            _probes,
        ),
        Panel(
            "overlap",
            "Do tasks find the same parameters important?",
            "Rank correlation between what each pair of tasks adds to the importance, within each "
            "shared layer, averaged over layers and seeds, for the first method that has it.",
            _overlap,
        ),
        Panel(
            "overlap-layers",
            "Overlap of importance by layer",
            "Rank correlation between the importance of two tasks, averaged over pairs of tasks, "
            "from the layer next to the input to the last shared one; a bar is the 95 % interval "
            "over seeds (with fewer than 5: the smallest and largest).",
            _overlap_layers,
        ),
        Panel(
            "exactness",
            "What exact importance buys",
            "Importance from the magnitude of mini-batch gradients, by samples in one. Above, the "
            "final average accuracy on test data, each with its own best λ; the level line and "
            "band are MAS with exact importance. Below, that λ.",
            _exactness,
        ),
    )
    return {panel.name: panel for panel in made}


def subset_table(part: PartResult) -> Table | None:
    """Give what is kept of the classes in use and of the others.

    Args:
        part: The part.

    Returns:
        A row a method; None where no classes were set apart.
    """
    return _table(
        part,
        "subset",
        f"{part.label}: classes of the first task in use, and the others",
        ("Lost: accuracy right after the first task minus accuracy at the end.",),
    )


def probe_table(part: PartResult) -> Table | None:
    """Give the accuracy of the network and of linear probes on its features.

    Args:
        part: The part.

    Returns:
        A row a method; None where nothing was probed.
    """
    return _table(
        part,
        "probes",
        f"{part.label}: the network's answers and linear probes of its features",
        (
            "Averages over all tasks but the last. A probe is scikit-learn's logistic regression "
            "with its default penalty, on standardised features that go into the last linear "
            "layer; it is fitted to the task's training data and measured on its test data.",
        ),
    )


def csv_files(result: StudyResult) -> dict[str, str]:
    """Write every number that these figures are made of.

    Args:
        result: The study.

    Returns:
        Text by file name, without files that would be empty.
    """
    records = [r for r in result.records if r.role == "evaluation" and r.status == "finished"]
    head = ("part", "method", "strength", "seed")
    kept = [
        (*_place(r), r.task_names[i], value, others)
        for r in records
        if r.subset is not None
        for i, (value, others) in enumerate(zip(r.subset.in_use, r.subset.others, strict=True))
    ]
    probed = [
        (*_place(r), *row)
        for r in records
        if r.probes is not None
        for row in zip(
            r.task_names, r.probes.initial, r.probes.learned, r.probes.final, strict=True
        )
    ]
    alike = [
        (*_place(r), found.layer, r.task_names[i], r.task_names[j], value)
        for r in records
        for found in r.overlap
        for i, row in enumerate(found.correlation)
        for j, value in enumerate(row[:i])
    ]
    files = {
        "subset.csv": [(*head, "after_task", "in_use", "others"), *kept],
        "probes.csv": [(*head, "task", "untrained", "learned", "final"), *probed],
        "overlap.csv": [(*head, "layer", "task", "other_task", "rank_correlation"), *alike],
    }
    return {name: to_csv(rows) for name, rows in files.items() if len(rows) > 1}


def _place(record: Record) -> tuple[object, ...]:
    return record.part, record.method, record.strength, record.seed


def _two_tasks(part: PartResult, alone: bool) -> Sketch | None:
    if len(part.task_names) != 2:
        return None
    return _rows(part, alone, _QUANTITIES["two-tasks"], "The first task and the second")


def _subset(part: PartResult, alone: bool) -> Sketch | None:
    shown = [q for q in _QUANTITIES["subset"] if q.key in ("lost_subset", "lost_rest", "later")]
    return _rows(part, alone, shown, "Classes in use, other classes and later tasks")


def _rows(part: PartResult, alone: bool, shown: Sequence[Quantity], title: str) -> Sketch | None:
    """Draw a row a method and a panel a quantity."""
    rows = [m for m in part.methods if not m.info.joint and _values(m, shown[0])]
    if not rows:
        return None
    height = 0.55 + 0.24 * len(rows) + (0.2 if alone else 0.0)
    longest = max(len(m.title) for m in rows)
    width = 0.2 + 0.058 * longest + 1.6 * len(shown)
    figure = Figure(figsize=(width, height), layout="constrained")
    sketch = Sketch(figure, f"{title} on {part.label}")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, shown, strict=True):
        for position, method in enumerate(rows):
            y = len(rows) - 1 - position
            values = _values(method, quantity)
            found = _estimate(method, quantity)
            row_of_seeds(sketch, axes, y, method.info, values, found)
            bar(sketch, axes, method.name, found, y=y)
            tip = f"{method.title}, {quantity.title}: {_written(quantity, found)}"
            points(sketch, axes, method.info, [100 * found.mean], [y], [tip])
        method_rows(axes, [m.title for m in rows])
        axes.set_xlabel(quantity.title)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.1)
        low, high = axes.get_xlim()
        if low < 0 < high:
            axes.axvline(0, color=INK, linewidth=0.6, zorder=1)
    if alone:
        headline(figure, part.label)
    return sketch


def _probes(part: PartResult, alone: bool) -> Sketch | None:
    lost, lost_probe = (q for q in _QUANTITIES["probes"] if q.key in ("lost", "lost_probe"))
    rows = [m for m in part.methods if not m.info.joint and _values(m, lost_probe)]
    if not rows:
        return None
    height = 0.75 + 0.26 * len(rows) + (0.2 if alone else 0.0)
    figure = Figure(figsize=(3.8, height), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"What the network and its features forget on {part.label}")
    for position, method in enumerate(rows):
        y = float(len(rows) - 1 - position)
        whole = _estimate(method, lost)
        probe = _estimate(method, lost_probe)
        color = look(method.name).color
        gid = sketch.mark(method.name)
        axes.plot([100 * probe.mean, 100 * whole.mean], [y, y], color=color, alpha=0.3, gid=gid)
        for found, up in ((whole, 0.09), (probe, -0.09)):
            bar(sketch, axes, method.name, found, y=y + up)
        tips = (
            f"{method.title}, the network's answers: {text.percent_interval(whole)} % lost",
            f"{method.title}, a probe of its features: {text.percent_interval(probe)} % lost",
        )
        points(sketch, axes, method.info, [100 * whole.mean], [y + 0.09], tips[:1])
        axes.plot(
            [100 * probe.mean],
            [y - 0.09],
            linestyle="none",
            marker=look(method.name).marker,
            markersize=5,
            markerfacecolor=PAPER,
            markeredgecolor=color,
            markeredgewidth=1.0,
            zorder=4,
            gid=sketch.mark(method.name, tips[1]),
        )
    method_rows(axes, [m.title for m in rows])
    axes.axvline(0, color=INK, linewidth=0.6, zorder=1)
    axes.set_xlabel("Accuracy lost on earlier tasks, points")
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=MUTED, label="the network's answers"),
        Line2D(
            [], [], linestyle="none", marker="o", color=MUTED, markerfacecolor=PAPER,
            label="a new probe of its features",
        ),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    if alone:
        headline(figure, part.label)
    return sketch


def _overlap(part: PartResult, alone: bool) -> Sketch | None:
    method = next((m for m in part.methods if _overlaps(m)), None)
    if method is None:
        return None
    mean = _mean_of_known([_over_layers(overlap) for overlap in _overlaps(method).values()])
    size = len(mean)
    figure = Figure(figsize=(3.0, 2.6), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Overlap of the importance of tasks, {method.title} on {part.label}")
    names = part.task_names
    tips = [
        f"{names[i]} and {names[j]}: {text.number(mean[i, j], 2)}"
        for i in range(size)
        for j in range(size)
    ]
    mesh = axes.pcolormesh(
        mean, cmap="cividis", vmin=0, vmax=1, edgecolor=PAPER, linewidth=0.4,
        gid=sketch.mark(method.name, *tips),
    )  # fmt: skip
    if size <= 8:
        for i in range(size):
            for j in range(size):
                axes.text(
                    j + 0.5, i + 0.5, text.number(mean[i, j], 2), ha="center", va="center",
                    fontsize=6, color="#0b0b0b" if mean[i, j] > 0.5 else "#fdfdfd",
                )  # fmt: skip
    short = all(len(name) <= 10 for name in names)
    labels = names if short else [str(n) for n in range(1, size + 1)]
    axes.set_xticks(np.arange(size) + 0.5, labels, rotation=35 if short else 0)
    axes.set_yticks(np.arange(size) + 0.5, labels)
    for label in axes.get_xticklabels():
        label.set(ha="right" if short else "center", rotation_mode="anchor")
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    colors = figure.colorbar(mesh, ax=axes, shrink=0.8, aspect=25)
    colors.set_label("rank correlation")
    colors.outline.set_linewidth(0.5)
    if alone:
        headline(figure, f"{part.label}, {method.title}")
    return sketch


def _overlap_layers(part: PartResult, alone: bool) -> Sketch | None:
    rows = [m for m in part.methods if _overlaps(m)]
    if not rows:
        return None
    layers = [found.layer for found in next(iter(_overlaps(rows[0]).values()))]
    if len(layers) < 2:
        return None
    figure = Figure(figsize=(3.8, 2.5 + (0.2 if alone else 0.0)), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Overlap of importance by layer on {part.label}")
    for number, method in enumerate(rows):
        shift = 0.08 * (number - (len(rows) - 1) / 2)
        x = [place + shift for place in range(len(layers))]
        by_layer = [
            estimate([_over_pairs(o, layer) for o in _overlaps(method).values()])
            for layer in layers
        ]
        means = [found.mean for found in by_layer]
        axes.plot(
            x, means, color=look(method.name).color, linestyle=look(method.name).line,
            gid=sketch.mark(method.name),
        )  # fmt: skip
        for place, found in zip(x, by_layer, strict=True):
            axes.plot(
                [place, place], [found.low, found.high], color=look(method.name).color,
                linewidth=1.3 if found.is_interval else 0.7, gid=sketch.mark(method.name),
            )  # fmt: skip
        tips = [
            f"{method.title}, {layer}: {text.number(mean, 2)}"
            for layer, mean in zip(layers, means, strict=True)
        ]
        points(sketch, axes, method.info, x, means, tips)
    axes.set_xticks(range(len(layers)), [_short_layer(name) for name in layers])
    axes.set_xlabel("shared layer, from the input on")
    axes.set_ylabel("rank correlation")
    if alone:
        headline(figure, part.label)
        handles = [
            Line2D([], [], label=m.title, color=look(m.name).color, marker=look(m.name).marker)
            for m in rows
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(rows)))
    return sketch


def _short_layer(name: str) -> str:
    return name.removeprefix("trunk.").replace("classifier", "fc").replace("features", "conv")


def _exactness(part: PartResult, alone: bool) -> Sketch | None:
    found_sizes = [
        (int(variant.options["batch_size"]), method)
        for name, variant in part.part.variants.items()
        if variant.method == _BATCH_GRADIENT
        and (method := part.method(name)) is not None
        and method.runs
    ]
    series = sorted(found_sizes, key=lambda pair: pair[0])
    if len(series) < 2:
        return None
    exact = part.method("mas")
    figure = Figure(figsize=(3.8, 3.2 + (0.2 if alone else 0.0)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    sketch = Sketch(figure, f"Accuracy and best strength by samples a mini-batch on {part.label}")
    ends = [log2(series[0][0]) - 0.5, log2(series[-1][0]) + 0.5]
    if exact is not None and exact.runs:
        found = exact.estimates["average_accuracy"]
        color = look("mas").color
        above.fill_between(
            ends, [100 * found.low] * 2, [100 * found.high] * 2, color=color, alpha=0.14,
            linewidth=0, gid=sketch.mark("mas"),
        )  # fmt: skip
        above.plot(ends, [100 * found.mean] * 2, color=color, gid=sketch.mark("mas"))
        above.annotate(
            f"{exact.title}, exact", (ends[0], 100 * found.mean), xytext=(2, 3),
            textcoords="offset points", fontsize=6.5, color=color,
        )  # fmt: skip
        tip = f"{exact.title}, exact: {text.percent_interval(found)} %"
        points(sketch, above, exact.info, [ends[1]], [100 * found.mean], [tip])
        if exact.used:
            below.plot(ends, [exact.used[0]] * 2, color=color, gid=sketch.mark("mas"))
            tip = f"{exact.title}, exact: λ = {text.strength(exact.used[0])}"
            points(sketch, below, exact.info, [ends[1]], [exact.used[0]], [tip])
    joined = [log2(size) for size, _ in series]
    means = [100 * m.estimates["average_accuracy"].mean for _, m in series]
    above.plot(joined, means, color=MUTED, linewidth=0.8, gid=sketch.mark(None))
    below.plot(
        joined, [m.used[0] if m.used else nan for _, m in series], color=MUTED, linewidth=0.8,
        gid=sketch.mark(None),
    )  # fmt: skip
    for size, method in series:
        found = method.estimates["average_accuracy"]
        bar(sketch, above, method.name, found, x=log2(size))
        tip = f"{method.title}: {text.percent_interval(found)} %"
        points(sketch, above, method.info, [log2(size)], [100 * found.mean], [tip])
        if method.used:
            tip = f"{method.title}: λ = {text.strength(method.used[0])}"
            points(sketch, below, method.info, [log2(size)], [method.used[0]], [tip])
    below.set_yscale("log")
    below.yaxis.set_minor_locator(NullLocator())
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    below.margins(y=0.2)
    below.set_xticks(joined, [str(size) for size, _ in series])
    below.set_xlim(ends[0] - 0.1, ends[1] + 0.1)
    below.set_xlabel("Samples a mini-batch")
    below.set_ylabel("best λ")
    above.set_ylabel("Average accuracy, %")
    if alone:
        headline(figure, part.label)
    return sketch


def _table(part: PartResult, kind: str, caption: str, notes: tuple[str, ...]) -> Table | None:
    shown = _QUANTITIES[kind]
    rows = []
    estimates = []
    for method in part.methods:
        if method.info.joint or not _values(method, shown[-1]):
            continue
        cells = [Cell(method.title)]
        for quantity in shown:
            found = _estimate(method, quantity)
            estimates.append(found)
            note = f"n = {found.n}"
            cells.append(Cell(_written(quantity, found), found.mean, note=note))
        rows.append(Row(tuple(cells), method.name))
    if not rows:
        return None
    columns = (Column("Method", numeric=False), *(Column(q.title) for q in shown))
    notes = (*notes, text.interval_words(estimates))
    return Table(f"{part.name}-{kind}", caption, columns, tuple(rows), notes)


def _values(method: MethodResult, quantity: Quantity) -> dict[int, float]:
    found = {seed: quantity.value(run.record) for seed, run in method.runs.items()}
    return {seed: value for seed, value in found.items() if isfinite(value)}


def _estimate(method: MethodResult, quantity: Quantity) -> Estimate:
    return estimate(list(_values(method, quantity).values()))


def _written(quantity: Quantity, found: Estimate) -> str:
    signed = quantity.title.endswith("points")
    return text.points_interval(found) if signed else text.percent_interval(found)


def _overlaps(method: MethodResult) -> Mapping[int, tuple[Overlap, ...]]:
    found = {seed: run.record.overlap for seed, run in method.runs.items()}
    return {seed: overlap for seed, overlap in found.items() if overlap}


def _over_layers(overlap: Sequence[Overlap]) -> NDArray[np.float64]:
    return _mean_of_known([found.correlation for found in overlap])


def _mean_of_known(matrices: Sequence[Any]) -> NDArray[np.float64]:
    """Average entry by entry what is finite; ``nan`` where nothing is."""
    stacked = np.array(matrices, dtype=np.float64)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), nan)
    return mean


def _over_pairs(overlap: Sequence[Overlap], layer: str) -> float:
    found = next((o.correlation for o in overlap if o.layer == layer), ((nan,),))
    matrix = np.array(found, dtype=np.float64)
    pairs = matrix[np.tril_indices(len(matrix), -1)]
    pairs = pairs[np.isfinite(pairs)]
    return float(pairs.mean()) if len(pairs) else nan


def _test(record: Record) -> NDArray[np.float64]:
    return np.array(record.accuracy["test"], dtype=np.float64)


def _lost_subset(record: Record) -> float:
    return nan if record.subset is None else record.subset.in_use[0] - record.subset.in_use[-1]


def _lost_rest(record: Record) -> float:
    return nan if record.subset is None else record.subset.others[0] - record.subset.others[-1]


def _at_end(record: Record, which: str) -> float:
    return nan if record.subset is None else float(getattr(record.subset, which)[-1])


def _later(record: Record) -> float:
    matrix = _test(record)
    return nan if len(matrix) < 2 else float(np.diag(matrix)[1:].mean())


def _early(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values[:-1])) if len(values) > 1 else nan


def _learned(record: Record) -> float:
    matrix = _test(record)
    return _early(np.diag(matrix)) if len(matrix) > 1 else nan


def _final(record: Record) -> float:
    matrix = _test(record)
    return _early(matrix[-1]) if len(matrix) > 1 else nan


def _probe(record: Record, which: str) -> float:
    return nan if record.probes is None else _early(getattr(record.probes, which))


_QUANTITIES = {
    "two-tasks": (
        Quantity("lost_first", "First task lost, points", lambda r: _learned(r) - _final(r)),
        Quantity("second", "Second task, %", _later),
    ),
    "subset": (
        Quantity("subset", "In use at the end, %", lambda r: _at_end(r, "in_use")),
        Quantity("lost_subset", "In use: lost, points", _lost_subset),
        Quantity("rest", "Others at the end, %", lambda r: _at_end(r, "others")),
        Quantity("lost_rest", "Others: lost, points", _lost_rest),
        Quantity("later", "Later tasks, %", lambda r: nan if r.subset is None else _later(r)),
    ),
    "probes": (
        Quantity("learned", "Network when learned, %", _learned),
        Quantity("final", "Network at the end, %", _final),
        Quantity("lost", "Network lost, points", lambda r: _learned(r) - _final(r)),
        Quantity("probe_initial", "Probe untrained, %", lambda r: _probe(r, "initial")),
        Quantity("probe_learned", "Probe when learned, %", lambda r: _probe(r, "learned")),
        Quantity("probe_final", "Probe at the end, %", lambda r: _probe(r, "final")),
        Quantity(
            "lost_probe", "Probe lost, points", lambda r: _probe(r, "learned") - _probe(r, "final")
        ),
    ),
}
