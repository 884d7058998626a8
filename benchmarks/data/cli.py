"""``python -m benchmarks data list | download NAME… | verify NAME…``."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from benchmarks.data.archives import unpack
from benchmarks.data.catalogue import CATALOGUE, Entry, Remote
from benchmarks.data.errors import DataError, UnsafeArchive
from benchmarks.data.places import cache_root, find, home_of_downloads, locate, roots
from benchmarks.data.transfer import fetch
from benchmarks.data.verify import verify

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run a command.

    Args:
        argv: The arguments after ``data``.

    Returns:
        0, or 1 if a dataset is missing, damaged or could not be fetched.
    """
    arguments = _parser().parse_args(list(argv))
    root: Path | None = arguments.data_root
    if arguments.command == "list":
        _list(root)
        return 0
    command = _download if arguments.command == "download" else _verify
    failed = 0
    for name in arguments.names:
        try:
            command(CATALOGUE[name], root)
        except DataError as error:
            failed = 1
            print(f"{name}: {error}", file=sys.stderr)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks data", description="Show, fetch and check datasets."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (
        ("list", "show which datasets there are, what they are, and where they were looked for"),
        ("download", "fetch datasets that are openly downloadable"),
        ("verify", "check counts, classes, checksums and every image"),
    ):
        command = commands.add_parser(name, help=words, description=words.capitalize() + ".")
        command.add_argument(
            "--data-root",
            type=Path,
            help="folder of the datasets; searched first, and downloaded into "
            "(default: the environment variable MAS_AVALANCHE_DATA)",
        )
        if name != "list":
            command.add_argument("names", nargs="+", choices=list(CATALOGUE), metavar="NAME")
    return parser


def _list(root: Path | None) -> None:
    table = Table(title="Datasets", title_justify="left")
    for heading in ("name", "dataset", "download", "decoded", "licence or terms"):
        table.add_column(heading, no_wrap=heading == "name")
    table.add_column("home page", overflow="fold")
    table.add_column("state", overflow="fold")
    for known in CATALOGUE.values():
        folder, _ = locate(known.name, root)
        table.add_row(
            known.name,
            known.title,
            _size(known.download_bytes) + ("" if known.remotes else " by hand"),
            _size(known.cached_bytes),
            known.terms,
            known.home,
            f"present: {folder}" if folder else "missing",
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    console.print(table)
    console.print("Looked in, in this order:", *(f"  {place}" for place in roots(root)), sep="\n")
    for known in CATALOGUE.values():
        for place in known.system:
            console.print(f"  {place} (for {known.name})")
    console.print(f"Downloads go to {home_of_downloads(root)}, decoded copies to {cache_root()}.")
    console.print("Sizes are approximate; `python -m benchmarks data download NAME` fetches a set.")
    for known in CATALOGUE.values():
        if known.manual or known.notes:
            how = f"{known.manual}." if known.manual else known.notes
            console.print(f"{known.name}: {how}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _download(known: Entry, root: Path | None) -> None:
    folder, _ = locate(known.name, root)
    if folder is not None:
        print(f"{known.name} is already in {folder}.")
        return
    if not known.remotes:
        how = f"{known.manual[0].upper()}{known.manual[1:]}"
        raise DataError(f"{how} (home page: {known.home}; about {_size(known.download_bytes)}).")
    home = home_of_downloads(root)
    print(
        f"{known.title}: about {_size(known.download_bytes)} to {home}. Licence or terms: "
        f"{known.terms} ({known.home})."
    )
    for remote in known.remotes:
        try:
            _fetch(remote, home)
        except DataError as error:
            then = "unpacks and then deletes it" if remote.unpack_into else "goes on from there"
            raise DataError(
                f"{error} To get {remote.name} by hand, put it into {home / remote.folder}: the "
                f"same command then {then}. Home page: {known.home}."
            ) from error
    print(f"{known.name} is in {find(known.name, home)}.")


def _fetch(remote: Remote, home: Path) -> None:
    target = home / remote.folder / remote.name
    checked = f"md5 {remote.md5}" if remote.md5 else "no published checksum is known"
    print(f"  {remote.urls[0]} ({_size(remote.about_bytes)}, {checked})")
    with _bar(remote.name) as progress:
        fetch(
            remote.urls,
            target,
            md5=remote.md5,
            max_bytes=2 * remote.about_bytes,
            progress=progress,
        )
    if remote.unpack_into is not None:
        try:
            with _bar(f"unpacking {remote.name}") as progress:
                count = unpack(
                    target,
                    home / remote.unpack_into,
                    max_bytes=remote.unpacked_bytes,
                    progress=progress.add,
                )
        except UnsafeArchive:
            # Kept, it would be taken for the file to unpack at the next call.
            target.unlink()
            raise
        target.unlink()
        print(f"  {count:,} files unpacked.")


class _Bar:
    """A progress bar that can be told the state or an increase."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def add(self, count: int) -> None:
        self._progress.advance(self._task, count)


@contextmanager
def _bar(title: str) -> Iterator[_Bar]:
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not sys.stderr.isatty()
    ) as progress:
        yield _Bar(progress, title)


def _verify(known: Entry, root: Path | None) -> None:
    folder = find(known.name, root)
    finding = verify(known, folder)
    print(f"{known.name} in {folder}: {finding.summary}.")
    for problem in finding.problems:
        print(f"  {problem}")
    if finding.problems:
        raise DataError(f"{len(finding.problems)} problem(s) found, listed above.")
    print("  Whole and readable.")
