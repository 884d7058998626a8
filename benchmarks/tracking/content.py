"""What Weights & Biases is told about a record: plain values, made without importing wandb.

The record stays the source: everything here is derived from it, and a mirror can be thrown away
and made again. Values are JSON so that they can be handed to another process.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.metrics import backward_transfer, forgetting

TASK_AXIS = "tasks_trained"
EPOCH_AXIS = "epoch"
AXES = {
    TASK_AXIS: ("continual/*", "accuracy/*", "seconds/*", "importance/*"),
    EPOCH_AXIS: ("training/*",),
}

_CONFIG = (
    *("study", "part", "method", "strength", "seed", "role"),
    *("stream", "task_names", "parameters"),
    *("versions", "code_version", "commit", "device", "processor", "threads", "started"),
)
_MAX_TAG = 64  # wandb's limit, in characters
_MAX_BINS = 512  # wandb's limit for one histogram


@dataclass(frozen=True)
class Row:
    """One row of history.

    Args:
        axis: Name of the step axis.
        at: Place on it.
        values: Numbers and histograms by metric.
    """

    axis: str
    at: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Content:
    """One wandb run, in full.

    Args:
        run_id: The record's id, so that a second mirror meets the first.
        name: What the run is called in the list of runs.
        group: The study.
        job_type: The method.
        tags: Version of the code, part of the study, role of the run.
        config: The run's configuration, nested.
        rows: History, in order.
        final: The accuracy matrix as table and as heat map; empty where there is none.
        summary: Final values.
        artifact: The record as JSON text.
        digest: Hash of the record, which tells an unchanged record from a changed one.
        failed: Whether the run is shown as failed.
    """

    run_id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    rows: tuple[Row, ...]
    final: dict[str, Any]
    summary: dict[str, Any]
    artifact: str
    digest: str
    failed: bool


def digest_of(record: Mapping[str, Any]) -> str:
    """Hash a record's values, whatever the order of its keys.

    Args:
        record: The record as JSON values.

    Returns:
        Sixteen hexadecimal digits.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_of(record: Mapping[str, Any]) -> Content:
    """Derive the wandb run of a record.

    Args:
        record: The record as JSON values; entries that a failed run lacks may be missing or None.

    Returns:
        The run's content.
    """
    tasks = [str(name) for name in record.get("task_names") or ()]
    matrix = [list(row) for row in (record.get("accuracy") or {}).get("test") or ()]
    trained = _tasks_trained(record, matrix, tasks)
    by_task = _task_rows(record, matrix, trained, tasks)
    method, part, seed = (record.get(key) for key in ("method", "part", "seed"))
    return Content(
        run_id=str(record["id"]),
        name=f"{part} {method} seed {seed}" + _strength(record),
        group=str(record.get("study")),
        job_type=str(method),
        tags=_tags(record),
        config=_config(record),
        rows=(*by_task, *_epoch_rows(record.get("history") or ())),
        final=_final(record, matrix, trained, tasks),
        summary=_summary(record, by_task),
        artifact=json.dumps(record, sort_keys=True, indent=1),
        digest=digest_of(record),
        failed=record.get("status") != "finished",
    )


def _tasks_trained(
    record: Mapping[str, Any], matrix: Sequence[Sequence[float]], tasks: Sequence[str]
) -> list[int]:
    if record.get("method") == "joint":  # one row, after the union of all tasks
        return [len(tasks)] * len(matrix)
    return list(range(1, len(matrix) + 1))


def _key(name: str) -> str:
    """Keep a task's name from opening sections of its own in wandb."""
    return name.replace("/", "_").replace(".", "_")


def _final(
    record: Mapping[str, Any],
    matrix: Sequence[Sequence[float]],
    trained: Sequence[int],
    tasks: Sequence[str],
) -> dict[str, Any]:
    """Show the matrix, with the accuracy before training as its first row where it is known."""
    labels = [f"{count}: {tasks[count - 1]}" for count in trained]
    before = list((record.get("initial_accuracy") or {}).get("test") or ())
    if before:
        matrix, labels = [before, *matrix], ["before training", *labels]
    if not matrix:
        return {}
    data = [[label, *row] for label, row in zip(labels, matrix, strict=True)]
    return {
        "accuracy_matrix": {"kind": "table", "columns": ["after", *tasks], "data": data},
        "accuracy_heat_map": {
            "kind": "heat_map",
            "matrix": matrix,
            "rows": labels,
            "columns": tasks,
            "x": "accuracy on",
            "y": "after",
            "title": f"{record.get('part')}: {record.get('method')}",
        },
    }


def _task_rows(
    record: Mapping[str, Any],
    matrix: Sequence[Sequence[float]],
    trained: Sequence[int],
    tasks: Sequence[str],
) -> list[Row]:
    names = [f"accuracy/{number:02d} {_key(task)}" for number, task in enumerate(tasks, 1)]
    rows: list[Row] = []
    before = (record.get("initial_accuracy") or {}).get("test")
    if before:
        rows.append(Row(TASK_AXIS, 0, dict(zip(names, before, strict=True))))
    for index, (count, accuracies) in enumerate(zip(trained, matrix, strict=True)):
        values: dict[str, Any] = dict(zip(names, accuracies, strict=True))
        values["continual/average_accuracy"] = sum(accuracies[:count]) / count
        if len(matrix) > 1 or len(tasks) == 1:
            values["continual/new_task_accuracy"] = accuracies[count - 1]
        if index > 0:
            square = [row[:count] for row in matrix[:count]]
            values["continual/forgetting"] = forgetting(square)
            values["continual/backward_transfer"] = backward_transfer(square)
        for phase, per_task in (record.get("seconds") or {}).items():
            if isinstance(per_task, Sequence) and index < len(per_task):
                values[f"seconds/{phase}"] = per_task[index]
        values |= _histograms(record.get("importance") or {}, tasks[count - 1])
        rows.append(Row(TASK_AXIS, count, values))
    return rows


def _histograms(importance: Mapping[str, Any], task: str) -> dict[str, Any]:
    layers = importance.get(task)
    found = {}
    for layer, values in layers.items() if isinstance(layers, Mapping) else ():
        histogram = values.get("histogram") if isinstance(values, Mapping) else None
        if histogram and len(histogram["counts"]) <= _MAX_BINS:
            found[f"importance/{_key(layer)}"] = {
                "kind": "histogram",
                "counts": list(histogram["counts"]),
                "edges": list(histogram["edges"]),
            }
    return found


def _epoch_rows(history: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    for count, entry in enumerate(history, 1):
        values = {
            f"training/{key}": value
            for key, value in entry.items()
            if key != "epoch" and isinstance(value, int | float)
        }
        rows.append(Row(EPOCH_AXIS, count, values))
    return rows


def _strength(record: Mapping[str, Any]) -> str:
    strength = record.get("strength")
    return "" if strength is None else f" strength {strength:g}"


def _tags(record: Mapping[str, Any]) -> tuple[str, ...]:
    version = (record.get("versions") or {}).get("mas_avalanche")
    tags = [f"v{version}"] if version else []
    tags += [str(record[key]) for key in ("part", "role") if record.get(key)]
    return tuple(tag[:_MAX_TAG] for tag in tags)


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record.get("config") or {}) | {
        key: record[key] for key in _CONFIG if record.get(key) is not None
    }


def _summary(record: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    summary: dict[str, Any] = {"status": record.get("status")}
    for row in rows:
        summary |= {
            key.removeprefix("continual/"): value
            for key, value in row.values.items()
            if key.startswith("continual/")
        }
    seconds = (record.get("seconds") or {}).get("total")
    summary |= {"seconds_total": seconds, "peak_memory_bytes": record.get("peak_memory_bytes")}
    error = record.get("error") or {}
    summary |= {f"error_{key}": error[key] for key in ("type", "message") if key in error}
    return {key: value for key, value in summary.items() if value is not None}
