"""The page of the timings: a pure function of their record."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from benchmarks.render import page
from benchmarks.render.analysis import describe_method
from benchmarks.render.tables import Cell, Column, Row, Table

__all__ = ["TITLE", "build"]

TITLE = "What exactness, the penalty and Avalanche cost"

_METHODS = {
    "ours": "mas_avalanche",
    "ours-without-kernel": "mas_avalanche, without the compiled kernel",
    "plain": "plain mini-batch pass",
    "one-at-a-time": "one sample at a time",
    "vmap": "torch.func.vmap",
    "backpack": "BackPACK",
    "opacus": "Opacus",
    "naive": "no penalty",
    "gradient": "mas_avalanche, gradient form",
    "proximal": "mas_avalanche, proximal form",
    "avalanche": "Avalanche's MASPlugin",
}

_FAMILIES = ("naive", "mas", "ewc", "ewc_online", "si", "lwf")


def build(record: Mapping[str, Any]) -> dict[str, bytes]:
    """Make the files of the page.

    Args:
        record: What ``python -m benchmarks speed`` has measured.

    Returns:
        Content by path within the folder: ``README.md`` and ``index.html``.
    """
    found = {name: section["found"] for name, section in record.items()}
    sections = [
        {"name": name, "title": title, "text": text, "tables": make(found[part])}
        for name, part, title, text, make in _SECTIONS
        if part in found
    ]
    context = {
        "title": TITLE,
        "sections": [section for section in sections if section["tables"]],
        "environment": _environment(record),
    }
    return {
        "README.md": page.write("speed.md.j2", context),
        "index.html": page.write("speed.html.j2", context),
    }


def _environment(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what was measured on; where sections differ, each value names its own."""
    lines = []
    for key in sorted({key for section in record.values() for key in section["environment"]}):
        parts: dict[str, list[str]] = {}
        for name, section in sorted(record.items()):
            parts.setdefault(str(section["environment"].get(key, "not known")), []).append(name)
        values = [
            value if len(parts) == 1 else f"{value} ({', '.join(names)})"
            for value, names in parts.items()
        ]
        lines.append((key, "; ".join(values)))
    return lines


_IMPORTANCE = (
    "The yardstick is a plain mini-batch forward and backward pass on the same data. It computes "
    "the wrong thing, the gradient of the mini-batch, but it is the least that anyone can pay. "
    "Every round times each method once, in turn; ratios are taken round by round, and the medians "
    "are shown. Peers compute the same numbers as we do: the last column is the largest relative "
    "difference over the tensors. Memory is the peak beyond model and data in a fresh process; it "
    "includes activations, which the plain pass needs too."
)
_PROFILE = (
    "The operations that take the most time by themselves, as torch's profiler sees them, in our "
    "pass and in the plain one. What ours has beyond the plain pass is the magnitude: each "
    "per-sample kernel gradient of a convolution has to be formed before its absolute value can be "
    "taken, so that part is bound by the cache, not by arithmetic. Linear layers that are fed one "
    "vector a sample need no per-sample gradient at all: one product of magnitudes is exact."
)
_FLOOR = (
    "The plain pass adds the weight gradient of all samples in one product, over mini-batch times "
    "positions. Exactness needs as many multiply-adds, but in one product a sample, over its "
    "positions alone, and then a magnitude. The fewer positions, the less a matrix product has to "
    "do for each number that it reads and writes, and the slower it runs: that is the floor under "
    "layers that see several positions of a sample. In multiply-adds a second, so higher is "
    "better: the product over a mini-batch and the bare products sample by sample, without any "
    "magnitude, both by torch; and ours, which takes the magnitude in the registers where a "
    "product is formed and adds it up. What is left above the plain pass is not arithmetic but "
    "memory and Python: operands of convolutions are copied so that channels lie last, importance "
    "is read and written once more with each mini-batch, every call into torch is met, and a call "
    "has a part that does not grow with its samples: it plans, fills the importance with zeros "
    "and divides it. With many weights and few samples, as for AlexNet here, that part shows as "
    "`aten::fill_`."
)
_PENALTY = (
    "One training step of MultiHeadAlexNet through Avalanche's own loop; candidates differ in the "
    "plugins alone, and the learning rate is zero so that all work on the same weights."
)
_TRAINING = (
    "One epoch of training and one evaluation pass, by a plain loop over tensors, through "
    "Avalanche on mini-batches cut from tensors (`TensorBatches`), and through Avalanche as it is."
)
_EVERY_METHOD = (
    "The second task of each method on mini-batches of 128 cut from tensors, trained from scratch"
    " in every round. Times are in epochs of a plain loop over the same tensors, without "
    "evaluation. Consolidation is what a method does once at the end of a task: one pass over its"
    " data for importance, next to nothing for SI and LwF. In training, a quadratic penalty walks"
    " once over importance, anchor and weights; SI also follows the path of every weight; LwF "
    "runs its teacher on every mini-batch, a second forward pass. On a small network the rest is "
    "the Python of Avalanche's loop, a fixed time an iteration."
)
_OVERHEAD = (
    "Whole runs of published studies on fewer tasks or samples: data, training, importance and the "
    "whole accuracy matrix. An importance pass takes most of an epoch's time, so what it adds "
    "depends on the epochs that a task is trained for. Where these are few, MAS need not read all "
    "data: the last row (`mas_sampled`, `MASPlugin(..., tolerance=...)`) reads samples at random "
    "until the standard error of the importance, relative to its norm, is below the tolerance. "
    "What is left then is the penalty, a walk over importance and anchor in every iteration. It "
    "shows in fully connected networks, where a weight takes part in few multiply-adds, the more "
    "so where a processor multiplies fast beside the speed of its memory."
)
_GROWTH = (
    "The last of several tasks. A consolidated penalty holds one importance and one anchor a "
    "parameter however many tasks there were, so neither its time nor its memory grows with them,"
    " beyond the heads themselves; Avalanche's EWC keeps a penalty a task. Where networks widen, "
    "the matrix products grow as the penalty does, with the number of weights, and the fixed "
    "overhead of an iteration counts for less and less. Data is read a mini-batch at a time: the "
    "time of an importance pass grows with the number of samples, and its memory does not. "
    "Methods are timed on a few mini-batches in three rounds: read trends, not second decimals."
)
_STUDY = (
    "One run of every method of every part of the study, with its record, its mirror for Weights & "
    "Biases (without network) and the report at the end, in one process under Python's profiler. "
    "A share is the time that a function spends by itself, without what it calls; the profiler "
    "slows Python's own work down and so makes too much of it. A function has several lines, so "
    "none of its lines can take more than it does. What torch computes for a Python operator, as "
    "in `x[index]`, counts as the function's own time."
)


def _importance_table(case: Mapping[str, Any]) -> Table:
    rows = []
    for name, found in sorted(case["methods"].items(), key=lambda item: item[1]["ratio"]):
        samples = case["batch_size"] * case["batches"]
        error = found["relative_error"]
        rows.append(
            Row(
                (
                    Cell(_METHODS[name]),
                    _number(found["ratio"], "{:.2f}"),
                    _number(1e3 * found["median_seconds"] / samples, "{:.3g}"),
                    _number(_mebibytes(found["peak_bytes"]), "{:,.0f}"),
                    Cell("0", 0.0) if error == 0 else _number(error, "{:.0e}"),
                )
            )
        )
    columns = (
        Column("method", numeric=False),
        Column("time / plain pass"),
        Column("ms a sample"),
        Column("peak memory, MiB"),
        Column("relative difference"),
    )
    size = f"{case['parameters']:,} parameters, {4 * case['parameters'] / 2**20:,.0f} MiB"
    return Table(f"importance-{case['name']}", f"{case['title']} ({size})", columns, tuple(rows))


def _profile_table(case: Mapping[str, Any]) -> Table:
    share = {
        name: {entry["operation"]: entry["share"] for entry in entries}
        for name, entries in case["profile"].items()
    }
    names = sorted(
        share["ours"].keys() | share["plain"].keys(),
        key=lambda n: (-share["ours"].get(n, 0.0), -share["plain"].get(n, 0.0), n),
    )
    rows = tuple(
        Row(
            (
                Cell(name),
                _number(_percent(share["ours"].get(name)), "{:.1f} %"),
                _number(_percent(share["plain"].get(name)), "{:.1f} %"),
            )
        )
        for name in names[:10]
    )
    columns = (Column("operation", numeric=False), Column("of ours"), Column("of the plain pass"))
    return Table(f"profile-{case['name']}", case["title"], columns, rows)


def _floor_tables(products: Mapping[str, Any]) -> list[Table]:
    rows = tuple(
        Row(
            (
                Cell(name),
                Cell(f"{found['outputs']:,} x {found['inputs']:,}"),
                _number(found["positions"], "{:,d}"),
                *(_number(found[way] / 1e9, "{:.1f}") for way in ("batch", "each", "magnitudes")),
                _number(found["batch"] / found["magnitudes"], "{:.2f}"),
            )
        )
        for name, found in products.items()
    )
    columns = (
        Column("layer", numeric=False),
        Column("weights"),
        Column("positions"),
        Column("mini-batch, 10⁹/s"),
        Column("each sample, 10⁹/s"),
        Column("ours, 10⁹/s"),
        Column("time of ours / mini-batch"),
    )
    title = "weight gradients by themselves"
    return [Table("floor", title, columns, rows)] if rows else []


def _penalty_table(found: Mapping[str, Any]) -> Table:
    title = (
        f"{found['what']}, {found['parameters']:,} parameters, batch {found['batch_size']}, "
        f"{found['image_size']} pixels"
    )
    return _ratio_table("penalty", title, "time / no penalty", found["results"])


def _training_table(name: str, found: Mapping[str, Any]) -> Table:
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return _ratio_table(f"training-{slug}", name, "time / plain loop", found)


def _ratio_table(
    name: str,
    title: str,
    ratio: str,
    results: Mapping[str, Any],
    parts: Sequence[tuple[str, str]] = (),
) -> Table:
    """One row a candidate; ``parts`` names further seconds of each, with their headings."""
    rows = tuple(
        Row(
            (
                Cell(_METHODS.get(candidate, candidate)),
                _number(found["ratio"], "{:.2f}"),
                Cell("{:.2f} to {:.2f}".format(*found["ratio_range"])),
                *(_number(found[key], "{:.3g}") for key in ("seconds", *dict(parts))),
                _number(found["rounds"], "{:d}"),
            )
        )
        for candidate, found in results.items()
    )
    columns = (
        Column("candidate", numeric=False),
        Column(ratio),
        Column("range over rounds"),
        Column("seconds, median"),
        *(Column(heading) for _, heading in parts),
        Column("rounds"),
    )
    return Table(name, title, columns, rows)


def _overhead_table(name: str, found: Mapping[str, Any]) -> Table:
    cut = ", ".join(f"{key} {_listed(value)}" for key, value in sorted(found["stream"].items()))
    title = (
        f"{found['title']} (here {cut}); epochs a task: {found['epochs']}, threads: "
        f"{found['threads']}, tolerance: {100 * found['tolerance']:g} %"
    )
    results = found["results"]
    titled = {describe_method(method).title: results[method] for method in _in_order(results)}
    parts = (("consolidation", "of these importance"),)
    return _ratio_table(f"overhead-{name}", title, "time / naive", titled, parts)


def _listed(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:,}"


def _study_tables(found: Mapping[str, Any]) -> list[Table]:
    title = f"{found['title']}: {found['runs']} runs, {found['seconds']:,.0f} s under the profiler"
    shares = sorted(found["shares"].items(), key=lambda item: -item[1])
    packages = tuple(
        Row((Cell(name), _number(_percent(share), "{:.1f} %"))) for name, share in shares[:8]
    )
    functions = tuple(
        Row((Cell(one["name"]), _number(_percent(one["share"]), "{:.1f} %")))
        for one in found["functions"]
    )
    return [
        Table(
            "study-packages", title, (Column("package", numeric=False), Column("share")), packages
        ),
        Table(
            "study-functions",
            "What takes most outside torch",
            (Column("function", numeric=False), Column("share")),
            functions,
        ),
    ]


def _methods_table(name: str, title: str, found: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                Cell(describe_method(method).title),
                _number(one["training"], "{:.2f}"),
                Cell("{:.2f} to {:.2f}".format(*one["training_range"])),
                _number(one["consolidation"], "{:.2f}"),
                _number(one["stored"], "{:.2f}"),
            )
        )
        for method in _in_order(found)
        for one in [found[method]]
    )
    columns = (
        Column("method", numeric=False),
        Column("training / plain epoch"),
        Column("range over rounds"),
        Column("consolidation / plain epoch"),
        Column("numbers stored a parameter"),
    )
    return Table(name, title, columns, rows)


_QUANTITIES = (
    ("training", "training / plain epoch"),
    ("consolidation", "consolidation / plain epoch"),
    ("stored", "numbers stored a parameter"),
)


def _growth_tables(growth: Mapping[str, Any]) -> list[Table]:
    """One table a quantity: methods down, sizes across."""
    axes = (
        ("tasks", "{} tasks", "multi-head MLP 784-400-400"),
        ("width", "width {}", "MLP 784-W-W-10"),
    )
    return [
        Table(
            f"{axis}-{quantity}",
            f"{title} ({network})",
            (
                Column("method", numeric=False),
                *(Column(label.format(f"{int(size):,}")) for size in sizes),
            ),
            tuple(
                Row(
                    (
                        Cell(describe_method(method).title),
                        *(_number(sizes[size][method][quantity], "{:.2f}") for size in sizes),
                    )
                )
                for method in _in_order(next(iter(sizes.values())))
            ),
        )
        for axis, label, network in axes
        for sizes in [_by_size(growth[axis])]
        for quantity, title in _QUANTITIES
    ]


def _data_table(found: Mapping[str, Any]) -> Table:
    rows = tuple(
        Row(
            (
                Cell(f"{int(count):,}", order=float(count)),
                _number(one["seconds"], "{:.3g}"),
                _number(1e6 * one["seconds"] / int(count), "{:.3g}"),
                _number(one["ratio"], "{:.2f}"),
                _number(_mebibytes(one["peak_bytes"]), "{:,.0f}"),
            )
        )
        for count, one in _by_size(found).items()
    )
    columns = (
        Column("samples"),
        Column("seconds"),
        Column("µs a sample"),
        Column("time / plain pass"),
        Column("peak memory, MiB"),
    )
    return Table("data", "Importance of an MLP 784-400-400-10 from images of bytes", columns, rows)


_SECTIONS = (
    (
        "importance",
        "importance",
        "Importance",
        _IMPORTANCE,
        lambda found: [_importance_table(case) for case in found["cases"]],
    ),
    (
        "profile",
        "importance",
        "Where the time of importance goes",
        _PROFILE,
        lambda found: [_profile_table(case) for case in found["cases"]],
    ),
    (
        "floor",
        "importance",
        "The floor of importance",
        _FLOOR,
        lambda found: _floor_tables(found.get("products", {})),
    ),
    ("penalty", "penalty", "Penalty", _PENALTY, lambda found: [_penalty_table(found)]),
    (
        "training",
        "training",
        "Training through Avalanche",
        _TRAINING,
        lambda found: [_training_table(name, table) for name, table in found.items()],
    ),
    ("study", "study", "Where the time of a study goes", _STUDY, _study_tables),
    (
        "methods",
        "methods",
        "Every method",
        _EVERY_METHOD,
        lambda found: [_methods_table("methods", "MLP 784-400-400-10", found)],
    ),
    (
        "overhead",
        "overhead",
        "What MAS adds to a study",
        _OVERHEAD,
        lambda found: [_overhead_table(name, one) for name, one in found.items()],
    ),
    (
        "growth",
        "growth",
        "As tasks, networks and data grow",
        _GROWTH,
        lambda found: [*_growth_tables(found), _data_table(found["data"])],
    ),
)
"""Name, what it shows of the record, title, text and tables of each section of the page."""


def _by_size(found: Mapping[str, Any]) -> dict[str, Any]:
    """Sort by a number that is written as text, as keys of JSON are."""
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _in_order(methods: Iterable[str]) -> list[str]:
    """Sort methods as studies list them, variants behind their method, others last."""

    def rank(name: str) -> tuple[int, bool, str]:
        method = describe_method(name)
        family = method.variant_of or name
        place = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
        return place, method.variant_of is not None, method.title

    return sorted(methods, key=rank)


def _number(value: float | None, form: str) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(form.format(value), order=float(value)) if isfinite(value) else Cell("not defined")


def _mebibytes(value: int | None) -> float | None:
    return None if value is None else value / 2**20


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
