"""``python -m benchmarks speed``: measure, write the record, make the page."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.files import write_atomic
from benchmarks.render import TIMINGS
from benchmarks.render.timings import build
from benchmarks.speed.importance import CASES, measure
from benchmarks.speed.methods import measure_data, measure_methods, measure_tasks, measure_widths
from benchmarks.speed.penalty import measure_penalty
from benchmarks.speed.training import measure_training

__all__ = ["main", "write_page"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: Words after ``speed``.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks speed",
        description="Time importance, penalty and data path on this machine, each in one run.",
    )
    parser.add_argument("--out", type=Path, default=provenance.ROOT / "reports" / "speed")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of each table")
    parser.add_argument("--threads", type=int, default=provenance.num_cores())
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="only these networks"
    )
    parser.add_argument(
        "--page-only", action="store_true", help="make the page from the record that is there"
    )
    options = parser.parse_args(arguments)
    if not options.page_only:
        options.out.mkdir(parents=True, exist_ok=True)
        record = _measure(options.rounds, options.threads, options.case)
        write_atomic(options.out / TIMINGS, json.dumps(record, indent=1, sort_keys=True) + "\n")
    write_page(options.out)
    print(f"The page lies at {options.out / 'index.html'}")
    return 0


def write_page(folder: Path) -> None:
    """Make the page from the record in its folder.

    Args:
        folder: Holds ``record.json``.
    """
    record = json.loads((folder / TIMINGS).read_text(encoding="utf-8"))
    for name, content in build(record).items():
        write_atomic(folder / name, content)


def _measure(rounds: int, threads: int, cases: Sequence[str] | None) -> dict[str, Any]:
    torch.set_num_threads(threads)
    return {
        "format": 1,
        "provenance": {
            "commit": provenance.commit(),
            "code_version": provenance.code_version(),
            **{f"version of {name}": value for name, value in provenance.versions().items()},
        },
        "training": measure_training(rounds=rounds),
        "penalty": measure_penalty(rounds=rounds),
        "methods": measure_methods(rounds=rounds),
        "growth": {
            "tasks": measure_tasks(),
            "width": measure_widths(),
            "data": measure_data(),
        },
        "importance": measure(cases, rounds=rounds, peer_rounds=min(3, rounds), threads=threads),
    }
