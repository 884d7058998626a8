"""Studies: declared comparisons, read from TOML files.

Everything that can change a number is declared before anything runs: streams, models, training,
methods, the strengths that are tried, the seeds on which they are chosen, and the seeds that are
reported. A file with a mistake is refused in one sentence that names the place.
"""

import dataclasses
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import methods, models, streams
from benchmarks.continual_selection import Continual
from benchmarks.record import table_key
from benchmarks.schema import check_known, from_table

__all__ = [
    "Part",
    "RunConfig",
    "Seeds",
    "Selection",
    "Study",
    "Training",
    "Variant",
    "available",
    "load",
    "parse",
]

FOLDER = Path(__file__).parent / "studies"

Measure = Literal["overlap", "probes"]


@dataclass(frozen=True)
class Seeds:
    """Seeds of a study; the two lists share none.

    Attributes:
        evaluation: Seeds that are reported.
        tuning: Seeds on which strengths are chosen; they are not reported.
    """

    evaluation: tuple[int, ...]
    tuning: tuple[int, ...] = ()


@dataclass(frozen=True)
class Selection:
    """How the strength of a method is chosen.

    Attributes:
        procedure: "grid": the strength with the best final average accuracy on validation data,
            averaged over the tuning seeds; equal ones go to the smaller strength. "continual":
            learning rate and strength are chosen in each evaluation run, task by task, see
            :mod:`benchmarks.continual_selection`; the grid of a method holds the one strength from
            which the decay starts, and there are no tuning seeds.
        continual: Constants of that procedure; None with any other.
    """

    procedure: Literal["grid", "continual"] = "grid"
    continual: Continual | None = None


@dataclass(frozen=True)
class Training:
    """How a network is trained on each task; the same for every method of a part.

    Attributes:
        optimizer: "sgd", "adam" or "adamw". Its state starts afresh with each task.
        learning_rate: Step size, the same for every method. With the procedure
            "continual" it is what the factors on learning rates multiply.
        epochs: Passes over each task's training data.
        batch_size: Samples a mini-batch.
        momentum: Of SGD; 0 for the other optimizers.
        weight_decay: As the optimizer defines it.
        decay_every: Epochs of a task after which the learning rate is multiplied by ``decay``, each
            time that many have passed; the next task starts at the full rate. None: it is constant.
        decay: That factor, in (0, 1]; given together with ``decay_every``.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    epochs: int
    batch_size: int
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_every: int | None = None
    decay: float | None = None

    def share(self, epoch: int) -> float:
        """Return the share of the learning rate that an epoch of a task is trained with.

        Args:
            epoch: Epochs of the task that have passed.

        Example:
            >>> training = Training("sgd", 0.1, 100, 32, decay_every=54, decay=0.1)
            >>> [training.share(epoch) for epoch in (0, 53, 54, 99)]
            [1.0, 1.0, 0.1, 0.1]
        """
        if self.decay_every is None or self.decay is None:
            return 1.0
        return float(self.decay ** (epoch // self.decay_every))


@dataclass(frozen=True)
class Variant:
    """A method under a name of its own, so that a part can hold it more than once.

    Attributes:
        method: Name of a method in ``benchmarks.methods``.
        title: Name in reports.
        options: The method's keyword arguments beside the strength; defaults are written out.
    """

    method: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One learning problem of a study and the methods compared on it.

    Attributes:
        name: The part's key in the study.
        title: The part's heading in reports.
        stream: Name of a stream in ``benchmarks.streams``.
        model: Name of a model in ``benchmarks.models``.
        methods: Names of methods in ``benchmarks.methods`` or of variants, in the order of the
            report.
        training: See :class:`Training`.
        stream_options: Keyword arguments of the stream; defaults are written out.
        model_options: Keyword arguments of the model; defaults are written out.
        grid: For each tuned method its strengths; as many for every one.
        options: For each method its other keyword arguments; defaults are written out.
        threads: Threads of one run. Part of the configuration, as rounding depends on it.
        gpus: Share of a GPU that a run takes on a cluster with ``--device cuda``; 0.25 places four
            runs on each, 0 means a whole one.
        variants: Methods under other names and with other options; to reports and to the choice of
            a strength each is a method of its own.
        measure: What the reported runs measure beside accuracy, see :mod:`benchmarks.measures`.
        subset: Classes of the first task that stay in use after it; accuracy on them and on the
            task's other classes is measured apart.
        evaluation: Seeds that are reported of this part, in place of those of the study.
    """

    name: str
    title: str
    stream: str
    model: str
    methods: tuple[str, ...]
    training: Training
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = 1
    gpus: float = 0.0
    variants: Mapping[str, Variant] = field(default_factory=dict)
    measure: tuple[Measure, ...] = ()
    subset: tuple[int, ...] = ()
    evaluation: tuple[int, ...] = ()

    def base(self, name: str) -> str:
        """Return the method of the registry behind the name of a method or variant."""
        variant = self.variants.get(name)
        return name if variant is None else variant.method


@dataclass(frozen=True)
class Study:
    """A declared comparison.

    Attributes:
        name: Name of the file, without its ending.
        title: Heading of the report.
        question: What the study asks, in a sentence or two.
        seeds: See :class:`Seeds`.
        parts: Learning problems, in the order of the report.
        selection: See :class:`Selection`.
        commentary: Markdown that the report takes in.
    """

    name: str
    title: str
    question: str
    seeds: Seeds
    parts: tuple[Part, ...]
    selection: Selection = Selection()
    commentary: str = ""

    def evaluation_seeds(self, part: Part) -> tuple[int, ...]:
        """Return the seeds on which a part is reported."""
        return part.evaluation or self.seeds.evaluation


@dataclass(frozen=True)
class RunConfig:
    """The whole resolved configuration of one run: what the record's id is a hash of.

    Attributes:
        study: Name of the study.
        part: Name of the part.
        method: Name of the method.
        strength: The method's tuned number, None where there is nothing to tune.
        seed: Seed of stream, initialisation, data order and augmentation.
        role: Whether the run serves the choice of a strength or is reported.
        stream: Name of the stream.
        stream_options: Its keyword arguments.
        model: Name of the model.
        model_options: Its keyword arguments.
        training: See :class:`Training`.
        method_options: The method's keyword arguments beside the strength.
        threads: Threads of the run.
        selection: Constants where learning rate and strength are chosen in the run itself;
            ``strength`` is then where the decay starts.
        base: The method of the registry where ``method`` is a variant's name.
        measure: What is measured beside accuracy.
        subset: Classes of the first task that stay in use.
    """

    study: str
    part: str
    method: str
    strength: float | None
    seed: int
    role: Literal["selection", "evaluation"]
    stream: str
    stream_options: Mapping[str, Any]
    model: str
    model_options: Mapping[str, Any]
    training: Training
    method_options: Mapping[str, Any]
    threads: int = 1
    selection: Continual | None = None
    base: str | None = None
    measure: Sequence[Measure] = ()
    subset: Sequence[int] = ()

    @property
    def registered(self) -> str:
        """Name of the method in the registry."""
        return self.base or self.method

    def to_table(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        table = dataclasses.asdict(self)
        if self.selection is None:
            del table["selection"]
        else:
            factors = list(self.selection.learning_rate_factors)  # as JSON reads it back
            table["selection"]["learning_rate_factors"] = factors
        for name in ("base", "measure", "subset"):
            if not table[name]:
                del table[name]
        if self.training.decay_every is None:
            # So that the records of such runs are still those of this configuration.
            del table["training"]["decay_every"], table["training"]["decay"]
        return table

    def key(self, code_version: str) -> str:
        """Name the run's record: 16 hexadecimal digits from configuration and code.

        Args:
            code_version: Hash of the sources that can change results.
        """
        return table_key(self.to_table(), code_version)


def available() -> list[str]:
    """Return the names of the studies that come with the checkout."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str | Path) -> Study:
    """Read a study by its name, or from any file that ends in ``.toml``.

    Raises:
        ValueError: If there is no such study or the file has a mistake.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        check_known([str(name_or_path)], available(), "study", str(FOLDER))
        path = FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        raise ValueError(f"Expected a study file at {path}, and there is none.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected {path} to be a TOML file, got a mistake: {error}.") from error
    return parse(table, path.stem)


def parse(table: Mapping[str, Any], name: str) -> Study:
    """Check a study given as a table.

    Args:
        table: What the TOML file holds.
        name: The study's name.

    Returns:
        The study, with all defaults written out.

    Raises:
        ValueError: If a key, a name, a type or a value is wrong.
    """
    where = f"study `{name}`"
    _check_name(name, "study")
    table = dict(table)
    if "name" in table:
        raise ValueError(f"Unknown key `name` in {where}. A study is named by its file.")
    parts = table.get("parts", {})
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(f"Expected {where} to have at least one table [parts.NAME].")
    named = tuple(
        from_table(
            Part,
            {"title": key, **part, "name": key} if isinstance(part, Mapping) else part,
            f"[parts.{key}] of {where}",
        )
        for key, part in parts.items()
    )
    study = from_table(Study, {**table, "name": name, "parts": ()}, where)
    selection = _resolve_selection(study.selection, where)
    study = dataclasses.replace(study, selection=selection, parts=named)
    _check_seeds(study, where)
    resolved = tuple(_resolve_part(part, selection, where) for part in study.parts)
    _check_same_variants(resolved, where)
    if not study.seeds.tuning and any(len(g) > 1 for p in resolved for g in p.grid.values()):
        raise ValueError(
            f"Expected `tuning` in [seeds] of {where} to name a seed, as strengths are chosen."
        )
    return dataclasses.replace(study, parts=resolved)


def _check_name(name: str, what: str) -> None:
    if not name or not all(c.isascii() and (c.isalnum() or c in "_-") for c in name):
        raise ValueError(
            f"Expected the {what} name to be made of letters, digits, - and _; got {name!r}."
        )


def _resolve_selection(selection: Selection, where: str) -> Selection:
    if selection.procedure == "continual":
        return dataclasses.replace(selection, continual=selection.continual or Continual())
    if selection.continual is not None:
        raise ValueError(
            f"Expected no table [selection.continual] in {where} with the procedure "
            f'"{selection.procedure}".'
        )
    return selection


def _check_seeds(study: Study, where: str) -> None:
    if study.selection.continual is not None and study.seeds.tuning:
        raise ValueError(
            f'Expected no `tuning` in [seeds] of {where}: with the procedure "continual" each run '
            "chooses for itself."
        )
    if not study.seeds.evaluation:
        raise ValueError(f"Expected `evaluation` in [seeds] of {where} to name at least one seed.")
    for part in study.parts:
        _check_seeds_apart(study.seeds.tuning, study.evaluation_seeds(part), where)


def _check_seeds_apart(tuning: Sequence[int], evaluation: Sequence[int], where: str) -> None:
    both = [*tuning, *evaluation]
    twice = sorted({seed for seed in both if both.count(seed) > 1})
    if twice:
        raise ValueError(
            f"Expected each seed once in [seeds] of {where}, got {twice[0]} again. "
            "Seeds used for tuning are not reported."
        )
    if min(both) < 0:
        raise ValueError(f"Expected the seeds of {where} not to be negative, got {min(both)}.")


def _resolve_part(part: Part, selection: Selection, study: str) -> Part:
    where = f"[parts.{part.name}] of {study}"
    _check_name(part.name, "part")
    _check_training(part.training, where)
    if part.threads < 1:
        raise ValueError(f"Expected `threads` in {where} to be at least 1, got {part.threads}.")
    if part.gpus < 0.0 or (part.gpus > 1.0 and not part.gpus.is_integer()):
        raise ValueError(
            f"Expected `gpus` in {where} to be a share of one GPU or a whole number, got "
            f"{part.gpus}."
        )
    check_known([part.stream], streams.names(), "stream", where)
    allowed = {k: v for k, v in streams.options(part.stream).items() if k != "data_root"}
    stream_options = _fill(part.stream_options, allowed, f"`stream_options` in {where}")
    check_known([part.model], models.names(), "model", where)
    allowed = models.options(part.model)
    model_options = _fill(part.model_options, allowed, f"`model_options` in {where}")
    if part.subset and (min(part.subset) < 0 or len(set(part.subset)) < len(part.subset)):
        raise ValueError(
            f"Expected `subset` in {where} to list classes of the first task, each once, got "
            f"{list(part.subset)}."
        )
    variants = _resolve_variants(part, where)
    grid, options = _resolve_methods(part, selection, where)
    return dataclasses.replace(
        part,
        stream_options=stream_options,
        model_options=model_options,
        grid=grid,
        options=options,
        variants=variants,
    )


def _check_training(training: Training, where: str) -> None:
    place = f"[training] of {where}"
    if training.learning_rate <= 0.0:
        raise ValueError(
            f"Expected `learning_rate` in {place} to be positive, got {training.learning_rate}."
        )
    for name in ("epochs", "batch_size"):
        if getattr(training, name) < 1:
            raise ValueError(
                f"Expected `{name}` in {place} to be at least 1, got {getattr(training, name)}."
            )
    for name in ("momentum", "weight_decay"):
        if getattr(training, name) < 0.0:
            raise ValueError(
                f"Expected `{name}` in {place} not to be negative, got {getattr(training, name)}."
            )
    if training.momentum and training.optimizer != "sgd":
        raise ValueError(f"Expected no `momentum` in {place}: {training.optimizer} has its own.")
    _check_decay(training, place)


def _check_decay(training: Training, place: str) -> None:
    if (training.decay_every is None) != (training.decay is None):
        raise ValueError(
            f"Expected `decay_every` and `decay` in {place} together: the learning rate is "
            "multiplied by `decay` every `decay_every` epochs."
        )
    if training.decay_every is not None and training.decay_every < 1:
        raise ValueError(
            f"Expected `decay_every` in {place} to be at least 1, got {training.decay_every}."
        )
    if training.decay is not None and not 0.0 < training.decay <= 1.0:
        raise ValueError(
            f"Expected `decay` in {place} to be above 0 and at most 1, got {training.decay}."
        )


def _fill(given: Mapping[str, Any], allowed: Mapping[str, Any], where: str) -> dict[str, Any]:
    check_known(given, allowed, "key", where)
    # Through JSON, as tuples must not make another hash than lists.
    filled: dict[str, Any] = json.loads(json.dumps({**allowed, **given}))
    return filled


def _method_options(method: methods.Method) -> dict[str, Any]:
    parameters = inspect.signature(method.plugins).parameters
    return {name: parameters[name].default for name in method.options()}


def _resolve_variants(part: Part, where: str) -> dict[str, Variant]:
    resolved = {}
    for name, variant in part.variants.items():
        place = f"[variants.{name}] of {where}"
        _check_name(name, "variant")
        check_known([variant.method], methods.names(), "method", place)
        if name in methods.names():
            raise ValueError(f"Expected another name for {place}: there is a method of this name.")
        if name not in part.methods:
            raise ValueError(f"Expected `methods` in {where} to name the variant `{name}` too.")
        if name in part.options:
            raise ValueError(f"Expected the options of `{name}` in {place}, not in [options].")
        allowed = _method_options(methods.get(variant.method))
        options = _fill(variant.options, allowed, f"`options` in {place}")
        resolved[name] = dataclasses.replace(variant, options=options)
    return resolved


def _check_same_variants(parts: Sequence[Part], where: str) -> None:
    seen: dict[str, Variant] = {}
    for part in parts:
        for name, variant in part.variants.items():
            if seen.setdefault(name, variant) != variant:
                raise ValueError(
                    f"Expected the variant `{name}` to be the same in all parts of {where}, got "
                    f"another one in [parts.{part.name}]. Give it a name of its own."
                )


def _resolve_methods(
    part: Part, selection: Selection, where: str
) -> tuple[dict[str, tuple[float, ...]], dict[str, dict[str, Any]]]:
    if not part.methods:
        raise ValueError(f"Expected `methods` in {where} to name at least one method.")
    known = [*methods.names(), *part.variants]
    check_known(part.methods, known, "method", f"`methods` in {where}")
    twice = [m for i, m in enumerate(part.methods) if m in part.methods[:i]]
    if twice:
        raise ValueError(f"Expected each method once in `methods` of {where}, got {twice[0]}.")
    for key, place in ((part.grid, "grid"), (part.options, "options")):
        check_known(key, part.methods, "method", f"[{place}] of {where}")
    grid: dict[str, tuple[float, ...]] = {}
    options: dict[str, dict[str, Any]] = {}
    for name in part.methods:
        method = methods.get(part.base(name))
        if method.strength is not None:
            grid[name] = _check_grid(_strengths(part, name, selection, where), name, where)
        elif name in part.grid:
            raise ValueError(f"Expected no grid for `{name}` in {where}: it has nothing to tune.")
        place = f"`{name}` in [options] of {where}"
        variant = part.variants.get(name)
        chosen = part.options.get(name, {}) if variant is None else variant.options
        options[name] = _fill(chosen, _method_options(method), place)
    sizes = {name: len(strengths) for name, strengths in grid.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"Expected as many strengths for every tuned method in {where}, got {listed}. "
            "A method that is tried more often is not compared fairly."
        )
    return grid, options


def _strengths(part: Part, name: str, selection: Selection, where: str) -> tuple[float, ...]:
    method = methods.get(part.base(name))
    if selection.continual is None:
        return part.grid.get(name, method.default_grid)
    if not method.knob:
        raise ValueError(
            f"Expected the methods in {where} to change their strength from task to task, as the "
            f'procedure "continual" does; `{name}` cannot.'
        )
    strengths = part.grid.get(name, method.default_grid[:1])
    if len(strengths) != 1:
        raise ValueError(
            f"Expected one strength in the grid of `{name}` in {where}, got "
            f'{len(strengths)}. With the procedure "continual" it is where the decay starts.'
        )
    return strengths


def _check_grid(strengths: tuple[float, ...], method: str, where: str) -> tuple[float, ...]:
    place = f"the grid of `{method}` in {where}"
    if not strengths:
        raise ValueError(f"Expected {place} to hold at least one strength.")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"Expected {place} to hold each strength once, got {list(strengths)}.")
    if min(strengths) < 0.0:
        raise ValueError(f"Expected {place} to hold no negative strength, got {min(strengths)}.")
    return tuple(strengths)
