"""The immutable result of one run, as one JSON object.

A record carries all that is needed to read it alone: the resolved configuration, the accuracy
matrix, times, memory, versions, and what happened if the run did not finish. Everything downstream
(selection, tables, figures, trackers) is made from records.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmarks.schema import from_table

__all__ = [
    "FORMAT",
    "Overlap",
    "Probes",
    "Record",
    "RecordError",
    "SubsetAccuracy",
    "read_lines",
    "table_key",
    "to_lines",
]

FORMAT = 1
"""Version of the record's layout; it is raised when the meaning of a field changes."""

_OPTIONAL = ("selection", "overlap", "probes", "subset")  # not written where there is nothing

N = TypeVar("N", int, float)
Matrix = tuple[tuple[float, ...], ...]


class RecordError(ValueError):
    """A text that is not a record of this format; the message says where and why."""


@dataclass(frozen=True)
class Overlap:
    """How alike the importance of the tasks is in one layer, weight and bias together.

    Attributes:
        layer: Name of the layer.
        num_compared: Its parameters that were compared: all, or so many drawn at random.
        correlation: Spearman's correlation between what each task added to the importance, T by
            T; None where a task added a constant.
    """

    layer: str
    num_compared: int
    correlation: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Probes:
    """Accuracy on each task of a logistic regression trained on the features of that task.

    The features are what goes into the last linear layer; they are frozen while a probe is fitted
    to the task's training data.

    Attributes:
        initial: With the features of the untrained network.
        learned: With those right after the task was learned.
        final: With those after the last task.
    """

    initial: tuple[float, ...]
    learned: tuple[float, ...]
    final: tuple[float, ...]


@dataclass(frozen=True)
class SubsetAccuracy:
    """Accuracy on classes of the first task that stay in use, and on the task's other classes.

    Attributes:
        classes: The classes that stay in use.
        num_in_use: Their samples among those measured on.
        num_others: Samples of the other classes.
        in_use: Accuracy on the classes in use after each task.
        others: Accuracy on the others after each task.
    """

    classes: tuple[int, ...]
    num_in_use: int
    num_others: int
    in_use: tuple[float, ...]
    others: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training and its outcome.

    Attributes:
        format: Version of this layout.
        id: 16 hexadecimal digits: hash of ``config`` and ``code_version``.
        study: Name of the study.
        part: Name of the study's part.
        method: Name of the method.
        strength: The method's tuned number, None where there is nothing to tune.
        seed: Seed of the stream, the initialisation, the data order and the augmentation.
        role: Whether the run serves the choice of a strength or is reported.
        config: The whole resolved configuration, all defaults written out.
        status: "finished"; "diverged" when loss or weights left the finite numbers; "failed".
        error: What happened: ``type``, ``message``, ``traceback``; None for a finished run.
        stream: ``scenario``, ``description``, ``stand_in_for``, ``num_classes``, ``num_train``,
            ``num_test``, ``input_shape``.
        task_names: One name a task, in the order of training.
        accuracy: For "test" in an evaluation run, for "validation" in a selection run, the matrix
            ``R[i][j]`` in 0..1: accuracy on task j after training task i, for all j. A joint run
            has one row; a run that did not finish has the rows it reached.
        initial_accuracy: For the same split the accuracy on each task before any training.
        seconds: ``total``, and by task ``training``, ``consolidation``, ``evaluation``. Where a run
            chose for itself these are of the trainings that were kept; the time of the others is in
            ``selection``.
        peak_memory_bytes: Greatest resident memory of the process during the run; of the
            accelerator where one is used.
        parameters: ``trainable``, and ``stored_extra``: numbers that the method keeps beside the
            model, counted at the end.
        importance: Of evaluation runs of methods that weigh parameters: what is held after each
            task, by task name and layer: ``sum``, ``num_parameters``, and ``histogram`` of decimal
            logarithms (``counts``, ``edges``, ``num_zero``).
        selection: Where learning rate and strength were chosen in the run itself: by task what was
            tried and kept, see :class:`benchmarks.continual_selection.TaskSelection`.
        overlap: Where the study asks for it, of methods that weigh parameters: the layers that all
            tasks share, from the input on.
        probes: Where the study asks for it.
        subset: Where classes of the first task stay in use.
        history: Optional rows ``task``, ``epoch``, ``task_loss``, ``penalty``.
        versions: Versions of Python and of the packages that compute.
        code_version: Hash of the sources that can change results.
        commit: Revision of the checkout, with "-dirty" where files differ from it.
        device: Where tensors lived.
        processor: Name of the processor or accelerator.
        threads: Threads of the run.
        started: Start as ISO 8601 in UTC.
    """

    format: int = FORMAT
    id: str
    study: str
    part: str
    method: str
    strength: float | None
    seed: int
    role: Literal["selection", "evaluation"]
    config: Mapping[str, Any]
    status: Literal["finished", "failed", "diverged"]
    error: Mapping[str, str] | None = None
    stream: Mapping[str, Any] = field(default_factory=dict)
    task_names: tuple[str, ...] = ()
    accuracy: Mapping[str, Matrix] = field(default_factory=dict)
    initial_accuracy: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict)
    importance: Mapping[str, Any] | None = None
    selection: tuple[Mapping[str, Any], ...] = ()
    overlap: tuple[Overlap, ...] = ()
    probes: Probes | None = None
    subset: SubsetAccuracy | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    code_version: str
    commit: str | None = None
    device: str = "cpu"
    processor: str = ""
    threads: int = 1
    started: str = ""

    def to_json(self) -> str:
        """Write the record as one line of JSON with sorted keys.

        Raises:
            ValueError: If a number in the record is not finite.
        """
        # Not `asdict`, which copies every list and table in it.
        table = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for name in _OPTIONAL:
            if not table[name]:
                del table[name]
        return json.dumps(table, sort_keys=True, allow_nan=False, default=dataclasses.asdict)

    @classmethod
    def from_json(cls, text: str, where: str = "the text") -> "Record":
        """Read a record and check it against the layout.

        Args:
            text: One JSON object.
            where: Name of the place it came from, for messages.

        Returns:
            The record; lists have become tuples.

        Raises:
            RecordError: If the text is cut off, is not JSON, has another format, or does not fit
                the layout.
        """
        try:
            table = json.loads(
                text,
                parse_constant=_refuse_constant,
                parse_int=_INTEGERS.__getitem__,
                parse_float=_FLOATS.__getitem__,
            )
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"Expected {where} to hold one whole JSON record, got text that is cut off or "
                f"damaged ({error}). Delete it and run the study again."
            ) from error
        if not isinstance(table, dict):
            raise RecordError(f"Expected {where} to hold one JSON object, got {table!r:.60}.")
        _check_format(table.get("format"), where)
        try:
            record = from_table(cls, table, where)
            _check_matrices(record)
        except ValueError as error:
            raise RecordError(str(error)) from error
        return record


def table_key(table: Mapping[str, Any], code_version: str) -> str:
    """Hash a configuration together with the code that it is run by.

    Args:
        table: The configuration as plain data.
        code_version: Hash of the sources that can change results.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps({"config": table, "code": code_version}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_lines(path: Path) -> list[Record]:
    """Read a file that holds one record a line.

    Raises:
        RecordError: If a line is no record; the message names file and line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        Record.from_json(line, f"line {number} of {path}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def to_lines(records: Iterable[Record]) -> Iterator[bytes]:
    """Write records as a file of one a line, in an order that does not depend on time.

    Yields:
        The lines, sorted by part, method, strength, role and seed.
    """
    ordered = sorted(
        records, key=lambda r: (r.part, r.method, r.strength or 0.0, r.role, r.seed, r.id)
    )
    for record in ordered:
        yield f"{record.to_json()}\n".encode()


class _Numbers(dict[str, N]):
    """Numbers by how they are written; short ones come again and again in thousands of records."""

    def __init__(self, kind: Callable[[str], N]) -> None:
        super().__init__()
        self.kind: Callable[[str], N] = kind

    def __missing__(self, word: str) -> N:
        number = self.kind(word)
        if len(word) < 8 and len(self) < 2**17:
            self[word] = number
        return number


_INTEGERS: _Numbers[int] = _Numbers(int)
_FLOATS: _Numbers[float] = _Numbers(float)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _check_format(found: Any, where: str) -> None:
    if not isinstance(found, int) or isinstance(found, bool):
        raise RecordError(
            f"Expected {where} to have `format` {FORMAT}, got {found!r:.60}: it is no record."
        )
    if found == FORMAT:
        return
    if found < FORMAT:
        raise RecordError(
            f"Expected {where} to have `format` {FORMAT}, got the older format {found}. "
            "Run the study again into a new store, or read it with the version that wrote it."
        )
    raise RecordError(
        f"Expected {where} to have `format` {FORMAT}, got the newer format {found}. "
        "Update this checkout to the version that wrote it."
    )


def _check_matrices(record: Record) -> None:
    num_tasks = len(record.task_names)
    for split, matrix in record.accuracy.items():
        for row in matrix:
            _check_row(row, num_tasks, f"`accuracy` on {split} of record {record.id}")
    for split, row in record.initial_accuracy.items():
        _check_row(row, num_tasks, f"`initial_accuracy` on {split} of record {record.id}")


def _check_row(row: tuple[float, ...], num_tasks: int, what: str) -> None:
    if len(row) != num_tasks:
        raise ValueError(f"Expected {what} to have {num_tasks} columns, got {len(row)}.")
    if not all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in row):
        raise ValueError(f"Expected {what} to lie between 0 and 1, got {row!r:.80}.")
