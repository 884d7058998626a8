"""What a person sees while a study runs: a live view in a terminal, else one line a run."""

import sys
from collections.abc import Iterable
from statistics import fmean
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.record import Record
from benchmarks.study import RunConfig

__all__ = ["Estimate", "LineView", "LiveView", "View", "describe", "duration", "make_view"]


class Estimate:
    """Guesses how long runs will take from records of the same kind.

    Args:
        records: Runs whose time is known.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learn from one more record; only finished runs tell how long a run takes."""
        if record.status == "finished":
            key = (record.part, record.method)
            self._seconds.setdefault(key, []).append(float(record.seconds["total"]))

    def of(self, part: str, method: str) -> float | None:
        """Return the seconds of one run: of the same method, else of the same part.

        Returns:
            None where nothing of the kind has run.
        """
        same = self._seconds.get((part, method), [])
        if not same:
            same = [s for (p, _), seconds in self._seconds.items() if p == part for s in seconds]
        return fmean(same) if same else None

    def total(self, kinds: Iterable[tuple[str, str]], processes: int) -> float | None:
        """Return the seconds that many runs take on several processes, None where unknown.

        Args:
            kinds: Part and method of each run.
            processes: Runs at a time.
        """
        each = [self.of(part, method) for part, method in kinds]
        known = [seconds for seconds in each if seconds is not None]
        if each and not known:
            return None
        # Runs of a kind that never ran are taken to be as long as the others.
        return sum(known) * (len(each) / len(known) if known else 0.0) / processes


def describe(run: RunConfig | Record) -> str:
    """Name a run for people: part, method, strength, seed."""
    strength = "" if run.strength is None else f" {run.strength:g}"
    role = " (selection)" if run.role == "selection" else ""
    return f"{run.part}: {run.method}{strength}, seed {run.seed}{role}"


def duration(seconds: float) -> str:
    """Write a time for people.

    Example:
        >>> duration(4.2), duration(75), duration(7300)
        ('4.2 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def outcome(record: Record) -> str:
    """Say in a few words how a run ended."""
    seconds = duration(float(record.seconds["total"]))
    if record.status == "finished":
        split, matrix = next(iter(record.accuracy.items()))
        return f"average {split} accuracy {fmean(matrix[-1]):.3f} in {seconds}"
    message = record.error["message"] if record.error else ""
    return f"{record.status.upper()} after {seconds}: {message.splitlines()[0] if message else ''}"


class View(Protocol):
    """Is told what happens."""

    def start(self, done: int, total: int, processes: int, failed: int = 0) -> None:
        """Runs begin: so many have a record, of so many, so many at a time; so many failed."""

    def running(self, runs: Iterable[RunConfig]) -> None:
        """These runs are at work."""

    def ended(self, record: Record, done: int, total: int, left: float | None) -> None:
        """A run has ended; ``left`` is a guess of the seconds to go."""

    def say(self, text: str) -> None:
        """Something else happened."""

    def stop(self) -> None:
        """No more will happen."""


class LineView:
    """One line a run.

    Args:
        stream: Where lines go; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def start(self, done: int, total: int, processes: int, failed: int = 0) -> None:
        """Say how much there is to do."""
        self.say(f"{total - done} of {total} runs to do, {processes} at a time.")

    def running(self, runs: Iterable[RunConfig]) -> None:
        """Say nothing: a run is told of when it has ended."""

    def ended(self, record: Record, done: int, total: int, left: float | None) -> None:
        """Print the run's line."""
        rest = f" (about {duration(left)} left)" if left else ""
        self.say(f"[{done}/{total}] {describe(record)}: {outcome(record)}{rest}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self.stream, flush=True)

    def stop(self) -> None:
        """Do nothing: all lines are written."""


class LiveView:
    """A bar, the counts, the time left and the runs at work, kept up to date in place.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.failed = 0
        self.at_work: list[str] = []
        self.task = self.progress.add_task(self._counts(), left="")
        self.live = Live(self._render(), console=console, refresh_per_second=4)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 1))
        # The bar below has to fit on the screen too.
        shown = self.at_work[: max(1, self.console.height - 4)]
        for line in shown:
            table.add_row("  ▸", line, style="dim")
        if len(self.at_work) > len(shown):
            table.add_row("", f"and {len(self.at_work) - len(shown)} more", style="dim")
        return Group(table, self.progress)

    def start(self, done: int, total: int, processes: int, failed: int = 0) -> None:
        """Show the bar."""
        self.failed = failed
        self.progress.update(self.task, completed=done, total=total, description=self._counts())
        self.live.start()

    def running(self, runs: Iterable[RunConfig]) -> None:
        """Show the runs at work."""
        self.at_work = [describe(run) for run in runs]
        self.progress.update(self.task, description=self._counts())
        self.live.update(self._render())

    def _counts(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{len(self.at_work)} running{failed}, done"

    def ended(self, record: Record, done: int, total: int, left: float | None) -> None:
        """Move the bar, and print a line for a run that did not finish."""
        if record.status != "finished":
            self.failed += 1
            self.say(f"{describe(record)}: {outcome(record)}")
        rest = f"about {duration(left)} left" if left else ""
        self.progress.update(
            self.task, completed=done, total=total, description=self._counts(), left=rest
        )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Leave the bar as it is and end."""
        self.running(())
        self.live.stop()


def make_view() -> View:
    """Choose the live view in a terminal, lines elsewhere."""
    console = Console()
    return LiveView(console) if console.is_terminal else LineView()
