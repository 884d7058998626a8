"""What Weights & Biases is told about a record: plain values, made without importing wandb.

The record stays the source: everything here is derived from it, and a mirror can be thrown away
and made again. Values are JSON so that they can be handed to another process.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

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
class Content:
    """One wandb run, in full.

    Args:
        run_id: The record's id, so that a second mirror meets the first.
        name: What the run is called in the list of runs.
        group: The study.
        job_type: The method.
        tags: Version of the code and part of the study.
        config: The run's configuration, nested.
        rows: History, one dictionary a row, each with its own step axis in it.
        histograms: Row number in `rows`, metric name, counts and edges.
        table: Columns and rows of the accuracy matrix.
        heat_map: The same matrix as PNG, base64; empty where there is no matrix.
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
    rows: list[dict[str, float]]
    histograms: list[tuple[int, str, list[float], list[float]]]
    table: tuple[list[str], list[list[Any]]]
    heat_map: str
    summary: dict[str, Any]
    artifact: str
    digest: str
    failed: bool = False
    axes: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(AXES))

    def to_json(self) -> dict[str, Any]:
        """Return the content as values that JSON can hold."""
        return asdict(self)


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
    rows = _task_rows(record, matrix, trained, tasks)
    histograms = _add_importance(rows, record.get("importance"), tasks)
    rows += _epoch_rows(record.get("history") or ())
    labels = ["before training"] + [_after(count, tasks) for count in trained]
    before = list((record.get("initial_accuracy") or {}).get("test") or ())
    shown = [before, *matrix] if before else matrix
    shown_labels = labels if before else labels[1:]
    method, part, seed = (record.get(key) for key in ("method", "part", "seed"))
    return Content(
        run_id=str(record["id"]),
        name=f"{part} {method} seed {seed}" + _strength(record),
        group=str(record.get("study")),
        job_type=str(method),
        tags=_tags(record),
        config=_config(record),
        rows=rows,
        histograms=histograms,
        table=(
            ["after", *tasks],
            [[label, *row] for label, row in zip(shown_labels, shown, strict=True)],
        ),
        heat_map=heat_map(shown, shown_labels, tasks, f"{part}: {method}") if shown else "",
        summary=_summary(record, rows),
        artifact=json.dumps(record, sort_keys=True, indent=1),
        digest=digest_of(record),
        failed=record.get("status") != "finished",
    )


def heat_map(
    matrix: Sequence[Sequence[float]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
) -> str:
    """Draw an accuracy matrix.

    Args:
        matrix: Accuracies in 0..1, a row each time the model was evaluated.
        row_labels: What had been trained.
        column_labels: The task evaluated.
        title: Printed above.

    Returns:
        A PNG image, base64.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = len(matrix), len(column_labels)
    figure = Figure(figsize=(2.4 + 0.55 * width, 1.6 + 0.4 * height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(width), column_labels, rotation=45, ha="right")
    axes.set_yticks(range(height), row_labels)
    axes.set_xlabel("accuracy on")
    axes.set_title(title)
    if height * width <= 400:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                colour = "black" if value > 0.5 else "white"
                axes.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8
                )
    figure.colorbar(image, ax=axes, shrink=0.8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _tasks_trained(
    record: Mapping[str, Any], matrix: Sequence[Sequence[float]], tasks: Sequence[str]
) -> list[int]:
    if record.get("method") == "joint":  # one row, after the union of all tasks
        return [len(tasks)] * len(matrix)
    return list(range(1, len(matrix) + 1))


def _after(count: int, tasks: Sequence[str]) -> str:
    return f"{count}: {tasks[count - 1]}"


def _key(name: str) -> str:
    """Keep a task's name from opening sections of its own in wandb."""
    return name.replace("/", "_").replace(".", "_")


def _task_rows(
    record: Mapping[str, Any],
    matrix: Sequence[Sequence[float]],
    trained: Sequence[int],
    tasks: Sequence[str],
) -> list[dict[str, float]]:
    names = [f"accuracy/{number:02d} {_key(task)}" for number, task in enumerate(tasks, 1)]
    rows: list[dict[str, float]] = []
    before = (record.get("initial_accuracy") or {}).get("test")
    if before:
        rows.append({TASK_AXIS: 0, **dict(zip(names, before, strict=True))})
    seconds = record.get("seconds") or {}
    phases = {
        phase: values for phase, values in seconds.items() if isinstance(values, list | tuple)
    }
    for index, (count, row) in enumerate(zip(trained, matrix, strict=True)):
        values: dict[str, float] = {TASK_AXIS: count, **dict(zip(names, row, strict=True))}
        values["continual/average_accuracy"] = sum(row[:count]) / count
        values["continual/new_task_accuracy"] = row[count - 1]
        if index > 0:
            best = [max(earlier[j] for earlier in matrix[j:index]) for j in range(index)]
            drops = [high - row[j] for j, high in enumerate(best)]
            values["continual/forgetting"] = sum(drops) / index
            changes = [row[j] - matrix[j][j] for j in range(index)]
            values["continual/backward_transfer"] = sum(changes) / index
        for phase, per_task in phases.items():
            if index < len(per_task):
                values[f"seconds/{phase}"] = per_task[index]
        rows.append(values)
    return rows


def _epoch_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    rows = []
    for count, entry in enumerate(history, 1):
        row: dict[str, float] = {EPOCH_AXIS: count}
        for key, value in entry.items():
            if key != "epoch" and isinstance(value, int | float):
                row[f"training/{key}"] = value
        rows.append(row)
    return rows


def _add_importance(
    rows: Sequence[Mapping[str, float]], importance: Mapping[str, Any] | None, tasks: Sequence[str]
) -> list[tuple[int, str, list[float], list[float]]]:
    """Find the row of each importance histogram; layers without one are passed over."""
    if not importance:
        return []
    row_of = {row[TASK_AXIS]: index for index, row in enumerate(rows)}
    found = []
    for count, task in enumerate(tasks, 1):
        layers = importance.get(task)
        if count not in row_of or not isinstance(layers, Mapping):
            continue
        for layer, values in layers.items():
            histogram = values.get("histogram") if isinstance(values, Mapping) else None
            if histogram:
                counts, edges = list(histogram["counts"]), list(histogram["edges"])
                if len(counts) <= _MAX_BINS:
                    found.append((row_of[count], f"importance/{_key(layer)}", counts, edges))
    return found


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


def _summary(record: Mapping[str, Any], rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"status": record.get("status")}
    for row in rows:
        summary |= {
            key.removeprefix("continual/"): value
            for key, value in row.items()
            if key.startswith("continual/")
        }
    seconds = (record.get("seconds") or {}).get("total")
    summary |= {"seconds_total": seconds, "peak_memory_bytes": record.get("peak_memory_bytes")}
    error = record.get("error") or {}
    summary |= {f"error_{key}": error[key] for key in ("type", "message") if key in error}
    return {
        key: value
        for key, value in summary.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }
