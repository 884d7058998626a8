"""Two reports side by side: two studies, or two versions of one.

What is compared are the records: for each part and method that both have, how much the average
accuracy, the forgetting and the time changed, and whether beyond noise. Runs of the same seed are
paired. What differs in configuration and environment is listed, so that a change of numbers can be
told from a change of what was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.metrics import Metric
from benchmarks.record import Record, read_lines
from benchmarks.render import content, page, text
from benchmarks.render.analysis import (
    COSTS,
    PAIRED_METRICS,
    MethodInfo,
    Run,
    describe_method,
    measure,
)
from benchmarks.render.drawing import Sketch, inline_svg, png, style, svg
from benchmarks.render.figures import bar, headline, method_rows, points, row_of_seeds
from benchmarks.render.files import replace_folder
from benchmarks.render.palette import INK
from benchmarks.render.tables import Cell, Column, Row, Table, to_csv
from benchmarks.statistics import (
    Estimate,
    beyond_noise,
    estimate,
    holm,
    paired_difference,
    unpaired_difference,
    welch_p_value,
)

__all__ = ["Change", "build_comparison", "changes", "compare", "config_changes"]

_COMPARED = (*PAIRED_METRICS, COSTS[0])
_Key = tuple[str, str]


@dataclass(frozen=True)
class Change:
    """What became of one number.

    Args:
        part: Name of the part.
        method: The method.
        metric: What is compared.
        before: In the first.
        after: In the second.
        difference: Second minus first.
        by_seed: The difference by seed; empty where the two share no seed.
        same: Whether every shared run has the same accuracy matrix to the last digit.
        p_value: Of the paired t-test, or of Welch's where no seed is shared.
        p_holm: The same after Holm's correction over all changes of the metric.
    """

    part: str
    method: MethodInfo
    metric: Metric
    before: Estimate
    after: Estimate
    difference: Estimate
    by_seed: Mapping[int, float]
    same: bool
    p_value: float
    p_holm: float = nan

    @property
    def verdict(self) -> str:
        """Whether the change is beyond noise, in words."""
        if self.same and self.metric in PAIRED_METRICS:
            return "the same runs"
        if not self.difference.is_interval:
            return "too few seeds"
        if not beyond_noise(self.difference, self.p_holm):
            return "within noise"
        better = (self.difference.mean > 0) == self.metric.higher_is_better
        return "better" if better else "worse"


def compare(a: str | Path, b: str | Path, out: Path, *, reports: Path = Path("reports")) -> str:
    """Write what changed from one report to another.

    Args:
        a: Folder of a report, a file of records, or the name of a study in ``reports``.
        b: Likewise.
        out: Folder to write ``README.md``, ``index.html``, ``figures/`` and ``tables/`` into.
        reports: Folder in which names are looked up.

    Returns:
        The answer in one sentence.

    Raises:
        ValueError: If there are no records at a place, or the two have no part and method in
            common.
    """
    first, second = _locate(a, reports), _locate(b, reports)
    files, answer = build_comparison(
        _read(first), _read(second), _names(Path(a), Path(b), first, second)
    )
    replace_folder(Path(out), files.items(), ("figures", "tables"))
    return answer


def build_comparison(
    first: Sequence[Record], second: Sequence[Record], names: tuple[str, str]
) -> tuple[dict[str, bytes], str]:
    """Make the files of a comparison.

    Args:
        first: Records.
        second: Records.
        names: What the two are called.

    Returns:
        Content by path, and the answer in one sentence.

    Raises:
        ValueError: If the two have no part and method in common.
    """
    found = changes(first, second)
    if not found:
        raise ValueError(
            f"Expected {names[0]} and {names[1]} to have finished evaluation runs of the same part "
            "and method, got none in common. Only parts of the same name can be compared."
        )
    answer = _answer(found, names)
    parts = list(dict.fromkeys(change.part for change in found))
    labels = _labels([*first, *second])
    methods = tuple({change.method.name: change.method for change in found}.values())
    files: dict[str, bytes] = {}
    with style():
        figures = [
            _figure(part, labels[part], found, files, number) for number, part in enumerate(parts)
        ]
        legend = page.legend_items(methods)
    tables = [_table(part, labels[part], found, names) for part in parts]
    drawn = content.Figures(
        tuple(figures),
        tuple((f"Change on {f.title}", f.file) for f in figures),
        f"Average accuracy of {names[1]} minus {names[0]}; small points are shared seeds.",
    )
    shown = tuple(content.TableBlock(t, p) for t, p in zip(tables, parts, strict=True))
    sections = [
        content.Section("changes", "What changes", "Changes", (drawn, *shown)),
        *_difference_sections(first, second),
    ]
    context = {
        "title": f"{names[0]} and {names[1]}",
        "question": f"What changes from {page.escape_markdown(names[0])} to "
        f"{page.escape_markdown(names[1])}, by how much, and is it beyond noise?",
        "answer": answer,
        "parts": [(part, labels[part]) for part in parts],
        "sections": sections,
        "legend": legend,
        "crumb": False,
    }
    files["README.md"] = page.write("report.md.j2", context)
    files["index.html"] = page.write("report.html.j2", context)
    files["tables/changes.csv"] = to_csv(_csv(found)).encode()
    files |= {f"tables/{table.name}.tex": page.latex_table(table) for table in tables}
    return files, answer


def changes(first: Sequence[Record], second: Sequence[Record]) -> list[Change]:
    """Compare what two sets of records have in common.

    Args:
        first: Records.
        second: Records.

    Returns:
        A change for each part, method and metric, in the order of the second.
    """
    before, after = _runs(first), _runs(second)
    found = []
    for key, runs in after.items():
        if key in before:
            found += _changes(key, before[key], runs)
    corrected = {}
    for metric in _COMPARED:
        corrected[metric.key] = holm(
            {f"{c.part}/{c.method.name}": c.p_value for c in found if c.metric == metric}
        )
    return [replace(c, p_holm=corrected[c.metric.key][f"{c.part}/{c.method.name}"]) for c in found]


def config_changes(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[str, str, str]]:
    """List what was asked differently of the evaluation runs that both have.

    Args:
        first: Records.
        second: Records.

    Returns:
        Place, first value, second value; sorted.
    """
    before, after = _configs(first), _configs(second)
    shared = before.keys() & after.keys()
    differing: dict[tuple[str, str, str, str], list[str]] = {}
    for part, method in sorted(shared):
        old, new = before[part, method], after[part, method]
        for path in sorted(old.keys() | new.keys()):
            pair = (old.get(path, text.MISSING), new.get(path, text.MISSING))
            if pair[0] != pair[1]:
                differing.setdefault((part, path, *pair), []).append(method)
    listed = []
    for (part, path, old_value, new_value), methods in differing.items():
        everyone = {m for p, m in shared if p == part} == set(methods)
        place = f"{part}: {path}" if everyone else f"{part}, {', '.join(methods)}: {path}"
        listed.append((place, old_value, new_value))
    return sorted(listed)


def _locate(place: str | Path, reports: Path) -> Path:
    path = Path(place)
    for candidate in (path, path / "records.jsonl", reports / path / "records.jsonl"):
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"Expected a report's folder, a file of records or the name of a study in {reports}, got "
        f"{str(place)!r}, where there is no records.jsonl."
    )


def _read(path: Path) -> list[Record]:
    records = read_lines(path)
    if not records:
        raise ValueError(f"Expected {path} to hold at least one record, got none.")
    return records


def _names(a: Path, b: Path, first: Path, second: Path) -> tuple[str, str]:
    names = (a.stem, b.stem) if a.is_file() or b.is_file() else (a.name, b.name)
    if names[0] != names[1] and all(names):
        return names
    return first.parent.as_posix(), second.parent.as_posix()


def _runs(records: Sequence[Record]) -> dict[_Key, dict[int, Run]]:
    found: dict[_Key, dict[int, Run]] = {}
    for record in sorted(records, key=lambda r: (r.part, r.seed)):
        test = record.accuracy.get("test")
        if record.role == "evaluation" and record.status == "finished" and test:
            run = measure(record, describe_method(record.method))
            found.setdefault((record.part, record.method), {})[record.seed] = run
    return found


def _changes(key: _Key, before: Mapping[int, Run], after: Mapping[int, Run]) -> list[Change]:
    part, method = key
    shared = sorted(before.keys() & after.keys())
    same = bool(shared) and all(before[s].matrix == after[s].matrix for s in shared)
    found = []
    for metric in _COMPARED:
        old, new = _values(before, metric.key), _values(after, metric.key)
        if not old or not new:
            continue
        both = sorted(old.keys() & new.keys())
        if both:
            paired = paired_difference(new, old)
            difference, p_value = paired.difference, paired.p_value
        else:
            sides = list(new.values()), list(old.values())
            difference = unpaired_difference(*sides)
            p_value = welch_p_value(*sides)
        found.append(
            Change(
                part,
                describe_method(method),
                metric,
                estimate(list(old.values())),
                estimate(list(new.values())),
                difference,
                {seed: new[seed] - old[seed] for seed in both},
                same,
                p_value,
            )
        )
    return found


def _values(runs: Mapping[int, Run], key: str) -> dict[int, float]:
    return {seed: v for seed, run in runs.items() if (v := run.values[key]) == v}


def _answer(found: Sequence[Change], names: tuple[str, str]) -> str:
    accuracy = [c for c in found if c.metric.key == "average_accuracy"]
    beyond = [c for c in accuracy if c.verdict in ("better", "worse")]
    head = f"From {names[0]} to {names[1]}"
    if all(c.same for c in accuracy):
        return f"{head} every shared run has the same accuracies to the last digit."
    if not any(c.difference.is_interval for c in accuracy):
        return f"{head} there are too few seeds to tell a change from noise."
    if not beyond:
        return f"{head} no average accuracy changes beyond noise."
    listed = text.enumerate_words(
        [f"{c.method.title} on {c.part} ({text.points_interval(c.difference)})" for c in beyond]
    )
    rest = len(accuracy) - len(beyond)
    ending = f"; the other {rest} {'does' if rest == 1 else 'do'} not" if rest else ""
    return f"{head} average accuracy changes beyond noise, in points, for {listed}{ending}."


def _table(part: str, label: str, found: Sequence[Change], names: tuple[str, str]) -> Table:
    rows = []
    here = [c for c in found if c.part == part]
    for change in here:
        in_percent = change.metric in PAIRED_METRICS
        write = text.percent_interval if in_percent else _seconds
        difference = text.points_interval if in_percent else _seconds
        cells = (
            Cell(change.method.title),
            Cell(change.metric.short),
            Cell(write(change.before), change.before.mean),
            Cell(write(change.after), change.after.mean),
            Cell(difference(change.difference), change.difference.mean),
            Cell("yes" if change.by_seed else "no"),
            Cell(text.p_value(change.p_holm), change.p_holm),
            Cell(change.verdict),
        )
        rows.append(Row(cells, change.method.name))
    return Table(
        f"{part}-changes",
        f"{label}: what changes",
        (
            Column("Method", numeric=False),
            Column("Metric", numeric=False),
            Column(names[0]),
            Column(names[1]),
            Column("Difference", "second minus first"),
            Column("Paired", "whether runs of the same seed were compared", numeric=False),
            Column("p (Holm)", "corrected over all changes of the metric"),
            Column(
                "Beyond noise",
                "whether the 95 % interval leaves zero out and p (Holm) is below 0.05",
                numeric=False,
            ),
        ),
        tuple(rows),
        (
            text.interval_words([c.difference for c in here]),
            "Accuracies and forgetting in %, their differences in points.",
        ),
    )


def _labels(records: Sequence[Record]) -> dict[str, str]:
    stand_ins = {r.part: r.stream.get("stand_in_for") for r in records if r.stream}
    return {
        r.part: f"{r.part} (stand-in for {stand_in})"
        if (stand_in := stand_ins.get(r.part))
        else r.part
        for r in records
    }


def _seconds(found: Estimate) -> str:
    return text.with_ends(lambda value: text.number(value, 2), found)


def _figure(
    part: str,
    label: str,
    found: Sequence[Change],
    files: dict[str, bytes],
    number: int,
) -> content.Figure:
    rows = [c for c in found if c.part == part and c.metric.key == "average_accuracy"]
    path = f"figures/{part}-changes"
    alone = _sketch(label, rows)
    headline(alone.figure, label)
    files[f"{path}.svg"], files[f"{path}.png"] = svg(alone), png(alone)
    inline = inline_svg(_sketch(label, rows), f"c{number}-")
    return content.Figure(label, "", lambda: inline, path, part)


def _sketch(label: str, rows: Sequence[Change]) -> Sketch:
    figure = Figure(figsize=(3.8, 0.75 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    sketch = Sketch(figure, f"Change of average accuracy on {label}")
    axes.axvline(0, color=INK, linewidth=0.8)
    for position, change in enumerate(rows):
        y = len(rows) - 1 - position
        if change.by_seed:
            row_of_seeds(
                sketch, axes, y, change.method, change.by_seed, change.difference, signed=True
            )
        bar(sketch, axes, change.method.name, change.difference, y=y)
        tip = f"{change.method.title}: {text.points_interval(change.difference)} points"
        points(sketch, axes, change.method, [100 * change.difference.mean], [y], [tip])
    method_rows(axes, [c.method.title for c in rows])
    axes.set_xlabel("Change of average accuracy, points")
    return sketch


def _difference_sections(
    first: Sequence[Record], second: Sequence[Record]
) -> list[content.Section]:
    sections = []
    asked = _bullets(
        [(place, f"{old} → {new}") for place, old, new in config_changes(first, second)],
        "Nothing: the evaluation runs that both have were asked the same.",
    )
    sections.append(
        content.Section(
            "configuration",
            "What was asked differently",
            "Configuration",
            (asked,),
        )
    )
    ran = _bullets(
        _environment_changes(first, second),
        "Nothing: versions, code, processor and device are the same.",
    )
    sections.append(
        content.Section("environment", "What it ran on differently", "Environment", (ran,))
    )
    alone = _only(_configs(first), _configs(second))
    if alone:
        sections.append(
            content.Section("alone", "What one side has alone", "Alone", (content.Bullets(alone),))
        )
    return sections


def _bullets(items: Sequence[tuple[str, str]], nothing: str) -> content.Block:
    return content.Bullets(tuple(items)) if items else content.Prose(nothing)


def _only(first: Mapping[_Key, Any], second: Mapping[_Key, Any]) -> tuple[tuple[str, str], ...]:
    sides = (
        ("Only in the first", first.keys() - second.keys()),
        ("Only in the second", second.keys() - first.keys()),
    )
    return tuple(
        (side, "; ".join(f"{part}: {method}" for part, method in sorted(keys)))
        for side, keys in sides
        if keys
    )


def _configs(records: Sequence[Record]) -> dict[_Key, dict[str, str]]:
    left_out = ("seed", "role", "study", "part", "method")
    found: dict[_Key, dict[str, str]] = {}
    for record in sorted(records, key=lambda r: r.seed):
        if record.role == "evaluation":
            asked = {k: v for k, v in record.config.items() if k not in left_out}
            found.setdefault((record.part, record.method), _flatten(asked))
    return found


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(list(value) if isinstance(value, tuple) else value)
    return found


def _environment_changes(
    first: Sequence[Record], second: Sequence[Record]
) -> list[tuple[str, str]]:
    before, after = _conditions(first), _conditions(second)
    return [
        (name, f"{before.get(name, text.MISSING)} → {after.get(name, text.MISSING)}")
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _conditions(records: Sequence[Record]) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for record in records:
        values = {
            **record.versions,
            "code version": record.code_version,
            "commit": record.commit or "unknown",
            "processor": record.processor or "unknown",
            "device": record.device,
            "threads of a run": str(record.threads),
        }
        for name, value in values.items():
            seen.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in seen.items()}


def _csv(found: Sequence[Change]) -> list[tuple[object, ...]]:
    head = (
        "part", "method", "metric", "before", "after", "difference", "n", "low", "high",
        "low_high_is", "paired", "p", "p_holm", "verdict",
    )  # fmt: skip
    return [
        head,
        *(
            (
                c.part, c.method.name, c.metric.key, c.before.mean, c.after.mean,
                c.difference.mean, c.difference.n, c.difference.low, c.difference.high,
                c.difference.kind, int(bool(c.by_seed)), c.p_value, c.p_holm, c.verdict,
            )
            for c in found
        ),
    ]  # fmt: skip
