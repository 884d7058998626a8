"""``python -m benchmarks speed``: measure, write the record, make the page."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.files import write_atomic
from benchmarks.render import TIMINGS
from benchmarks.render.timings import build
from benchmarks.speed.importance import CASES, measure
from benchmarks.speed.methods import measure_data, measure_methods, measure_tasks, measure_widths
from benchmarks.speed.overhead import measure_overhead
from benchmarks.speed.penalty import measure_penalty
from benchmarks.speed.study import measure_study
from benchmarks.speed.training import measure_training
from mas_avalanche.per_sample import kernel

__all__ = ["main", "write_page"]

_SECTIONS = ("training", "penalty", "methods", "overhead", "growth", "study", "importance")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: Words after ``speed``.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks speed",
        description="Time importance, penalty, data path and a study on this machine.",
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
    parser.add_argument(
        "--only", action="append", choices=_SECTIONS, help="only this section; the others stay"
    )
    options = parser.parse_args(arguments)
    path = options.out / TIMINGS
    if (options.page_only or options.only) and not path.is_file():
        parser.error(f"expected a record at {path}, got none: run it first without that option")
    if not options.page_only:
        options.out.mkdir(parents=True, exist_ok=True)
        record = _read(path) if options.only else {}
        found = _measure(options.only or _SECTIONS, options.rounds, options.threads, options.case)
        text = json.dumps(record | found, indent=1, sort_keys=True) + "\n"
        write_atomic(path, text)
    write_page(options.out)
    print(f"The page lies at {options.out / 'index.html'}")
    return 0


def write_page(folder: Path) -> None:
    """Make the page from the record in its folder.

    Args:
        folder: Holds ``record.json``.
    """
    for name, content in build(_read(folder / TIMINGS)).items():
        write_atomic(folder / name, content)


def _read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _measure(
    sections: Sequence[str], rounds: int, threads: int, cases: Sequence[str] | None
) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    measures: dict[str, Callable[[], Any]] = {
        "training": lambda: measure_training(rounds=rounds),
        "penalty": lambda: measure_penalty(rounds=rounds),
        "methods": lambda: measure_methods(rounds=rounds),
        "overhead": lambda: measure_overhead(rounds=min(3, rounds)),
        "growth": lambda: {
            "tasks": measure_tasks(),
            "width": measure_widths(),
            "data": measure_data(),
        },
        "study": measure_study,
        "importance": lambda: measure(
            cases, rounds=rounds, peer_rounds=min(3, rounds), threads=threads
        ),
    }
    try:
        return {
            name: {"environment": _environment(), "found": measures[name]()} for name in sections
        }
    finally:
        torch.set_num_threads(before)


def _environment() -> dict[str, Any]:
    return {
        "processor": provenance.processor("cpu"),
        "cores": provenance.num_cores(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "kernel": kernel.load() is not None,
        "commit": provenance.commit(),
        "code_version": provenance.code_version(),
        **provenance.versions(),
    }
