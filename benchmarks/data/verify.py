"""Checking a dataset: counts, classes, checksums, and whether every image can be read."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.cache import decode
from benchmarks.data.catalogue import Counts, Entry
from benchmarks.data.errors import DamagedData
from benchmarks.data.readers import ARRAYS, PICTURES, Picture
from benchmarks.data.transfer import md5_of

__all__ = ["Finding", "verify"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        summary: What is there, in words.
        problems: One sentence for everything that is wrong; none for a whole set.
    """

    summary: str
    problems: tuple[str, ...]


def verify(known: Entry, folder: Path) -> Finding:
    """Check a dataset.

    Args:
        known: What it should be.
        folder: Where it lies.

    Returns:
        What was found.
    """
    problems = [
        f"Expected {folder / name} to have the published md5 {md5}, got {got}."
        for name, md5 in known.md5
        if (folder / name).is_file() and (got := md5_of(folder / name)) != md5
    ]
    try:
        if known.name in ARRAYS:
            counts, labels = _arrays(known, folder)
        else:
            counts, labels, damaged = _pictures(known, folder)
            problems += damaged
    except DamagedData as error:
        return Finding("not readable", (*problems, str(error)))
    problems += _differences(known.counts, counts)
    problems += _empty_classes(labels, counts.classes)
    summary = (
        f"{counts.train:,} training and {counts.test:,} test samples, {counts.classes} classes"
    )
    if not counts.test:
        summary = f"{counts.train:,} samples without an official split, {counts.classes} classes"
    return Finding(summary, tuple(problems))


def _arrays(known: Entry, folder: Path) -> tuple[Counts, list[tuple[str, list[int]]]]:
    arrays = ARRAYS[known.name].read(folder)
    (_, train), (_, test) = arrays.train, arrays.test
    counts = Counts(len(train), len(test), len(arrays.class_names))
    return counts, [("training", train.tolist()), ("test", test.tolist())]


def _pictures(known: Entry, folder: Path) -> tuple[Counts, list[tuple[str, list[int]]], list[str]]:
    listing = PICTURES[known.name](folder)
    counts = Counts(len(listing.train), len(listing.test), len(listing.class_names))
    labels = [("training", [p.label for p in listing.train])]
    if listing.test:
        labels.append(("test", [p.label for p in listing.test]))
    # One reading a file, however many samples are cut out of it.
    boxes: dict[Path, list[Picture]] = {}
    for picture in (*listing.train, *listing.test):
        boxes.setdefault(picture.path, []).append(picture)
    return counts, labels, _unreadable(list(boxes.values()), known.name)


def _unreadable(groups: list[list[Picture]], name: str) -> list[str]:
    from rich.console import Console
    from rich.progress import track

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(_problem_of_one, groups)
        shown = track(
            results,
            f"Reading {name}",
            total=len(groups),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        return [problem for problem in shown if problem is not None]


def _problem_of_one(pictures: list[Picture]) -> str | None:
    try:
        for picture in pictures:
            decode(picture, 8)
    except DamagedData as error:
        return str(error)
    return None


def _differences(expected: Counts | None, found: Counts) -> list[str]:
    if expected is None:
        return []
    what: list[tuple[str, Callable[[Counts], int]]] = [
        ("training samples", lambda c: c.train),
        ("test samples", lambda c: c.test),
        ("classes", lambda c: c.classes),
    ]
    return [
        f"Expected {of(expected):,} {name}, got {of(found):,}."
        for name, of in what
        if of(expected) != of(found)
    ]


def _empty_classes(parts: list[tuple[str, list[int]]], classes: int) -> list[str]:
    problems = []
    for split, labels in parts:
        counted = np.bincount(np.array(labels, dtype=np.int64), minlength=classes)
        empty = np.flatnonzero(counted == 0).tolist()
        if empty:
            problems.append(
                f"Expected every class to have a {split} sample, got none for {len(empty)} "
                f"classes, the first number {empty[0]}."
            )
    return problems
