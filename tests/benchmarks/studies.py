"""Small studies for the tests of the benchmarks."""

import copy
import dataclasses
import json
from typing import Any

from benchmarks.record import Record
from benchmarks.selection import evaluation_runs
from benchmarks.study import RunConfig, Study, parse

SMOKE: dict[str, Any] = {
    "title": "Smoke",
    "question": "Does the whole path work?",
    "seeds": {"tuning": [0], "evaluation": [1, 2]},
    "parts": {
        "digits": {
            "stream": "split_digits",
            "model": "mlp",
            "model_options": {"hidden": [16]},
            "methods": ["naive", "joint", "mas"],
            "training": {
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "epochs": 1,
                "batch_size": 64,
            },
            "grid": {"mas": [1.0, 0.1]},
        }
    },
}


def smoke_table() -> dict[str, Any]:
    """Return a table of a study that trains in seconds."""
    return copy.deepcopy(SMOKE)


def smoke_study(**part: Any) -> Study:
    """Return the study, its part changed as said."""
    table = smoke_table()
    table["parts"]["digits"] |= part
    return parse(table, "smoke")


def smoke_config(method: str = "naive", strength: float | None = None, **part: Any) -> RunConfig:
    """Return one evaluation run of the study."""
    methods = part.pop("methods", [method])
    study = smoke_study(methods=methods, grid={}, **part)
    return evaluation_runs(study, study.parts[0], method, strength)[0]


def comparable(record: Record) -> dict[str, Any]:
    """Return what must not depend on time."""
    table = dataclasses.asdict(record)
    return {k: v for k, v in table.items() if k not in ("seconds", "peak_memory_bytes", "started")}


def to_toml(table: dict[str, Any], prefix: str = "") -> str:
    """Write a table of strings, numbers, lists and tables as TOML."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in plain.items())
    for key, value in nested.items():
        text += f"[{prefix}{key}]\n{to_toml(value, f'{prefix}{key}.')}"
    return text
