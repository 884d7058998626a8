"""A store as large as a lab's after months, made up in seconds.

Called as ``python -m tests.benchmarks.large STUDY_FILE STORE``: writes the study and its records,
of the size that records of real runs have. The files are not flushed to the disk one by one.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks import provenance
from benchmarks.record import Record
from benchmarks.selection import Plan
from benchmarks.store import Store
from benchmarks.study import RunConfig, load
from tests.benchmarks.studies import to_toml
from tests.benchmarks.synthetic import matrix

METHODS = ["naive", "joint", "mas", "mas_vector", "mas_local", "mas_proximal", "ewc", "ewc_online"]
METHODS += ["si", "lwf", "avalanche_mas", "avalanche_ewc"]
NUM_PARTS = 4
NUM_SEEDS = 203
NUM_TASKS = 10
NUM_EPOCHS = 5
LAYERS = ("trunk.1", "trunk.3", "head")


def study_text() -> str:
    """Return a study of 4 parts, 12 methods and 203 seeds: 10,024 runs."""
    training = {"optimizer": "sgd", "learning_rate": 0.05, "epochs": NUM_EPOCHS, "batch_size": 64}
    part = {
        "stream": "permuted_mnist_mini",
        "stream_options": {"tasks": NUM_TASKS},
        "model": "mlp",
        "methods": METHODS,
        "training": training,
    }
    return to_toml(
        {
            "title": "Large",
            "question": "Does it scale?",
            "seeds": {"tuning": [0], "evaluation": list(range(1, NUM_SEEDS + 1))},
            "parts": {f"part_{i}": part for i in range(NUM_PARTS)},
        }
    )


def record(id: str, config: RunConfig, code_version: str) -> Record:
    """Make up the record of a run, about as many bytes as a real one."""
    draw = np.random.default_rng(int(id, 16))
    num_rows = 1 if config.method == "joint" else NUM_TASKS
    split = "validation" if config.role == "selection" else "test"
    loss = {"naive": 0.4}.get(config.method, 0.1) + 0.01 * abs(np.log10(config.strength or 1.0))
    weighs = config.method not in ("naive", "joint", "lwf") and config.role == "evaluation"
    table = config.to_table()
    return Record(
        id=id,
        study=config.study,
        part=config.part,
        method=config.method,
        strength=config.strength,
        seed=config.seed,
        role=config.role,
        config=table,
        status="finished",
        stream={
            "scenario": "domain",
            "description": "made up",
            "stand_in_for": None,
            "num_classes": [10] * NUM_TASKS,
            "num_train": [4000] * NUM_TASKS,
            "num_test": [500] * NUM_TASKS,
            "input_shape": [1, 28, 28],
        },
        task_names=tuple(f"permutation {i}" for i in range(NUM_TASKS)),
        accuracy={split: tuple(map(tuple, matrix(config.method, config.seed, loss, 0.01, 10)))},
        initial_accuracy={split: (0.1,) * NUM_TASKS},
        seconds={"total": 9.0 + draw.random()}
        | {
            what: draw.random(num_rows).tolist()
            for what in ("training", "consolidation", "evaluation")
        },
        peak_memory_bytes=500_000_000,
        parameters={"trainable": 269_322, "stored_extra": 538_644 if weighs else 0},
        importance={f"permutation {i}": _layers(draw) for i in range(10)} if weighs else None,
        history=tuple(
            {"task": task, "epoch": epoch, "task_loss": draw.random(), "penalty": draw.random()}
            for task in range(num_rows)
            for epoch in range(NUM_EPOCHS)
        ),
        versions=provenance.versions(),
        code_version=code_version,
        commit="0" * 40,
        processor="a processor",
        started="2026-01-02T03:04:05+00:00",
    )


def _layers(draw: np.random.Generator) -> dict[str, object]:
    return {
        name: {
            "sum": draw.random(),
            "num_parameters": 65_792,
            "histogram": {
                "counts": draw.integers(0, 9999, 16).tolist(),
                "edges": np.linspace(-9, 1, 17).round(3).tolist(),
                "num_zero": 12,
            },
        }
        for name in LAYERS
    }


def fill(study_file: Path, root: Path) -> int:
    """Write the study and all its records; return their number."""
    study_file.write_text(study_text(), encoding="utf-8")
    study = load(study_file)
    store = Store(root, study.name)
    store.prepare()
    plan = Plan(study, provenance.code_version())
    while pending := plan.pending():
        for id, config in pending.items():
            made = record(id, config, plan.code_version)
            Path(store.where(id)).write_text(made.to_json() + "\n", encoding="utf-8")
            plan.add(made)
    return len(plan.records)


if __name__ == "__main__":
    print(fill(Path(sys.argv[1]), Path(sys.argv[2])))
