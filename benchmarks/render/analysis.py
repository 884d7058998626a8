"""From records to what a report says: numbers, comparisons, choices and what went wrong.

Nothing here knows how it is drawn. Everything is a pure function of study and records.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Any

import numpy as np

from benchmarks import methods as registry
from benchmarks.continual_selection import TaskSelection
from benchmarks.metrics import METRICS, Metric, average_accuracy_curve, forgetting, metric_values
from benchmarks.record import Record
from benchmarks.render.answer import answer, label
from benchmarks.selection import choose
from benchmarks.statistics import (
    Estimate,
    PairedDifference,
    best_beyond_noise,
    beyond_noise,
    estimate,
    holm,
    paired_difference,
)
from benchmarks.study import Part, Study, Variant

__all__ = [
    "COSTS",
    "PAIRED_METRICS",
    "Comparison",
    "GridPoint",
    "MethodInfo",
    "MethodResult",
    "PartResult",
    "Problem",
    "Run",
    "StudyResult",
    "analyse",
    "describe_method",
    "measure",
]

COSTS: tuple[Metric, ...] = (
    Metric(
        "seconds",
        "time",
        "Time, s",
        False,
        "wall-clock seconds of training and consolidation, summed over the tasks; evaluation and "
        "the making of data are left out.",
    ),
    Metric(
        "seconds_training",
        "seconds of training",
        "Training, s",
        False,
        "wall-clock seconds of training, summed over the tasks.",
    ),
    Metric(
        "seconds_consolidation",
        "seconds of consolidation",
        "Consolidation, s",
        False,
        "wall-clock seconds between tasks that the method spends on what it keeps "
        "(importance, a copy of the model), summed over the tasks.",
    ),
    Metric(
        "peak_memory_mib",
        "peak memory",
        "Peak memory, MiB",
        False,
        "greatest resident memory of the process during the run, libraries and data included (of "
        "the accelerator where one is used). –: not measured.",
    ),
    Metric(
        "stored_extra",
        "extra numbers stored",
        "Numbers stored",
        False,
        "numbers that the method keeps beside the model, counted at the end.",
    ),
)

PAIRED_METRICS: tuple[Metric, ...] = tuple(
    m for m in METRICS if m.key in ("average_accuracy", "forgetting")
)
_FOCAL = "mas"


@dataclass(frozen=True)
class MethodInfo:
    """What the registry says about a method.

    Args:
        name: Name in records.
        title: Name in reports.
        strength: Symbol of the tuned number; None where there is nothing to tune.
        joint: Whether it trains on all tasks at once: an upper bound, no competitor.
        paper: Citation.
        notes: Deviations and choices.
        variant_of: The method that it varies; where both are on a part it is compared with that one
            and is no competitor of the others.
    """

    name: str
    title: str
    strength: str | None = None
    joint: bool = False
    paper: str = ""
    notes: tuple[str, ...] = ()
    variant_of: str | None = None


@dataclass(frozen=True)
class Run:
    """A finished evaluation run.

    Args:
        record: What was recorded.
        values: A value for each metric and cost; ``nan`` where it is not defined.
        curve: Average accuracy over the tasks seen so far (T,); empty for a joint run.
        matrix: Test accuracy (T, T), or (1, T) of a joint run.
    """

    record: Record
    values: Mapping[str, float]
    curve: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Problem:
    """A run that is missing or did not finish.

    Args:
        method: Name of the method.
        strength: The strength it was tried with.
        seed: Its seed.
        role: "selection" or "evaluation".
        status: "missing", "failed" or "diverged".
        message: What happened.
    """

    method: str
    strength: float | None
    seed: int
    role: str
    status: str
    message: str


@dataclass(frozen=True)
class GridPoint:
    """One strength of the grid, over the tuning seeds.

    Args:
        strength: The strength.
        accuracy: Final average accuracy on validation data, a value for each tuning seed.
        forgetting: Best-minus-last forgetting on validation data, likewise.
        num_lost: Tuning runs at this strength that failed or diverged.
    """

    strength: float
    accuracy: Mapping[int, float]
    forgetting: Mapping[int, float]
    num_lost: int = 0

    @property
    def mean_accuracy(self) -> float:
        """Mean over the tuning seeds; ``nan`` where a run was lost or none is there."""
        if self.num_lost or not self.accuracy:
            return nan
        return float(np.mean(list(self.accuracy.values())))

    @property
    def mean_forgetting(self) -> float:
        """Mean over the tuning seeds; ``nan`` where a run was lost or none is there."""
        points = [value for value in self.forgetting.values() if isfinite(value)]
        if self.num_lost or not points:
            return nan
        return float(np.mean(points))


@dataclass(frozen=True)
class MethodResult:
    """All that is known of one method on one part.

    Args:
        info: The method.
        runs: Finished evaluation runs by seed.
        estimates: Mean and interval for each metric and cost.
        curve: Mean and interval of the average accuracy after each task.
        grid: The strengths tried, weakest first.
        chosen: The strength that the selection chooses; None where none was tried or finished.
        at_edge: Whether it is the smallest or largest that was tried.
        used: The strengths of the evaluation runs.
        num_lost: Evaluation runs that failed, diverged or are missing.
        search: Where runs choose for themselves: what each finished one tried and kept, by seed, an
            entry a task.
    """

    info: MethodInfo
    runs: Mapping[int, Run]
    estimates: Mapping[str, Estimate]
    curve: tuple[Estimate, ...]
    grid: tuple[GridPoint, ...]
    chosen: float | None
    at_edge: bool
    used: tuple[float, ...]
    num_lost: int
    search: Mapping[int, tuple[TaskSelection, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in records."""
        return self.info.name

    @property
    def title(self) -> str:
        """Name in reports."""
        return self.info.title

    def values(self, key: str) -> dict[int, float]:
        """Return a metric by seed, leaving out runs in which it is not defined."""
        found = {seed: run.values[key] for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if isfinite(value)}


@dataclass(frozen=True)
class Comparison:
    """One method minus another one.

    Args:
        metric: What is compared.
        ours: Name of the first method.
        other: Name of the other method.
        paired: The difference, seed by seed.
        p_holm: The t-test's p-value after Holm's correction over the comparisons that it is made
            among.
    """

    metric: Metric
    ours: str
    other: str
    paired: PairedDifference
    p_holm: float

    @property
    def better(self) -> bool | None:
        """Whether the first method is better; None where noise could explain the difference."""
        difference = self.paired.difference
        if not beyond_noise(difference, self.p_holm):
            return None
        return (difference.mean > 0) == self.metric.higher_is_better


@dataclass(frozen=True)
class PartResult:
    """One learning problem of the study.

    Args:
        part: What was declared.
        label: Heading; says "stand-in" where the stream is one.
        stream: Description of the stream from the records.
        task_names: Names of the tasks; empty texts where seeds put them in another order.
        methods: In the order of the study.
        winners: For each metric the method that is best beyond noise, or None.
        comparisons: Of the focal method with each other one but joint training and variants.
        variants: Of each method with its variants: a family of comparisons of its own.
        problems: Runs that are missing or did not finish.
        focal: The method that the others are compared with.
    """

    part: Part
    label: str
    stream: Mapping[str, Any]
    task_names: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    winners: Mapping[str, str | None]
    comparisons: tuple[Comparison, ...]
    problems: tuple[Problem, ...]
    focal: str | None
    variants: tuple[Comparison, ...] = ()

    @property
    def name(self) -> str:
        """Key of the part."""
        return self.part.name

    @property
    def stand_in_for(self) -> str | None:
        """What the stream stands in for, if it does."""
        found: str | None = self.stream.get("stand_in_for")
        return found

    @property
    def num_seeds(self) -> int:
        """Most seeds that any method finished."""
        return max((len(m.runs) for m in self.methods), default=0)

    def method(self, name: str) -> MethodResult | None:
        """Find a method by name."""
        return next((m for m in self.methods if m.name == name), None)


@dataclass(frozen=True)
class StudyResult:
    """A whole study, ready to be written down.

    Args:
        study: What was declared.
        records: All records, in the order of the file.
        parts: In the order of the study.
        focal: The method that the others are compared with.
        answer: One sentence.
        environment: What the runs ran on, by field, with the number of records for each value.
    """

    study: Study
    records: tuple[Record, ...]
    parts: tuple[PartResult, ...]
    focal: str | None
    answer: str
    environment: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[MethodInfo, ...]:
        """Every method of any part, each once, in the order of the study."""
        found = {m.name: m.info for part in self.parts for m in part.methods}
        return tuple(found.values())


def describe_method(name: str, variants: Mapping[str, Variant] | None = None) -> MethodInfo:
    """Ask the registry about a method; one that it no longer has keeps its name as title.

    Args:
        name: Name in records.
        variants: Those of the part, for a name that is a variant's.

    Returns:
        What is known.
    """
    variant = (variants or {}).get(name)
    if variant is not None:
        base = describe_method(variant.method)
        chosen = ", ".join(f"{key} = {value}" for key, value in sorted(variant.options.items()))
        notes = (*base.notes, f"{base.title} with {chosen}.") if chosen else base.notes
        return replace(base, name=name, title=variant.title, notes=notes)
    if name not in registry.names():
        return MethodInfo(name, name, joint=name == "joint")
    method = registry.get(name)
    return MethodInfo(
        name,
        method.title,
        method.strength,
        method.joint,
        method.paper,
        method.notes,
        method.variant_of,
    )


def analyse(study: Study, records: Sequence[Record]) -> StudyResult:
    """Work out all that a report says.

    Args:
        study: What was declared.
        records: Its records; those of parts or methods that the study does not name are refused.

    Returns:
        The results.

    Raises:
        ValueError: If there is no record, one belongs elsewhere, or two stand for the same run.
    """
    _check(study, records)
    ordered = tuple(
        sorted(records, key=lambda r: (r.part, r.method, r.strength or 0.0, r.role, r.seed, r.id))
    )
    focal = _focal(study)
    parts = tuple(
        _analyse_part(study, part, [r for r in ordered if r.part == part.name], focal)
        for part in study.parts
    )
    said = answer(parts, focal, describe_method(focal).title if focal else "")
    return StudyResult(study, ordered, parts, focal, said, _environment(ordered))


def _check(study: Study, records: Sequence[Record]) -> None:
    if not records:
        raise ValueError(
            f"Expected `records` of study `{study.name}` to hold at least one record, got none. "
            f"Run it first: python -m benchmarks run {study.name}"
        )
    declared = {(part.name, method) for part in study.parts for method in part.methods}
    seen: dict[tuple[object, ...], str] = {}
    for record in records:
        if record.study != study.name or (record.part, record.method) not in declared:
            raise ValueError(
                f"Expected `records` to belong to study `{study.name}`, got {record.id} of study "
                f"`{record.study}`, part `{record.part}`, method `{record.method}`, which it does "
                "not declare. Leave records of older versions of the study out."
            )
        key: tuple[object, ...] = (record.part, record.method, record.seed, record.role)
        if record.role == "selection":
            key = (*key, record.strength)
        if key in seen:
            raise ValueError(
                f"Expected `records` to hold each run once, got {seen[key]} and {record.id} for "
                f"part `{record.part}`, method `{record.method}`, seed {record.seed}, role "
                f"{record.role}. Leave out the one made by older code or another configuration."
            )
        seen[key] = record.id


def _focal(study: Study) -> str | None:
    declared = [method for part in study.parts for method in part.methods]
    if _FOCAL in declared:
        return _FOCAL
    variants = {name: v for part in study.parts for name, v in part.variants.items()}
    infos = [describe_method(name, variants) for name in dict.fromkeys(declared)]
    return next((i.name for i in infos if not i.joint and i.strength is not None), None)


def _related(info: MethodInfo, part: Part) -> MethodInfo:
    """Compare a variant with the method that it is declared to be one of, where both are there."""
    variant = part.variants.get(info.name)
    if variant is None or variant.method not in part.methods:
        return info
    return replace(info, variant_of=variant.method)


def _analyse_part(
    study: Study, part: Part, records: Sequence[Record], focal: str | None
) -> PartResult:
    stream = next((r.stream for r in records if r.stream), {})
    names = _task_names(records)
    infos = [_related(describe_method(name, part.variants), part) for name in part.methods]
    finished = {
        (r.method, r.seed): r
        for r in records
        if r.role == "evaluation" and r.status == "finished" and r.accuracy.get("test")
    }
    joint = next((i.name for i in infos if i.joint), None)
    results = tuple(
        _analyse_method(
            study,
            part,
            info,
            [r for r in records if r.method == info.name],
            {
                seed: found.accuracy["test"][-1]
                for (name, seed), found in finished.items()
                if name == joint
            },
        )
        for info in infos
    )
    stand_in = stream.get("stand_in_for")
    called = label(part.title, bool(stand_in))
    competitors = [m for m in results if not m.info.joint and m.info.variant_of not in part.methods]
    winners = {
        metric.key: best_beyond_noise(
            {m.name: m.values(metric.key) for m in competitors},
            higher_is_better=metric.higher_is_better,
        )
        for metric in METRICS
    }
    return PartResult(
        part,
        called,
        stream,
        names,
        results,
        winners,
        _compare(competitors, focal),
        _problems(study, part, records),
        focal,
        _compare_variants(results),
    )


def _task_names(records: Sequence[Record]) -> tuple[str, ...]:
    found = {r.task_names for r in records if r.task_names and r.role == "evaluation"}
    if len(found) <= 1:
        return next(iter(found), ())
    return ("",) * max(map(len, found))


def _analyse_method(
    study: Study,
    part: Part,
    info: MethodInfo,
    records: Sequence[Record],
    joint: Mapping[int, tuple[float, ...]],
) -> MethodResult:
    runs = {
        r.seed: measure(r, info, joint.get(r.seed))
        for r in sorted(records, key=lambda r: r.seed)
        if r.role == "evaluation" and r.status == "finished" and r.accuracy.get("test")
    }
    quantities = [metric.key for metric in (*METRICS, *COSTS)]
    estimates = {
        key: estimate([run.values[key] for run in runs.values() if isfinite(run.values[key])])
        for key in quantities
    }
    lengths = {len(run.curve) for run in runs.values()}
    num_tasks = max(lengths, default=0)
    curve = tuple(estimate([run.curve[task] for run in runs.values()]) for task in range(num_tasks))
    tried = [r for r in records if r.role == "selection"]
    choice = choose(tried)
    return MethodResult(
        info,
        runs,
        estimates,
        curve,
        _grid(tried),
        choice.strength,
        choice.at_edge,
        tuple(sorted({r.record.strength for r in runs.values() if r.record.strength is not None})),
        len(set(study.evaluation_seeds(part)) - runs.keys()),
        {
            seed: tuple(
                TaskSelection.from_table(entry, f"`selection` of record {run.record.id}")
                for entry in run.record.selection
            )
            for seed, run in runs.items()
            if run.record.selection
        },
    )


def measure(record: Record, info: MethodInfo, joint: tuple[float, ...] | None = None) -> Run:
    """Work out the metrics of a finished run.

    Args:
        record: With a complete accuracy matrix on test data.
        info: Its method.
        joint: Accuracy of the joint run of the same seed on each task, for intransigence.

    Returns:
        The run with its numbers.
    """
    matrix = record.accuracy["test"]
    sequential = len(matrix) == len(matrix[0]) and not info.joint
    values = metric_values(
        matrix if sequential else matrix[-1:],
        initial=record.initial_accuracy.get("test"),
        joint=joint,
    )
    seconds = record.seconds
    values["seconds_training"] = float(sum(seconds["training"])) if "training" in seconds else nan
    values["seconds_consolidation"] = (
        float(sum(seconds["consolidation"])) if "consolidation" in seconds else nan
    )
    values["seconds"] = values["seconds_training"] + values["seconds_consolidation"]
    values["peak_memory_mib"] = (
        record.peak_memory_bytes / 2**20 if record.peak_memory_bytes else nan
    )
    values["stored_extra"] = float(record.parameters.get("stored_extra", nan))
    curve = tuple(average_accuracy_curve(matrix).tolist()) if sequential else ()
    return Run(record, values, curve, matrix)


def _grid(records: Sequence[Record]) -> tuple[GridPoint, ...]:
    strengths = sorted({r.strength for r in records if r.strength is not None})
    points = []
    for strength in strengths:
        here = [r for r in records if r.strength == strength]
        done = [r for r in here if r.status == "finished" and r.accuracy.get("validation")]
        matrices = {r.seed: r.accuracy["validation"] for r in done}
        points.append(
            GridPoint(
                strength,
                {seed: float(np.mean(matrix[-1])) for seed, matrix in matrices.items()},
                {
                    seed: forgetting(matrix)
                    for seed, matrix in matrices.items()
                    if len(matrix) == len(matrix[0])
                },
                len(here) - len(done),
            )
        )
    return tuple(points)


def _compare(methods: Sequence[MethodResult], focal: str | None) -> tuple[Comparison, ...]:
    ours = next((m for m in methods if m.name == focal), None)
    if ours is None:
        return ()
    return _family([(ours, m) for m in methods if m.name != ours.name])


def _compare_variants(methods: Sequence[MethodResult]) -> tuple[Comparison, ...]:
    by_name = {m.name: m for m in methods}
    pairs = [(by_name[m.info.variant_of], m) for m in methods if m.info.variant_of in by_name]
    return _family(pairs)


def _family(pairs: Sequence[tuple[MethodResult, MethodResult]]) -> tuple[Comparison, ...]:
    """Compare pairs of methods; p-values are corrected over the pairs, metric by metric."""
    comparisons = []
    for metric in PAIRED_METRICS:
        paired = {
            other.name: paired_difference(
                ours.values(metric.key),
                other.values(metric.key),
                higher_is_better=metric.higher_is_better,
            )
            for ours, other in pairs
        }
        corrected = holm({name: difference.p_value for name, difference in paired.items()})
        comparisons += [
            Comparison(metric, ours.name, other.name, paired[other.name], corrected[other.name])
            for ours, other in pairs
            if paired[other.name].seeds
        ]
    return tuple(comparisons)


def _problems(study: Study, part: Part, records: Sequence[Record]) -> tuple[Problem, ...]:
    problems = [
        Problem(r.method, r.strength, r.seed, r.role, r.status, _error(r))
        for r in records
        if r.status != "finished"
    ]
    there = {(r.method, r.seed) for r in records if r.role == "evaluation"}
    problems += [
        Problem(method, None, seed, "evaluation", "missing", "The run was not made.")
        for method in part.methods
        for seed in study.evaluation_seeds(part)
        if (method, seed) not in there
    ]
    return tuple(problems)


def _error(record: Record) -> str:
    if record.error is None:
        return "No message was recorded."
    return f"{record.error.get('type', 'Error')}: {record.error.get('message', '')}"


def _environment(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    fields: dict[str, list[str]] = {
        "processor": [r.processor or "unknown" for r in records],
        "device": [r.device for r in records],
        "threads of a run": [str(r.threads) for r in records],
    }
    for package in sorted({name for r in records for name in r.versions}):
        fields[package] = [r.versions.get(package, "unknown") for r in records]
    fields["commit"] = [r.commit or "unknown" for r in records]
    fields["code version"] = [r.code_version for r in records]
    fields["date of the runs"] = [r.started[:10] or "unknown" for r in records]
    return {name: dict(sorted(Counter(values).items())) for name, values in fields.items()}
