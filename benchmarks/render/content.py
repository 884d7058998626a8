"""What stands in a report, in which order, whatever it is written in.

A report is a list of sections, a section a list of blocks. The Markdown and the HTML page loop over
the same list, so neither can say what the other does not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.beside import Task
from benchmarks.continual_selection import Continual
from benchmarks.metrics import METRICS, Metric
from benchmarks.render import drawing, figures, published, questions, tables, text
from benchmarks.render.analysis import COSTS, MethodInfo, PartResult, StudyResult
from benchmarks.render.answer import heads
from benchmarks.render.drawing import Sketch, inline_svg
from benchmarks.render.importance import importance_figures
from benchmarks.study import Training

__all__ = [
    "Block",
    "Bullets",
    "Code",
    "Content",
    "Figure",
    "Figures",
    "Prose",
    "Section",
    "TableBlock",
    "compose",
]


@dataclass(frozen=True)
class Prose:
    """Paragraphs.

    Args:
        markdown: Their text.
    """

    markdown: str
    kind: str = "prose"


@dataclass(frozen=True)
class Bullets:
    """A list.

    Args:
        items: Pairs of a term, which may be empty, and what is said of it; plain text.
    """

    items: tuple[tuple[str, str], ...]
    kind: str = "bullets"


@dataclass(frozen=True)
class Code:
    """Commands.

    Args:
        lines: One a line.
    """

    lines: tuple[str, ...]
    kind: str = "code"


@dataclass(frozen=True)
class TableBlock:
    """A table.

    Args:
        table: The table.
        part: Part that it belongs to.
    """

    table: tables.Table
    part: str | None = None
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A figure.

    Args:
        title: Short heading, names the part.
        caption: How it is read.
        inline: Gives the ``<svg>`` for the page.
        file: Path of the file without its ending; empty where the page alone has it.
        part: Part that it belongs to.
        method: Method that it belongs to alone.
    """

    title: str
    caption: str
    inline: Callable[[], str]
    file: str
    part: str
    method: str | None = None


@dataclass(frozen=True)
class Figures:
    """Figures side by side.

    Args:
        figures: What the page shows.
        files: What the Markdown shows: pairs of title and path without ending.
        caption: Said once for all of them.
        small: Whether they are small multiples.
        legend: Methods that are shown; empty where each row is labelled.
    """

    figures: tuple[Figure, ...]
    files: tuple[tuple[str, str], ...]
    caption: str
    small: bool = False
    legend: tuple[MethodInfo, ...] = ()
    kind: str = "figures"


_NAVIGATION = {
    "results": "Results",
    "two-tasks": "Two tasks",
    "exactness": "Exactness",
    "subset": "In use",
    "probes": "Probes",
    "curves": "Curves",
    "matrices": "Matrices",
    "plasticity": "Plasticity",
    "cost": "Cost",
    "sensitivity": "Strength",
    "paired": "Differences",
    "importance": "Importance",
    "published": "Published",
    "selection": "Selection",
    "deviations": "Deviations",
    "commands": "Commands",
}
"""Short names for the navigation, where the title is long."""

Block = Prose | Bullets | Code | TableBlock | Figures


@dataclass(frozen=True)
class Section:
    """A heading and what follows.

    Args:
        name: Anchor.
        title: Heading.
        short: Its name in the navigation.
        blocks: What stands below it.
    """

    name: str
    title: str
    short: str
    blocks: tuple[Block, ...]


@dataclass
class Content:
    """A report before it is written.

    Args:
        result: What it is about.
        sections: In order.
        files: By the path of a figure without ending, what gives its files by their endings.
        inline: The figures of the page, in their order.
    """

    result: StudyResult
    sections: list[Section] = field(default_factory=list)
    files: dict[str, Task[dict[str, bytes]]] = field(default_factory=dict)
    inline: list[Task[str]] = field(default_factory=list)

    def add(self, name: str, title: str, blocks: Sequence[Block | None]) -> None:
        """Append a section, unless it would be empty."""
        there = tuple(block for block in blocks if block is not None)
        if there:
            self.sections.append(Section(name, title, _NAVIGATION.get(name, title), there))

    def draw(self, panel: figures.Panel, *, legend: bool = False) -> Figures | None:
        """Draw a panel for each part that has something to show."""
        made, files = [], []
        present: set[str | None] = set()
        for part in self.result.parts:
            alone = panel.draw(part, True)
            within = panel.draw(part, False)
            if alone is None or within is None:
                continue
            path = f"figures/{part.name}-{panel.name}"
            present |= {mark.method for mark in within.marks.values()}
            self.files[path] = Task(drawing.files, alone)
            made.append(Figure(part.label, "", self._inline(within), path, part.name))
            files.append((f"{panel.title}: {part.label}", path))
        if not made:
            return None
        shown = tuple(m for m in self.result.methods if legend and m.name in present)
        return Figures(tuple(made), tuple(files), panel.caption, legend=shown)

    def draw_overview(self, panel: figures.Panel) -> Figures | None:
        """Draw the average accuracies: a panel a part for the page, one figure for files."""
        together = figures.overviews(self.result.parts)
        if together is None:
            return None
        path = f"figures/{panel.name}"
        self.files[path] = Task(drawing.files, together)
        made = []
        short = heads(self.result.parts)
        for part in self.result.parts:
            sketch = panel.draw(part, False)
            if sketch is not None:
                made.append(Figure(short[part.name], "", self._inline(sketch), "", part.name))
        return Figures(tuple(made), ((panel.title, path),), panel.caption)

    def draw_heat_maps(self) -> list[Block]:
        """Draw the accuracy matrices: one a method for the page, one a part for files."""
        blocks: list[Block] = []
        for part in self.result.parts:
            together = figures.heat_maps(part)
            if together is None:
                continue
            path = f"figures/{part.name}-matrices"
            self.files[path] = Task(drawing.files, together)
            made = []
            for method in part.methods:
                sketch = figures.heat_map(part, method)
                if sketch is not None:
                    inline = self._inline(sketch)
                    made.append(Figure(method.title, "", inline, "", part.name, method.name))
            title = f"Accuracy matrices: {part.label}"
            blocks.append(Figures(tuple(made), ((title, path),), part.label, small=True))
        return blocks

    def _inline(self, sketch: Sketch) -> Task[str]:
        self.inline.append(Task(inline_svg, sketch, f"f{len(self.inline) + 1}-"))
        return self.inline[-1]


def compose(result: StudyResult) -> Content:
    """Put the report together; to be called inside :func:`benchmarks.render.drawing.style`.

    Args:
        result: The study.

    Returns:
        Sections and figure files.
    """
    content = Content(result)
    panel = {p.name: p for p in figures.panels()}
    overview = content.draw_overview(panel["overview"])
    single = len(result.parts) == 1
    table = (
        TableBlock(tables.results_table(result.parts[0]), result.parts[0].name)
        if single
        else TableBlock(tables.overview_table(result))
    )
    content.add("answer", "Answer", [table, overview])
    if result.study.commentary.strip():
        content.add("commentary", "Commentary", [Prose(result.study.commentary.strip())])
    if not single:
        content.add(
            "results",
            "Results by part",
            [TableBlock(tables.results_table(part), part.name) for part in result.parts],
        )
    _add_questions(content)
    content.add("curves", panel["curves"].title, [content.draw(panel["curves"], legend=True)])
    maps = content.draw_heat_maps()
    if maps:
        intro = Prose(
            "Accuracy on each task after each task, averaged over seeds. What is pale had "
            "not been learned yet."
        )
        content.add("matrices", "Accuracy matrices", [intro, *maps])
    content.add(
        "plasticity", panel["plasticity"].title, [content.draw(panel["plasticity"], legend=True)]
    )
    costs = [(part, tables.cost_table(part)) for part in result.parts]
    content.add(
        "cost",
        panel["cost"].title,
        [
            content.draw(panel["cost"], legend=True),
            *(TableBlock(found, part.name) for part, found in costs if found is not None),
        ],
    )
    content.add(
        "sensitivity",
        "Sensitivity to strength",
        [
            content.draw(panel["strength-accuracy"], legend=True),
            content.draw(panel["strength-forgetting"]),
        ],
    )
    paired = [
        (part, table)
        for part in result.parts
        for table in (tables.paired_table(part), tables.variants_table(part))
    ]
    content.add(
        "paired",
        "Paired differences",
        [
            content.draw(panel["paired"]),
            *(TableBlock(found, part.name) for part, found in paired if found is not None),
        ],
    )
    _add_importance(content)
    _add_published(content)
    _add_selection(content)
    _add_deviations(content)
    content.add("definitions", "Definitions", [Bullets(_definitions())])
    _add_environment(content)
    return content


def _add_questions(content: Content) -> None:
    asked = questions.panels()
    made: dict[str, Callable[[PartResult], tables.Table | None]] = {
        "subset": questions.subset_table,
        "probes": questions.probe_table,
    }
    for name in ("two-tasks", "exactness", "subset", "probes"):
        found = [(part, made[name](part)) for part in content.result.parts if name in made]
        blocks = [TableBlock(table, part.name) for part, table in found if table is not None]
        content.add(name, asked[name].title, [content.draw(asked[name]), *blocks])


def _add_importance(content: Content) -> None:
    blocks: list[Block] = []
    asked = questions.panels()
    for drawn in (*importance_figures(), asked["overlap"], asked["overlap-layers"]):
        block = content.draw(drawn, legend=drawn.name == "overlap-layers")
        blocks += [] if block is None else [block]
    content.add("importance", "Importance of parameters", blocks)


def _add_published(content: Content) -> None:
    found = [
        TableBlock(table, part.name)
        for part in content.result.parts
        if (table := published.published_table(part)) is not None
    ]
    if found:
        content.add("published", "Published numbers in the same setting", found)


def _add_selection(content: Content) -> None:
    study = content.result.study
    constants = study.selection.continual
    make = tables.selection_table if constants is None else tables.search_table
    found = [
        TableBlock(table, part.name)
        for part in content.result.parts
        if (table := make(part)) is not None
    ]
    if not found:
        return
    if constants is not None:
        intro = Prose(_continual_words(constants))
        content.add("selection", "Selection of learning rates and strengths", [intro, *found])
        return
    seeds = ", ".join(map(str, study.seeds.tuning))
    intro = Prose(
        f"Procedure `{study.selection.procedure}`: the strength with the best final average "
        f"accuracy on validation data, on tuning seed {seeds}, which is not reported. Validation "
        "data is cut from the training data. The runs of the grid are records like all others: "
        "[tables/selection.csv](tables/selection.csv)."
    )
    content.add("selection", "Selection of strengths", [intro, *found])


def _continual_words(constants: Continual) -> str:
    factors = text.enumerate_words([f"{f:g}" for f in constants.learning_rate_factors])
    attempts = constants.max_attempts
    return (
        "Procedure `continual` (De Lange et al., 2021): each run chooses for itself, task by task, "
        "on the validation data of the task at hand alone, which is cut from its training data. "
        f"Plain fine-tuning from the present model, with {factors} times the part's learning rate, "
        "tells the best accuracy that can be had. Then the method is trained at that rate from the "
        "same model. While it stays below "
        f"{1 - constants.drop_margin:g} times that accuracy, its strength is multiplied by "
        f"{constants.decay_factor:g} and it is trained anew, "
        f"{attempts} {'time' if attempts == 1 else 'times'} at most; the next task begins with the "
        "strength reached. Joint training chooses its learning rate on the validation data of all "
        "tasks. Times above are of the trainings that were kept. Everything that was tried is in "
        "the record of its run: [tables/search.csv](tables/search.csv)."
    )


def _add_deviations(content: Content) -> None:
    result = content.result
    items = [
        (info.title, " ".join(filter(None, (info.paper, *info.notes)))) for info in result.methods
    ]
    items += [
        (part.part.title, f"This stream stands in for {part.stand_in_for}.")
        for part in result.parts
        if part.stand_in_for
    ]
    items += [
        ("Mixed conditions", f"The runs differ in {name}: {_tally(values)}.")
        for name, values in result.environment.items()
        if len(values) > 1 and name != "date of the runs"
    ]
    problems = tables.problems_table(result)
    ending = (
        TableBlock(problems)
        if problems is not None
        else Prose("Every declared run of the evaluation is there and finished.")
    )
    content.add(
        "deviations",
        "Deviations and failures",
        [Bullets(tuple((term, said) for term, said in items if said)), ending],
    )


def _definitions() -> tuple[tuple[str, str], ...]:
    matrix = (
        "R[i, j]",
        "accuracy on the test data of task j after training task i; T is the number of tasks.",
    )
    interval = (
        "Interval",
        "95 % percentile bootstrap over seeds (10,000 resamples) from 5 seeds on. With fewer seeds "
        "the smallest and largest are given, which is no interval, and nothing is claimed. So few "
        "points make the bootstrap narrow: tables/summary.csv has the t interval beside it.",
    )
    pairing = (
        "Paired difference",
        "methods of one seed see the same data in the same order from the same initial weights, "
        "so they are compared seed by seed. p-values are those of the paired t-test, corrected by "
        "Holm's procedure; the exact sign-flip test stands beside them.",
    )
    noise = (
        "Beyond noise",
        "the 95 % interval of the paired difference leaves zero out, and its p-value is below 0.05 "
        "after Holm's correction: over the comparisons of its table, and for what is in bold over "
        "all pairs of methods, as the best of several is best partly by luck. "
        "In the answer, ahead and behind mean beyond noise; anything else is within noise.",
    )
    metrics = tuple((_heading(m), m.definition) for m in METRICS)
    costs = tuple((_heading(c), c.definition) for c in COSTS)
    return (matrix, *metrics, *costs, interval, pairing, noise)


def _heading(metric: Metric) -> str:
    title = f"{metric.title[0].upper()}{metric.title[1:]}"
    return f"{metric.short}: {metric.title}" if metric.short.isupper() else title


def _add_environment(content: Content) -> None:
    result = content.result
    study = result.study
    constants = study.selection.continual
    items = [(part.label, _part_words(part, constants)) for part in result.parts]
    content.add("setting", "Setting", [Bullets(tuple(items))])
    environment = tuple((name, _tally(values)) for name, values in result.environment.items())
    content.add("environment", "Environment", [Bullets(environment)])
    content.add(
        "commands",
        "Make it again",
        [
            Code(
                (
                    f"python -m benchmarks run {study.name}     # train what is missing",
                    f"python -m benchmarks report {study.name}  # write this report",
                )
            ),
            Prose(
                "The numbers come from [records.jsonl](records.jsonl), one run a line with its "
                "whole configuration; [tables](tables) holds every number as CSV and the tables "
                "as LaTeX, [figures](figures) the figures as SVG and PNG."
            ),
        ],
    )


_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def _part_words(part: PartResult, constants: Continual | None) -> str:
    declared, stream = part.part, part.stream
    training = declared.training
    words = [
        str(stream.get("description", declared.stream)),
        f"{stream['scenario']}-incremental, {len(part.task_names)} tasks"
        if "scenario" in stream
        else "",
        f"stands in for {part.stand_in_for}" if part.stand_in_for else "",
        f"model {declared.model}{_options(dict(declared.model_options))}",
        f"{_OPTIMIZERS[training.optimizer]} with {_rates(training, constants)}"
        f"{_schedule(training)}, "
        f"momentum {training.momentum:g}, weight decay {training.weight_decay:g}, "
        f"{training.epochs} {'epoch' if training.epochs == 1 else 'epochs'}, "
        f"mini-batches of {training.batch_size}",
    ]
    return "; ".join(word.rstrip(".") for word in words if word) + "."


def _rates(training: Training, constants: Continual | None) -> str:
    if constants is None:
        return f"learning rate {training.learning_rate:g}"
    rates = [f"{training.learning_rate * f:g}" for f in constants.learning_rate_factors]
    return f"a learning rate chosen among {text.enumerate_words(rates)}"


def _schedule(training: Training) -> str:
    if training.decay_every is None:
        return ""
    epochs = "epoch" if training.decay_every == 1 else f"{training.decay_every} epochs"
    return f" (times {training.decay:g} every {epochs} of a task)"


def _options(options: dict[str, object]) -> str:
    shown = ", ".join(f"{key} = {value}" for key, value in sorted(options.items()))
    return f" ({shown})" if shown else ""


def _tally(values: Mapping[str, int]) -> str:
    pairs = values.items()
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({text.count(number)} records)" for value, number in pairs)
