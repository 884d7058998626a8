"""Datasets decoded once, to arrays that are memory-mapped.

A set of pictures is decoded to uint8 arrays of one size: the largest centred square of each
picture, resized (bilinear, antialiased). Up to interpolation at the border this is "shorter side
to `size`, then centre crop". The arrays lie in the cache folder under a name made of the set, the
size and a fingerprint of the source files (names, sizes, times, labels); when the source changes,
they are made again. They are written under a lock and renamed into place whole, so that several
processes may start at once.

Training samples are stored in an order in which every end of the array is a stratified sample:
the last tenth of the array holds the last tenth of every class. A validation part can so be cut
off without copying anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.data.errors import DamagedData, DataError
from benchmarks.data.locks import locked
from benchmarks.data.places import cache_root, find
from benchmarks.data.readers import (
    ARRAYS,
    PICTURES,
    Arrays,
    Int64Array,
    Picture,
    Pictures,
    UInt8Array,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LETTERS_TEST_SHARE", "Loaded", "decode", "load"]

_FORMAT = 1
_CHUNK = 32  # pictures in memory at once while decoding
_FILES = ("train_x", "train_y", "test_x", "test_y")

LETTERS_TEST_SHARE = 0.15
"""Share of each class that is tested on where a set has no official split (seeded, stratified)."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A dataset as memory-mapped arrays.

    Args:
        class_names: One a class.
        train: Images of shape (N, channels, height, width), uint8, and labels of shape (N,); the
            end of it, of any length, is a stratified sample.
        test: The same for the official test part.
    """

    class_names: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(name: str, data_root: Path | None = None, size: int | None = None) -> Loaded:
    """Load a dataset, decoding it first if that was not done before.

    Args:
        name: Its name in the catalogue.
        data_root: Searched first, see :mod:`benchmarks.data.places`.
        size: Height and width in pixels; None for sets whose images have one size already.

    Returns:
        The set.

    Raises:
        MissingData: If it is not on this machine.
        DamagedData: If a file of it cannot be used.
        DataError: If the decoded copy cannot be written.
        ValueError: If `size` is missing for a set of pictures, or given for another.
    """
    if (size is None) != (name in ARRAYS):
        kind = "no `size`" if name in ARRAYS else "a `size`"
        raise ValueError(f"Expected {kind} for the dataset {name!r}, got {size!r}.")
    folder = find(name, data_root)
    listing = PICTURES[name](folder) if name in PICTURES else None
    fingerprint = _fingerprint(name, folder, size, listing)
    where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    stem = f"{name}-{size or 'native'}-{where}"
    root = cache_root()
    target = root / f"{stem}-{fingerprint}"
    with _writable(root), locked(root / f"{stem}.lock"):
        if not target.is_dir():
            _build(target, name, folder, size or 0, listing)
            for old in root.glob(f"{stem}-*"):
                if old != target:
                    shutil.rmtree(old)
        return _mapped(target)


def decode(picture: Picture, size: int) -> UInt8Array:
    """Read one picture: its largest centred square, resized.

    Args:
        picture: Which file, and which part of it.
        size: Height and width of the result.

    Returns:
        Shape (3, size, size).

    Raises:
        DamagedData: If the file is not a whole image.
    """
    try:
        with Image.open(picture.path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedData(f"Expected {picture.path} to be a whole image, got: {error}.") from error
    left, upper, right, lower = picture.box or (0, 0, image.width, image.height)
    right, lower = min(right, image.width), min(lower, image.height)
    if left >= right or upper >= lower:
        raise DamagedData(
            f"Expected the box {picture.box} to lie in {picture.path}, which has "
            f"{image.width}x{image.height} pixels."
        )
    side = min(right - left, lower - upper)
    x, y = left + (right - left - side) / 2, upper + (lower - upper - side) / 2
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(square).transpose(2, 0, 1)


def stratified_order(y: Int64Array, seed: int = 0) -> Int64Array:
    """Order samples so that the end of the order, of any length, is a stratified sample.

    Args:
        y: Labels of shape (N,).
        seed: Decides the order within a class.

    Returns:
        A permutation of shape (N,).
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(y))
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        # A random offset a class keeps the classes from taking turns in one fixed order.
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError) as error:
        raise DataError(
            f"Expected to be able to write decoded data to {root}, got: {error}. Name another "
            "folder in the environment variable MAS_AVALANCHE_CACHE."
        ) from error


def _fingerprint(name: str, folder: Path, size: int | None, listing: Pictures | None) -> str:
    """Hash everything on which the decoded arrays depend, without reading the images."""
    content: list[Any] = [_FORMAT, name, size]
    if listing is None:
        files = [
            next(p for p in (folder / either for either in file.split("|")) if p.exists())
            for file in ARRAYS[name].files
        ]
        content += [_stamp(path, folder) for path in files]
    else:
        content.append(listing.class_names)
        gone = []
        for picture in (*listing.train, *listing.test):
            try:
                content.append((*_stamp(picture.path, folder), picture.label, picture.box))
            except FileNotFoundError:
                gone.append(picture.path)
        if gone:
            raise DamagedData(
                f"Expected all images that the lists of {folder} name, got none at {gone[0]} "
                f"({len(gone)} missing in all)."
            )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _stamp(path: Path, folder: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


def _build(target: Path, name: str, folder: Path, size: int, listing: Pictures | None) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        if listing is None:
            class_names = _write_arrays(scratch, ARRAYS[name].read(folder))
        else:
            class_names = _write_pictures(scratch, name, listing, size)
        (scratch / "classes.json").write_text(json.dumps(class_names), encoding="utf-8")
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_arrays(scratch: Path, arrays: Arrays) -> tuple[str, ...]:
    for split, (x, y) in (("train", arrays.train), ("test", arrays.test)):
        order = stratified_order(y) if split == "train" else np.arange(len(y))
        pieces = (x[order[i : i + 512]] for i in range(0, len(y), 512))
        _save(scratch / f"{split}_x.npy", pieces, x.shape)
        np.save(scratch / f"{split}_y.npy", y[order])
    return arrays.class_names


def _write_pictures(scratch: Path, name: str, listing: Pictures, size: int) -> tuple[str, ...]:
    for split, pictures in _ordered(listing):
        shape = (len(pictures), 3, size, size)
        images = _decoded(pictures, size, f"Decoding {name} ({split})")
        _save(scratch / f"{split}_x.npy", images, shape)
        np.save(scratch / f"{split}_y.npy", _labels(pictures))
    return listing.class_names


def _ordered(listing: Pictures) -> list[tuple[str, list[Picture]]]:
    train, test = list(listing.train), list(listing.test)
    train = [train[i] for i in stratified_order(_labels(train))]
    if not test:
        cut = len(train) - round(LETTERS_TEST_SHARE * len(train))
        train, test = train[:cut], train[cut:]
    return [("train", train), ("test", test)]


def _labels(pictures: Sequence[Picture]) -> Int64Array:
    return np.array([picture.label for picture in pictures], dtype=np.int64)


def _save(path: Path, parts: Iterable[UInt8Array], shape: tuple[int, ...]) -> None:
    """Write an array piece by piece, by plain writes: a full disk is then an error, not a crash."""
    needed = int(np.prod(shape))
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"Expected room for {needed:,} bytes in {path.parent.parent}, got {free:,} free. Name "
            "another folder in the environment variable MAS_AVALANCHE_CACHE."
        )
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for part in parts:
            handle.write(np.ascontiguousarray(part).data)
        handle.flush()
        os.fsync(handle.fileno())


def _decoded(pictures: Sequence[Picture], size: int, label: str) -> Iterator[UInt8Array]:
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(pictures), _CHUNK)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in track(
            starts, label, console=Console(stderr=True), disable=not sys.stderr.isatty()
        ):
            chunk = pictures[start : start + _CHUNK]
            yield np.stack(list(pool.map(lambda picture: decode(picture, size), chunk)))


def _mapped(target: Path) -> Loaded:
    import torch

    # Copy-on-write: torch wants writable memory, and what is written never reaches the file.
    train_x, train_y, test_x, test_y = (
        torch.from_numpy(np.load(target / f"{name}.npy", mmap_mode="c")) for name in _FILES
    )
    class_names = json.loads((target / "classes.json").read_text(encoding="utf-8"))
    return Loaded(tuple(class_names), (train_x, train_y), (test_x, test_y))
