"""The tables of a report, each built once for all formats, and the CSV files.

A table's cells are short texts for people. The CSV files hold every number at six digits.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

from benchmarks.continual_selection import TaskSelection
from benchmarks.metrics import METRICS
from benchmarks.render import text
from benchmarks.render.analysis import (
    COSTS,
    Comparison,
    MethodResult,
    PartResult,
    StudyResult,
)
from benchmarks.render.answer import all_stand_ins, heads
from benchmarks.statistics import Estimate, estimate, t_interval

__all__ = [
    "Cell",
    "Column",
    "Row",
    "Table",
    "cost_table",
    "csv_files",
    "overview_table",
    "paired_table",
    "problems_table",
    "results_table",
    "search_table",
    "selection_table",
    "to_csv",
    "variants_table",
]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: What is printed.
        order: What a sorted column goes by; the text where None.
        bold: Whether it is the winner beyond noise.
        note: What hovering tells.
    """

    text: str
    order: float | None = None
    bold: bool = False
    note: str = ""


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Args:
        title: What is printed.
        note: What hovering tells.
        numeric: Whether its cells are aligned to the right.
    """

    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        cells: One a column.
        method: Method that it belongs to, for the filter of the page.
    """

    cells: tuple[Cell, ...]
    method: str | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: Name in file names and anchors.
        caption: What it shows.
        columns: Heads.
        rows: Bodies.
        notes: Printed below it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


_MAIN = (
    "average_accuracy",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
    "forward_transfer",
    "intransigence",
)
_SIGNED = {"backward_transfer", "forward_transfer", "intransigence"}


def overview_table(result: StudyResult) -> Table:
    """Give the average accuracy of every method on every part.

    Args:
        result: The study.

    Returns:
        A row a method, a column a part.
    """
    short = heads(result.parts)
    columns = (
        Column("Method", numeric=False),
        *(Column(short[part.name], _stand_in(part) or part.label) for part in result.parts),
    )
    rows = []
    shown = []
    for info in result.methods:
        cells = [Cell(info.title)]
        for part in result.parts:
            method = part.method(info.name)
            cells.append(_accuracy_cell(part, method, "average_accuracy"))
            if method is not None:
                shown.append(method.estimates["average_accuracy"])
        rows.append(Row(tuple(cells), info.name))
    return Table(
        "overview",
        "Average accuracy after the last task, %",
        columns,
        tuple(rows),
        (
            "All streams are stand-ins." if all_stand_ins(result.parts) else "",
            _bold_note(result.parts),
            text.interval_words(shown),
        ),
    )


def results_table(part: PartResult) -> Table:
    """Give every metric and cost of every method on one part.

    Args:
        part: The part.

    Returns:
        A row a method.
    """
    metrics = [next(m for m in METRICS if m.key == key) for key in _MAIN]
    columns = (
        Column("Method", numeric=False),
        Column(
            "Strength",
            "at the start → after the last task, chosen task by task"
            if any(m.search for m in part.methods)
            else "chosen on the tuning seeds",
        ),
        Column("Seeds", "evaluation runs that finished"),
        *(
            Column(f"{m.short}, {'points' if m.key in _SIGNED else '%'}", m.definition)
            for m in metrics
        ),
        Column(COSTS[0].short, COSTS[0].definition),
    )
    rows = []
    for method in part.methods:
        cells = [
            Cell(method.title, note=method.info.paper),
            _strength_cell(method),
            _seeds_cell(method),
            *(_accuracy_cell(part, method, m.key) for m in metrics),
            _cost_cell(method, COSTS[0].key),
        ]
        rows.append(Row(tuple(cells), method.name))
    shown = [m.estimates[key] for m in part.methods for key in _MAIN]
    notes = [_bold_note([part]), text.interval_words(shown)]
    if any(m.num_lost for m in part.methods):
        notes.append("† some seeds did not finish: the mean is over those that did.")
    if part.stand_in_for:
        notes.append(f"{_stand_in(part)}.")
    return Table(
        f"{part.name}-results", f"{part.label}: results", columns, tuple(rows), tuple(notes)
    )


def cost_table(part: PartResult) -> Table | None:
    """Give the costs of every method on one part.

    Args:
        part: The part.

    Returns:
        A row a method; None without a finished run.
    """
    shown = [m for m in part.methods if m.runs]
    if not shown:
        return None
    plain = next((m for m in shown if m.name == "naive"), None)
    rows = []
    for method in shown:
        cells = [_cost_cell(method, c.key, ends=True) for c in COSTS]
        if plain is not None:
            cells.insert(1, _time_ratio(method, plain))
        rows.append(Row((Cell(method.title), *cells), method.name))
    columns = [Column(c.short, c.definition) for c in COSTS]
    if plain is not None:
        definition = "time over that of naive training, seed by seed."
        columns.insert(1, Column("Time / naive", definition))
    return Table(
        f"{part.name}-cost",
        f"{part.label}: cost of one run",
        (Column("Method", numeric=False), *columns),
        tuple(rows),
        (
            text.interval_words([m.estimates["seconds"] for m in shown]),
            "Times depend on the processor named below.",
        ),
    )


def paired_table(part: PartResult) -> Table | None:
    """Give the paired differences of the focal method to each other one.

    Args:
        part: The part.

    Returns:
        A row a comparison; None where nothing can be compared.
    """
    if not part.comparisons:
        return None
    titles = {m.name: m.title for m in part.methods}
    ours = titles.get(part.focal or "", "")
    left_out = (
        "Joint training and variants of a method are no competitors and are left out."
        if part.variants
        else "Joint training is no competitor and is left out."
    )
    return Table(
        f"{part.name}-paired",
        f"{part.label}: paired differences of {ours}",
        (
            Column("Compared with", numeric=False),
            *_paired_columns(f"{ours} − other, points"),
        ),
        tuple(Row((Cell(titles[c.other]), *_paired_cells(c)), c.other) for c in part.comparisons),
        (
            text.interval_words([c.paired.difference for c in part.comparisons]),
            f"For forgetting a negative difference is better. {left_out} Holm's correction is over "
            "the comparisons of one metric.",
        ),
    )


def variants_table(part: PartResult) -> Table | None:
    """Give the paired differences of each method to its variants.

    Args:
        part: The part.

    Returns:
        A row a comparison; None where no method is there with a variant of it.
    """
    if not part.variants:
        return None
    titles = {m.name: m.title for m in part.methods}
    return Table(
        f"{part.name}-variants",
        f"{part.label}: methods and their variants",
        (
            Column("Method", numeric=False),
            Column("Variant", numeric=False),
            *_paired_columns("Method − variant, points"),
        ),
        tuple(
            Row((Cell(titles[c.ours]), Cell(titles[c.other]), *_paired_cells(c)), c.other)
            for c in part.variants
        ),
        (
            text.interval_words([c.paired.difference for c in part.variants]),
            "For forgetting a negative difference is better. Holm's correction is over all these "
            "pairs of one metric.",
        ),
    )


def _paired_columns(difference: str) -> tuple[Column, ...]:
    return (
        Column("Metric", numeric=False),
        Column("Seeds", "that both finished"),
        Column(difference),
        Column("p (t)", "paired t-test, two-sided"),
        Column("p (Holm)", "the same, corrected for the number of comparisons"),
        Column("p (sign flip)", "exact, two-sided; never below 2^(1 − seeds)"),
        Column("P(better)", "share of pairs of runs in which the first is better"),
        Column(
            "Beyond noise",
            "whether the 95 % interval leaves zero out and p (Holm) is below 0.05",
            numeric=False,
        ),
    )


def _paired_cells(comparison: Comparison) -> tuple[Cell, ...]:
    paired, difference = comparison.paired, comparison.paired.difference
    verdict = {None: "no", True: "better", False: "worse"}[comparison.better]
    if not difference.is_interval:
        verdict = "too few seeds"
    return (
        Cell(comparison.metric.short, note=comparison.metric.title),
        Cell(str(difference.n), difference.n),
        Cell(text.points_interval(difference), difference.mean),
        Cell(text.p_value(paired.p_value), paired.p_value),
        Cell(text.p_value(comparison.p_holm), comparison.p_holm),
        Cell(text.p_value(paired.sign_flip_p_value), paired.sign_flip_p_value),
        Cell(text.number(paired.probability_of_improvement, 2), paired.probability_of_improvement),
        Cell(verdict),
    )


def selection_table(part: PartResult) -> Table | None:
    """Give the strengths tried, what each reached, and which was chosen.

    Args:
        part: The part.

    Returns:
        A row a tuned method; None where nothing was tuned.
    """
    rows = []
    for method in part.methods:
        if not method.grid:
            continue
        tried = ", ".join(
            f"{text.strength(p.strength)}: "
            + (f"{p.num_lost} lost" if p.num_lost else text.percent(p.mean_accuracy))
            for p in method.grid
        )
        remark = _selection_remark(method)
        cells = (
            Cell(method.title),
            Cell(method.info.strength or "strength"),
            Cell(tried),
            Cell(text.strength(method.chosen), method.chosen),
            Cell(", ".join(text.strength(s) for s in method.used) or text.MISSING),
            Cell(remark),
        )
        rows.append(Row(cells, method.name))
    if not rows:
        return None
    columns: tuple[Column, ...] = (
        Column("Method", numeric=False),
        Column("Symbol", numeric=False),
        Column("Strength: validation accuracy, %", numeric=False),
        Column("Chosen"),
        Column("Evaluated"),
        Column("Remark", numeric=False),
    )
    if not any(row.cells[-1].text for row in rows):
        columns = columns[:-1]
        rows = [Row(row.cells[:-1], row.method) for row in rows]
    tries = sorted({len(m.grid) for m in part.methods if m.grid})
    budget = (
        f"Every tuned method had {tries[0]} tries."
        if len(tries) == 1
        else f"The number of tries differs: {', '.join(map(str, tries))}."
    )
    return Table(
        f"{part.name}-selection",
        f"{part.label}: selection of strengths",
        columns,
        tuple(rows),
        (budget,),
    )


def search_table(part: PartResult) -> Table | None:
    """Give what the runs chose for themselves, task by task.

    Args:
        part: The part.

    Returns:
        A row a method; None where no run chose for itself.
    """
    rows = []
    for method in part.methods:
        tasks = [task for tasks in method.search.values() for task in tasks]
        if not tasks:
            continue
        rates = Counter(task.learning_rate for task in tasks if task.learning_rate is not None)
        runs = len(method.search)
        short = sum(not task.accepted for task in tasks)
        cells = (
            Cell(method.title),
            Cell(", ".join(f"{rate:g}: {rates[rate]}" for rate in sorted(rates, reverse=True))),
            Cell(text.strength(method.used[0]) if method.used else text.MISSING),
            Cell(_last_strengths(method)),
            Cell(f"{short} of {len(tasks)}" if method.used else text.MISSING, short),
            Cell(text.number(sum(task.num_trainings for task in tasks) / runs, 1)),
            Cell(text.seconds(sum(task.seconds for task in tasks) / runs)),
            Cell(_search_remark(method, tasks)),
        )
        rows.append(Row(cells, method.name))
    if not rows:
        return None
    columns: tuple[Column, ...] = (
        Column("Method", numeric=False),
        Column("Learning rate: tasks", "how often each was the best, over tasks and seeds"),
        Column("First strength", "where the decay starts"),
        Column("Last strength", "after the last task: smallest to largest over the seeds"),
        Column("Tasks short", "kept below the required accuracy, as the attempts were used up"),
        Column("Trainings a run", "mean over seeds, those that were kept included"),
        Column("Search a run, s", "mean over seeds of the seconds beside the kept trainings"),
        Column("Remark", numeric=False),
    )
    if not any(row.cells[-1].text for row in rows):
        columns = columns[:-1]
        rows = [Row(row.cells[:-1], row.method) for row in rows]
    return Table(
        f"{part.name}-search",
        f"{part.label}: learning rates and strengths chosen",
        columns,
        tuple(rows),
        ("Every method had the same learning rates, margin, decay and number of attempts.",),
    )


def problems_table(result: StudyResult) -> Table | None:
    """List every run that is missing or did not finish.

    Args:
        result: The study.

    Returns:
        A row a run; None where there is none.
    """
    rows = []
    for part in result.parts:
        titles = {m.name: m.title for m in part.methods}
        for problem in part.problems:
            cells = (
                Cell(part.label),
                Cell(titles[problem.method]),
                Cell(text.strength(problem.strength), problem.strength),
                Cell(str(problem.seed), problem.seed),
                Cell(problem.role),
                Cell(problem.status),
                Cell(problem.message),
            )
            rows.append(Row(cells, problem.method))
    if not rows:
        return None
    return Table(
        "problems",
        "Runs that are missing or did not finish",
        (
            Column("Part", numeric=False),
            Column("Method", numeric=False),
            Column("Strength"),
            Column("Seed"),
            Column("Role", numeric=False),
            Column("Status", numeric=False),
            Column("What happened", numeric=False),
        ),
        tuple(rows),
    )


def csv_files(result: StudyResult) -> dict[str, str]:
    """Write every number of the report.

    Args:
        result: The study.

    Returns:
        Text by file name.
    """
    files = {
        "runs.csv": to_csv(_run_rows(result)),
        "accuracy.csv": _accuracy_csv(result),
        "summary.csv": to_csv(_summary_rows(result)),
        "curves.csv": to_csv(_curve_rows(result)),
    }
    for name, rows in (
        ("paired.csv", _paired_rows(result)),
        ("selection.csv", _selection_rows(result)),
        ("search.csv", _search_rows(result)),
    ):
        listed = list(rows)
        if len(listed) > 1:
            files[name] = to_csv(listed)
    return files


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    r"""Write rows as CSV: floats with six digits, nothing where a value is not defined.

    Args:
        rows: The head, then the body.

    Returns:
        The text; lines end in a line feed.

    Example:
        >>> to_csv([("a", "b"), (1 / 3, float("nan"))])
        'a,b\n0.333333,\n'
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow([_plain(v) if isinstance(v, float) else v for v in row])
    return buffer.getvalue()


def _plain(value: float) -> str:
    return f"{value + 0.0:.6g}" if isfinite(value) else ""


def _accuracy_cell(part: PartResult, method: MethodResult | None, key: str) -> Cell:
    if method is None:
        return Cell(text.MISSING, note="not part of this comparison")
    found = method.estimates[key]
    written = text.points_interval(found) if key in _SIGNED else text.percent_interval(found)
    lost = f"{method.num_lost} seeds did not finish" if method.num_lost else ""
    if found.n == 0:
        return Cell(text.MISSING, note=lost)
    spread = f"standard error {text.number(100 * found.standard_error, 2)}, n = {found.n}"
    return Cell(
        written + ("†" if method.num_lost else ""),
        found.mean,
        part.winners.get(key) == method.name,
        "; ".join(filter(None, (spread, lost))),
    )


def _strength_cell(method: MethodResult) -> Cell:
    if not method.used:
        return Cell(text.MISSING)
    symbol = method.info.strength or ""
    if method.search:
        ends = f"{text.strength(method.used[0])} → {_last_strengths(method)}"
        return Cell(f"{symbol}: {ends}" if symbol else ends, method.used[0])
    shown = ", ".join(text.strength(s) for s in method.used)
    return Cell(f"{symbol} = {shown}" if symbol else shown, method.used[0])


def _seeds_cell(method: MethodResult) -> Cell:
    done = len(method.runs)
    shown = f"{done} of {done + method.num_lost}" if method.num_lost else str(done)
    return Cell(shown, done)


def _time_ratio(method: MethodResult, plain: MethodResult) -> Cell:
    found = estimate(
        [
            method.runs[seed].values["seconds"] / plain.runs[seed].values["seconds"]
            for seed in sorted(method.runs.keys() & plain.runs.keys())
            if plain.runs[seed].values["seconds"] > 0
        ]
    )
    if found.n == 0:
        return Cell(text.MISSING)
    write = partial(text.number, digits=2)
    content = text.with_ends(write, found) if found.low != found.high else write(found.mean)
    return Cell(content, found.mean)


def _cost_cell(method: MethodResult, key: str, *, ends: bool = False) -> Cell:
    found = method.estimates[key]
    if found.n == 0:
        return Cell(text.MISSING)
    write = text.count if key in ("stored_extra", "peak_memory_mib") else text.seconds
    spread = f"{write(found.low)} to {write(found.high)}, n = {found.n}"
    if ends and found.low != found.high:
        return Cell(text.with_ends(write, found), found.mean, note=spread)
    return Cell(write(found.mean), found.mean, note=spread)


def _last_strengths(method: MethodResult) -> str:
    """Write the strengths after the last task, smallest to largest over the seeds."""
    last = [tasks[-1].strength for tasks in method.search.values()]
    found = sorted(strength for strength in last if strength is not None)
    if not found:
        return text.MISSING
    ends = [text.strength(strength) for strength in dict.fromkeys((found[0], found[-1]))]
    return " to ".join(ends)


def _search_remark(method: MethodResult, tasks: Sequence[TaskSelection]) -> str:
    if method.used and all(task.strength == method.used[0] for task in tasks):
        return "never refused: a stronger start may keep more"
    return ""


def _selection_remark(method: MethodResult) -> str:
    remarks = []
    if method.at_edge:
        smallest = method.chosen == method.grid[0].strength
        remarks.append(
            f"at the {'weak' if smallest else 'strong'} edge of the grid: "
            "a better strength may lie beyond it"
        )
    if method.chosen is None:
        remarks.append("no strength finished")
    elif method.used and method.used != (method.chosen,):
        remarks.append("evaluated with another strength than the best of the grid")
    return "; ".join(remarks)


def _bold_note(parts: Sequence[PartResult]) -> str:
    varying = {c.other: None for part in parts for c in part.variants}
    titles = [m.title for part in parts for m in part.methods if m.name in varying]
    others = "but joint training and variants" if varying else "but joint training"
    note = (
        f"Bold: better than every other method {others}, beyond noise (the 95 % interval "
        "of each paired difference leaves zero out and p < 0.05 after Holm's correction over all "
        "pairs of methods). No bold: no such method."
    )
    if not varying:
        return note
    listed = text.enumerate_words(list(dict.fromkeys(titles)))
    return f"{note} Variants are other forms of a method beside it: {listed}."


def _stand_in(part: PartResult) -> str:
    return f"{part.part.title} stands in for {part.stand_in_for}" if part.stand_in_for else ""


Rows = Iterable[Sequence[object]]


def _run_rows(result: StudyResult) -> Rows:
    keys = [m.key for m in (*METRICS, *COSTS)]
    yield (
        "part", "stand_in_for", "method", "strength", "seed", "role", "status", *keys,
        "seconds_total", "trainable", "id",
    )  # fmt: skip
    for part in result.parts:
        runs = {run.record.id: run for method in part.methods for run in method.runs.values()}
        for record in (r for r in result.records if r.part == part.name):
            run = runs.get(record.id)
            yield (
                part.name, part.stand_in_for, record.method, record.strength, record.seed,
                record.role, record.status, *(run.values[k] if run else None for k in keys),
                record.seconds.get("total"), record.parameters.get("trainable"), record.id,
            )  # fmt: skip


def _accuracy_csv(result: StudyResult) -> str:
    head = (
        "part", "method", "strength", "seed", "role", "split", "after_task", "on_task", "accuracy"
    )  # fmt: skip
    content = io.StringIO()
    content.write(to_csv([head]))
    for record in result.records:
        # Strengths are chosen on validation data, reports are about test data.
        split = "test" if record.role == "evaluation" else "validation"
        matrix = record.accuracy.get(split, ())
        joint = len(matrix) == 1 and record.status == "finished"
        # Once a record: its matrix may have thousands of entries.
        run = (record.part, record.method, record.strength, record.seed, record.role, split)
        start = to_csv([run]).rstrip("\n")
        content.writelines(
            f"{start},{len(row) if joint else i},{j},{_plain(value)}\n"
            for i, row in enumerate(matrix, start=1)
            for j, value in enumerate(row, start=1)
        )
    return content.getvalue()


def _ends(found: Estimate) -> tuple[object, ...]:
    return (found.n, found.mean, found.standard_error, found.low, found.high, found.kind)


def _summary_rows(result: StudyResult) -> Rows:
    yield (
        "part", "stand_in_for", "method", "metric", "n", "mean", "standard_error", "low", "high",
        "low_high_is", "t_low", "t_high", "best_beyond_noise",
    )  # fmt: skip
    for part in result.parts:
        for method in part.methods:
            for key, found in method.estimates.items():
                values = [v for r in method.runs.values() if isfinite(v := r.values[key])]
                best = part.winners.get(key) == method.name
                yield (
                    part.name, part.stand_in_for, method.name, key, *_ends(found),
                    *t_interval(values), int(best),
                )  # fmt: skip


def _curve_rows(result: StudyResult) -> Rows:
    yield (
        "part", "method", "tasks_learned", "n", "mean", "standard_error", "low", "high",
        "low_high_is",
    )  # fmt: skip
    for part in result.parts:
        for method in part.methods:
            for task, found in enumerate(method.curve, start=1):
                yield (part.name, method.name, task, *_ends(found))


def _paired_rows(result: StudyResult) -> Rows:
    yield (
        "part", "metric", "method", "other", "n", "mean_difference", "standard_error", "low",
        "high", "low_high_is", "p_t", "p_t_holm", "p_sign_flip", "probability_of_improvement",
    )  # fmt: skip
    for part in result.parts:
        for c in (*part.comparisons, *part.variants):
            yield (
                part.name, c.metric.key, c.ours, c.other, *_ends(c.paired.difference),
                c.paired.p_value, c.p_holm, c.paired.sign_flip_p_value,
                c.paired.probability_of_improvement,
            )  # fmt: skip


def _selection_rows(result: StudyResult) -> Rows:
    yield (
        "part", "method", "strength", "seeds", "validation_accuracy", "validation_forgetting",
        "lost", "chosen",
    )  # fmt: skip
    for part in result.parts:
        for method in part.methods:
            for point in method.grid:
                yield (
                    part.name, method.name, point.strength,
                    " ".join(map(str, sorted(point.accuracy))), point.mean_accuracy,
                    point.mean_forgetting, point.num_lost, int(point.strength == method.chosen),
                )  # fmt: skip


def _search_rows(result: StudyResult) -> Rows:
    yield (
        "part", "method", "seed", "task", "phase", "learning_rate", "strength",
        "validation_accuracy", "required", "kept",
    )  # fmt: skip
    for part in result.parts:
        for method in part.methods:
            for seed, tasks in method.search.items():
                for number, task in enumerate(tasks, start=1):
                    for trial in _trials(task):
                        yield (part.name, method.name, seed, number, *trial)


def _trials(task: TaskSelection) -> Rows:
    tuned = bool(task.strengths)
    for rate, accuracy in zip(task.learning_rates, task.finetuned, strict=True):
        kept = not tuned and rate == task.learning_rate
        yield ("plasticity", rate, None, accuracy, None, int(kept))
    for strength, accuracy in zip(task.strengths, task.reached, strict=True):
        kept = strength == task.strength
        yield (
            "stability", task.learning_rate, strength, accuracy, task.required, int(kept)
        )  # fmt: skip
