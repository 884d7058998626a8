"""What MAS adds to naive training over whole runs of the published studies."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

from benchmarks import provenance
from benchmarks.run import execute
from benchmarks.selection import Plan
from benchmarks.speed.timing import interleaved
from benchmarks.study import RunConfig, Seeds, Study, load

__all__ = ["measure_overhead"]

_STUDIES: Mapping[str, Mapping[str, Any]] = {
    "permuted_fashion_mnist": {"tasks": 2},
    "split_fashion_mnist": {"train_per_class": 1_000},
    "glyphs": {"tasks": ["digits", "arrows"]},
}
_TOLERANCE = 0.02


def measure_overhead(
    *, rounds: int = 3, studies: Mapping[str, Mapping[str, Any]] = _STUDIES
) -> dict[str, Any]:
    """Time whole runs of naive training, of MAS, and of MAS that reads a part of the data.

    A run is that of the study on fewer tasks or samples, so that it takes seconds: data, training,
    importance passes and the whole accuracy matrix, with as many threads as in the study.

    Args:
        rounds: Counted rounds; each does every run once, in turn.
        studies: Names of studies, each with the options in which its stream is smaller; the first
            part of each study is taken.

    Returns:
        For each study its ``title``, the ``epochs`` a task, the ``threads`` of a run, the
        ``stream`` options, the ``tolerance``, and in ``results`` the table of
        :func:`benchmarks.speed.timing.interleaved` over ``"naive"``, ``"mas"`` and
        ``"mas_sampled"``, each with the median seconds of ``consolidation``.

    Raises:
        RuntimeError: If a run could not be done.
    """
    return {
        name: _measure(_shortened(load(name), options), options, rounds)
        for name, options in studies.items()
    }


def _measure(study: Study, options: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    (part,) = study.parts
    consolidation: dict[str, list[float]] = {name: [] for name in part.methods}

    def do(config: RunConfig) -> None:
        record = execute(config)
        if record.status != "finished":
            raise RuntimeError(f"Expected {config.method} to finish, got: {record.error}")
        consolidation[config.method].append(sum(record.seconds["consolidation"]))

    results = interleaved(
        {
            config.method: partial(do, config)
            for config in Plan(study, provenance.code_version()).pending().values()
        },
        reference="naive",
        rounds=rounds,
    )
    for name, seconds in consolidation.items():
        results[name]["consolidation"] = median(seconds[-rounds:])
    return {
        "title": part.title,
        "epochs": part.training.epochs,
        "threads": part.threads,
        "stream": dict(options),
        "tolerance": _TOLERANCE,
        "results": results,
    }


def _shortened(study: Study, options: Mapping[str, Any]) -> Study:
    """Leave the first part on a smaller stream, one seed, and naive training beside MAS."""
    part = study.parts[0]
    strengths = part.grid["mas"]
    strength = (strengths[len(strengths) // 2],)
    part = dataclasses.replace(
        part,
        methods=("naive", "mas", "mas_sampled"),
        grid={"mas": strength, "mas_sampled": strength},
        options={**part.options, "mas_sampled": {"tolerance": _TOLERANCE}},
        stream_options={**part.stream_options, **options},
        evaluation=(),
    )
    return dataclasses.replace(
        study, seeds=Seeds(evaluation=study.seeds.evaluation[:1]), parts=(part,)
    )
