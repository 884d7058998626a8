"""Records whose truth is known, for the tests of reports."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.continual_selection import Continual
from benchmarks.record import Record
from benchmarks.study import Part, Seeds, Selection, Study, Training

GRID = (0.1, 1.0, 10.0)
TUNED = {"mas": "λ", "ewc": "λ", "si": "c", "lwf": "α"}
METHODS = ("naive", "joint", *TUNED)
# Share of its accuracy that an old task loses with each new one.
LOSS = {"naive": 0.4, "mas": 0.03, "ewc": 0.12, "si": 0.14, "lwf": 0.16}


def study(
    name: str = "synthetic",
    *,
    parts: Sequence[str] = ("digits", "glyphs"),
    methods: Sequence[str] = METHODS,
    evaluation: Sequence[int] = (1, 2, 3, 4, 5),
    **changes: Any,
) -> Study:
    training = Training("sgd", 0.1, 1, 10)
    return Study(
        name,
        changes.pop("title", "Synthetic *comparison* & <checks>"),
        changes.pop("question", "Which method keeps 100 % of what it knew?"),
        Seeds(tuple(evaluation), (0,)),
        tuple(
            Part(
                part,
                f"{part.title()} problem",
                "split_digits",
                "mlp",
                tuple(methods),
                training,
                grid={m: GRID for m in methods if m in TUNED},
            )
            for part in parts
        ),
        commentary=changes.pop("commentary", "A **known** winner, see `records.jsonl`."),
        **changes,
    )


def records(
    of: Study, *, loss: Mapping[str, float] = LOSS, noise: float = 0.01, num_tasks: int = 4
) -> list[Record]:
    """Every record of a study: all seeds, and the grid of each tuned method."""
    made = []
    for part in of.parts:
        for method in part.methods:
            for seed in of.seeds.evaluation:
                strength = 1.0 if method in TUNED else None
                made.append(record(of, part.name, method, seed, strength, loss, noise, num_tasks))
            for strength in part.grid.get(method, ()):
                worse = {k: v + (0.1 if strength != 1.0 else 0.0) for k, v in loss.items()}
                made.append(
                    record(of, part.name, method, 0, strength, worse, noise, num_tasks, "selection")
                )
    return made


def matrix(method: str, seed: int, loss: float, noise: float, num_tasks: int) -> list[list[float]]:
    shared = np.random.default_rng(seed).normal(0, 3 * noise)  # the same for every method
    own = np.random.default_rng([seed, *map(ord, method)])
    rows = []
    for i in range(1 if method == "joint" else num_tasks):
        row = []
        for j in range(num_tasks):
            if method == "joint":
                value = 0.92
            elif j > i:
                value = 0.5
            else:
                value = 0.9 * (1 - loss) ** (i - j)
            row.append(float(np.clip(value + shared + own.normal(0, noise), 0, 1)))
        rows.append(row)
    return rows


def record(
    of: Study,
    part: str,
    method: str,
    seed: int,
    strength: float | None,
    loss: Mapping[str, float] = LOSS,
    noise: float = 0.01,
    num_tasks: int = 4,
    role: str = "evaluation",
    **changes: Any,
) -> Record:
    test = matrix(method, seed, loss.get(method, 0.2), noise, num_tasks)
    number = sum(map(ord, method))
    table: dict[str, Any] = {
        "id": f"{abs(hash_text(f'{of.name}{part}{method}{seed}{strength}{role}')):016x}",
        "study": of.name,
        "part": part,
        "method": method,
        "strength": strength,
        "seed": seed,
        "role": role,
        "config": {"part": part, "method": method, "training": {"epochs": 1}},
        "status": "finished",
        "stream": {
            "scenario": "task",
            "description": f"{part} in {num_tasks} tasks",
            "stand_in_for": "the object-recognition sequence" if part == "glyphs" else None,
            "num_classes": [2] * num_tasks,
            "num_train": [100] * num_tasks,
            "num_test": [50] * num_tasks,
            "input_shape": [1, 8, 8],
        },
        "task_names": tuple(f"{part} {j}" for j in range(num_tasks)),
        "accuracy": {"test": _tuples(test), "validation": _tuples(test)},
        "initial_accuracy": {"test": tuple([0.5] * num_tasks)},
        "seconds": {
            "total": 5.0 + number / 100,
            "training": [1.0 + number / 500 + seed / 50] * num_tasks,
            "consolidation": [0.05 if method in ("mas", "ewc") else 0.0] * num_tasks,
            "evaluation": [0.1] * num_tasks,
        },
        "peak_memory_bytes": 300 * 2**20 + number,
        "parameters": {"trainable": 12345, "stored_extra": 2 * 12345 if method in TUNED else 0},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "code_version": "abc123",
        "commit": "0123456789abcdef",
        "processor": "a processor",
        "started": "2026-01-02T03:04:05+00:00",
    }
    return Record(**{**table, **changes})


def continual_study(methods: Sequence[str]) -> Study:
    """A study whose runs choose for themselves, from strength 1 on."""
    constants = Continual(learning_rate_factors=(1.0, 0.1))
    made = study(parts=["digits"], methods=methods, selection=Selection("continual", constants))
    (part,) = made.parts
    return dataclasses.replace(made, parts=(dataclasses.replace(part, grid={}),))


def with_selection(of: Record) -> Record:
    """Say what a run tried: MAS is refused once on every task, the others never."""
    entries: list[dict[str, Any]] = []
    strength = of.strength
    for _ in of.task_names:
        strengths = []
        if strength is not None:
            strengths = [strength, strength / 2] if of.method == "mas" else [strength]
            strength = strengths[-1]
        entries.append(
            {
                "learning_rates": [0.1, 0.01],
                "finetuned": [None, 0.9],
                "learning_rate": 0.01,
                "required": None if strength is None else 0.72,
                "strengths": strengths,
                "reached": [0.3, 0.8][-len(strengths) :] if strengths else [],
                "strength": strength,
                "accepted": True,
                "seconds": 0.5,
            }
        )
    return dataclasses.replace(of, selection=tuple(entries))


def hash_text(text: str) -> int:
    value = 0
    for letter in text:
        value = (value * 1000003 + ord(letter)) % 2**63
    return value


def _tuples(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)
