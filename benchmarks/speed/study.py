"""Where the time of a whole study goes, function by function, as Python's profiler sees it."""

import cProfile
import dataclasses
import pstats
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import provenance, render
from benchmarks.dispatch import Settings, do_run
from benchmarks.selection import Plan
from benchmarks.store import Store
from benchmarks.study import Seeds, Study, load
from benchmarks.tracking import client

__all__ = ["measure_study"]

_TOP = 12  # functions listed


def measure_study(name: str = "embedded") -> dict[str, Any]:
    """Profile one run of every method of every part of a study, with its mirror and its report.

    Of each tuned method the strength in the middle of its grid is taken, and of the seeds the first
    one reported. All runs are done in this process, which a study leaves to its workers. The
    profiler tells the time that a function spends by itself, without what it calls.

    Args:
        name: Name or path of a study.

    Returns:
        The study's ``title``, the number of ``runs``, their ``seconds`` under the profiler; as
        parts of these the ``shares`` of each package; and for the ``functions`` outside torch that
        take most their ``name``, ``package`` and ``share``.

    Raises:
        RuntimeError: If a run could not be done.
    """
    study = _shortened(load(name))
    plan = Plan(study, provenance.code_version())
    profiler = cProfile.Profile()
    with TemporaryDirectory() as folder:
        settings = Settings(
            folder, 1, wandb_folder=Path(folder) / "wandb", commit=provenance.commit()
        )
        store = Store(folder, study.name)
        with profiler:
            for id, config in plan.pending().items():
                kind, payload = do_run(id, config, settings)
                if kind != "record":
                    raise RuntimeError(
                        f"Expected a record of {config.method}, got {kind}: {payload}."
                    )
            for path, content in render.build(study, store.records()):
                (Path(folder) / Path(path).name).write_bytes(content)
        client.leave()
    return {"title": study.title, "runs": plan.num_runs(), **_digest(pstats.Stats(profiler))}


def _shortened(study: Study) -> Study:
    """Leave one strength a method, so that nothing is tuned, and one seed."""
    seeds = Seeds(evaluation=study.seeds.evaluation[:1])
    parts = tuple(
        dataclasses.replace(
            part,
            grid={m: (strengths[len(strengths) // 2],) for m, strengths in part.grid.items()},
            evaluation=(),
        )
        for part in study.parts
    )
    return dataclasses.replace(study, seeds=seeds, parts=parts)


def _digest(stats: pstats.Stats) -> dict[str, Any]:
    own = {key: entry[2] for key, entry in stats.stats.items()}  # type: ignore[attr-defined]
    total = sum(own.values())
    shares: Counter[str] = Counter()
    functions = []
    for (path, _, function), seconds in own.items():
        package, place = _place(path, function)
        shares[package] += seconds / total
        functions.append({"name": place, "package": package, "share": seconds / total})
    outside = sorted(
        (found for found in functions if found["package"] != "torch"),
        key=lambda found: -found["share"],
    )
    return {"seconds": total, "shares": dict(shares), "functions": outside[:_TOP]}


def _place(path: str, function: str) -> tuple[str, str]:
    """Name the package of a function, and the function as a reader would look for it."""
    if path == "~":  # compiled
        return ("torch" if "torch" in function else "Python"), function
    file = Path(path).with_suffix("")
    if "site-packages" in file.parts:
        inside = file.parts[file.parts.index("site-packages") + 1 :]
    elif file.is_relative_to(provenance.ROOT):
        inside = file.relative_to(provenance.ROOT).parts
    else:
        return "Python", f"{file.name}.{function}"
    package = "torch" if inside[0] == "torchvision" else inside[0]
    return package, f"{'.'.join(inside)}.{function}"
