"""The runs of a study, and the choice of each method's strength.

Every tuned method is trained with as many strengths on the tuning seeds, which are not reported.
The strength with the best final average accuracy on *validation* data is then trained on the
evaluation seeds. A strength with which a run did not finish loses to any with which all did; equal
ones go to the smaller strength, which is closer to doing nothing.

With the procedure "continual" there are no such runs: each evaluation run chooses for itself, see
:mod:`benchmarks.continual_selection`, and what it tried is in its record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Literal

from benchmarks.record import Record
from benchmarks.study import Part, RunConfig, Study

__all__ = ["Choice", "Plan", "Try", "choose", "evaluation_runs", "final_validation_accuracy"]


@dataclass(frozen=True)
class Try:
    """One strength and how it did on the tuning seeds.

    Attributes:
        strength: The strength.
        score: Final average validation accuracy, averaged over the tuning seeds; None where a run
            did not finish.
        statuses: Status of each run.
    """

    strength: float
    score: float | None
    statuses: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What was tried for one method and what was chosen.

    Attributes:
        strength: The chosen strength; None where no run with any strength finished.
        tries: All strengths, strongest first.
    """

    strength: float | None
    tries: tuple[Try, ...]

    @property
    def at_edge(self) -> bool:
        """Whether the choice is the largest or the smallest strength tried."""
        return len(self.tries) > 1 and self.strength in (
            self.tries[0].strength,
            self.tries[-1].strength,
        )


def final_validation_accuracy(record: Record) -> float:
    """Average the accuracy on the validation data of all tasks after the last one.

    Args:
        record: A finished run.
    """
    return fmean(record.accuracy["validation"][-1])


def choose(records: Iterable[Record]) -> Choice:
    """Choose the strength of one method on one part.

    Args:
        records: The selection runs of that method.

    Returns:
        The choice and what it rests on.
    """
    by_strength: dict[float, list[Record]] = {}
    for record in records:
        if record.strength is not None:
            by_strength.setdefault(record.strength, []).append(record)
    tries = tuple(
        Try(strength, _score(runs), tuple(run.status for run in runs))
        for strength, runs in sorted(by_strength.items(), reverse=True)
    )
    finished = [(t.score, -t.strength) for t in tries if t.score is not None]
    return Choice(-max(finished)[1] if finished else None, tries)


def _score(runs: Sequence[Record]) -> float | None:
    if any(run.status != "finished" for run in runs):
        return None
    return fmean(final_validation_accuracy(run) for run in runs)


def selection_runs(study: Study, part: Part, method: str) -> list[RunConfig]:
    """List the runs from which a method's strength is chosen; none where there is no choice."""
    strengths = part.grid.get(method, ())
    if len(strengths) < 2:
        return []
    return [
        _config(study, part, method, strength, seed, "selection")
        for strength in strengths
        for seed in study.seeds.tuning
    ]


def evaluation_runs(
    study: Study, part: Part, method: str, strength: float | None
) -> list[RunConfig]:
    """List the runs of a method that are reported.

    Args:
        study: The study.
        part: One of its parts.
        method: One of the part's methods.
        strength: The chosen strength, None where there is nothing to tune.
    """
    return [
        _config(study, part, method, strength, seed, "evaluation")
        for seed in study.evaluation_seeds(part)
    ]


def _config(
    study: Study,
    part: Part,
    method: str,
    strength: float | None,
    seed: int,
    role: Literal["selection", "evaluation"],
) -> RunConfig:
    return RunConfig(
        study=study.name,
        part=part.name,
        method=method,
        strength=strength,
        seed=seed,
        role=role,
        stream=part.stream,
        stream_options=part.stream_options,
        model=part.model,
        model_options=part.model_options,
        training=part.training,
        method_options=part.options[method],
        threads=part.threads,
        selection=study.selection.continual,
        base=part.base(method) if method in part.variants else None,
        measure=list(part.measure) if role == "evaluation" else [],
        subset=list(part.subset),
    )


@dataclass
class _Group:
    """One method of one part: its selection runs, then the runs that are reported."""

    part: Part
    method: str
    selection: dict[str, RunConfig]
    evaluation: dict[str, RunConfig] = field(default_factory=dict)
    choice: Choice | None = None


class Plan:
    """What a study still has to run, given the records there are.

    Args:
        study: The study.
        code_version: Hash of the sources that can change results.
        records: Records there are; those of other configurations or other code are left out.
    """

    def __init__(self, study: Study, code_version: str, records: Iterable[Record] = ()) -> None:
        self.study = study
        self.code_version = code_version
        self.records: dict[str, Record] = {}
        self._groups: list[_Group] = []
        self._group_of: dict[str, _Group] = {}
        for part in study.parts:
            for method in part.methods:
                selection = self._by_id(selection_runs(study, part, method))
                group = _Group(part, method, selection)
                self._groups.append(group)
                self._group_of |= dict.fromkeys(selection, group)
        given = {record.id: record for record in records}
        for group in self._groups:
            self._advance(group, given)

    def _by_id(self, configs: Iterable[RunConfig]) -> dict[str, RunConfig]:
        return {config.key(self.code_version): config for config in configs}

    def _advance(self, group: _Group, given: Mapping[str, Record]) -> None:
        """Take over a group's records, and open its evaluation once its strength is known."""
        self._take(group.selection, given)
        if group.evaluation or any(id not in self.records for id in group.selection):
            return
        strength = None
        if group.selection:
            group.choice = choose(self.records[id] for id in group.selection)
            strength = group.choice.strength
            if strength is None:
                return
        elif group.method in group.part.grid:
            strength = group.part.grid[group.method][0]
        runs = evaluation_runs(self.study, group.part, group.method, strength)
        group.evaluation = self._by_id(runs)
        self._group_of |= dict.fromkeys(group.evaluation, group)
        self._take(group.evaluation, given)

    def _take(self, runs: Iterable[str], given: Mapping[str, Record]) -> None:
        self.records |= {id: given[id] for id in runs if id in given}

    def add(self, record: Record) -> dict[str, RunConfig]:
        """Note the record of a run of this plan.

        Returns:
            The runs that it has opened, by id.
        """
        self.records[record.id] = record
        group = self._group_of[record.id]
        before = bool(group.evaluation)
        self._advance(group, {})
        return {} if before else dict(group.evaluation)

    def pending(self) -> dict[str, RunConfig]:
        """Return the runs that can start now and have no record, by id, in their order.

        Selection comes first, method by method. In evaluation the methods of a part take turns
        within each seed, so that a machine that gets slower or faster does so for all of them, and
        a study that is stopped has compared them on the same seeds.
        """
        runs: dict[str, RunConfig] = {}
        for group in self._groups:
            runs |= group.selection
        for _, groups in groupby(self._groups, key=lambda group: group.part.name):
            opened = [group.evaluation.items() for group in groups if group.evaluation]
            for seed in zip(*opened, strict=True):
                runs |= dict(seed)
        return {id: config for id, config in runs.items() if id not in self.records}

    def num_runs(self) -> int:
        """Count all runs of the study, those with a record and those to come."""
        return sum(
            len(group.selection) + (self._num_seeds(group) if self._can_be_evaluated(group) else 0)
            for group in self._groups
        )

    def waiting(self) -> dict[tuple[str, str], int]:
        """Count the runs that wait for the choice of their strength, by part and method."""
        return {
            (g.part.name, g.method): self._num_seeds(g)
            for g in self._groups
            if not g.evaluation and self._can_be_evaluated(g)
        }

    def choices(self) -> dict[tuple[str, str], Choice]:
        """Return the choices made so far, by part and method."""
        return {(g.part.name, g.method): g.choice for g in self._groups if g.choice is not None}

    def _num_seeds(self, group: _Group) -> int:
        return len(self.study.evaluation_seeds(group.part))

    @staticmethod
    def _can_be_evaluated(group: _Group) -> bool:
        return group.choice is None or group.choice.strength is not None
