"""Where data is looked for, and where it is put.

A data root holds datasets in the folders in which torchvision puts them. Roots are searched in
this order: the one given (``--data-root``), the environment variable ``MAS_AVALANCHE_DATA``, then
folders that torchvision and Avalanche are commonly given (``./data``, ``~/data``, ``~/datasets``,
``~/.avalanche/data``), then the default, ``~/.local/share/mas_avalanche``. Downloads go to the
root given, else to the environment variable's, else to the default.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data.catalogue import CATALOGUE, Entry
from benchmarks.data.errors import MissingData

__all__ = [
    "cache_root",
    "entry",
    "find",
    "home_of_downloads",
    "how_to_get",
    "locate",
    "missing_parts",
    "require",
    "roots",
]

_VARIABLE = "MAS_AVALANCHE_DATA"
_CACHE_VARIABLE = "MAS_AVALANCHE_CACHE"


def entry(name: str) -> Entry:
    """Look a dataset up.

    Args:
        name: Its name in the catalogue.

    Returns:
        What is known about it.

    Raises:
        ValueError: If there is no such dataset.
    """
    if name not in CATALOGUE:
        raise ValueError(f"Expected a dataset out of {list(CATALOGUE)}, got {name!r}.")
    return CATALOGUE[name]


def roots(data_root: Path | None = None) -> list[Path]:
    """List the data roots in the order in which they are searched.

    Args:
        data_root: Searched first; None where the user gave none.

    Returns:
        Folders, each once, whether they exist or not.
    """
    home = Path.home()
    listed = [
        data_root,
        _from_environment(),
        Path("data"),
        home / "data",
        home / "datasets",
        home / ".avalanche" / "data",
        _default(),
    ]
    return list(dict.fromkeys(root.expanduser().absolute() for root in listed if root is not None))


def home_of_downloads(data_root: Path | None = None) -> Path:
    """Choose the root into which data is fetched.

    Args:
        data_root: As the user gave it, or None.

    Returns:
        An absolute path; it need not exist.
    """
    return (data_root or _from_environment() or _default()).expanduser().absolute()


def cache_root() -> Path:
    """Choose the folder of decoded data: ``MAS_AVALANCHE_CACHE`` or ``~/.cache/mas_avalanche``.

    Returns:
        An absolute path; it need not exist.
    """
    chosen = os.environ.get(_CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().absolute() / "mas_avalanche"


def locate(name: str, data_root: Path | None = None) -> tuple[Path | None, list[Path]]:
    """Search for a dataset.

    Args:
        name: Its name in the catalogue.
        data_root: Searched first.

    Returns:
        The folder that holds all it needs, or None, and the places that were searched.
    """
    known = entry(name)
    searched = roots(data_root)
    candidates = [root / folder for root in searched for folder in known.folders]
    system = [Path(folder) for folder in known.system]
    for folder in [*candidates, *system]:
        if not missing_parts(known, folder):
            return folder, [*searched, *system]
    return None, [*searched, *system]


def missing_parts(known: Entry, folder: Path) -> list[str]:
    """List what a folder lacks to hold a dataset.

    Args:
        known: The dataset.
        folder: A candidate.

    Returns:
        Those of the entry's needs that are not there.
    """
    return [
        need
        for need in known.needs
        if not any((folder / either).exists() for either in need.split("|"))
    ]


def find(name: str, data_root: Path | None = None) -> Path:
    """Find a dataset.

    Args:
        name: Its name in the catalogue.
        data_root: Searched first.

    Returns:
        The folder that holds it.

    Raises:
        MissingData: If it is nowhere.
    """
    folder, searched = locate(name, data_root)
    if folder is None:
        known = entry(name)
        raise MissingData(name, searched, _what_is_lacking(known, searched) + how_to_get(known))
    return folder


def _what_is_lacking(known: Entry, searched: Sequence[Path]) -> str:
    """Name the first folder that holds a part of a set, and what is not in it."""
    for folder in (root / below for root in searched for below in known.folders):
        lacking = missing_parts(known, folder)
        if len(lacking) < len(known.needs):
            words = ", ".join(need.replace("|", " or ") for need in lacking)
            return f"{folder} has a part of it and lacks {words}; "
    return ""


def require(names: Sequence[str], data_root: Path | None = None) -> None:
    """Make sure that datasets are there, and name all that are not.

    Args:
        names: Names in the catalogue.
        data_root: Searched first.

    Raises:
        MissingData: If one or more of them are nowhere.
    """
    gone: list[MissingData] = []
    for name in names:
        try:
            find(name, data_root)
        except MissingData as error:
            gone.append(error)
    if len(gone) == 1:
        raise gone[0]
    if gone:
        fetched = [error.dataset for error in gone if entry(error.dataset).remotes]
        ways = [
            f"{error.dataset}: {error.how_to_get}" for error in gone if error.dataset not in fetched
        ]
        if fetched:
            size = sum(entry(name).download_bytes for name in fetched) / 1e9
            names_of_fetched = " ".join(fetched)
            ways.insert(
                0,
                f"get {names_of_fetched} with `python -m benchmarks data download "
                f"{names_of_fetched}` (about {size:,.1f} GB in all), or name the folder above them "
                f"with --data-root or {_VARIABLE}",
            )
        places = list(dict.fromkeys(place for error in gone for place in error.where_looked))
        for name in reversed(fetched):
            if lacking := _what_is_lacking(entry(name), places):
                ways.insert(0, f"{name}: {lacking.removesuffix('; ')}")
        raise MissingData(", ".join(error.dataset for error in gone), places, "; ".join(ways))


def how_to_get(known: Entry) -> str:
    """Say how a dataset is had.

    Args:
        known: The dataset.

    Returns:
        The end of a sentence.
    """
    if not known.remotes:
        return (
            f"{known.manual} (home page: {known.home}; about {known.download_bytes / 1e9:.1f} GB)"
        )
    size = known.download_bytes / 1e6
    return (
        f"get it with `python -m benchmarks data download {known.name}` (about {size:,.0f} MB "
        f"from {known.home}), or name the folder above it with --data-root or {_VARIABLE}"
    )


def _from_environment() -> Path | None:
    value = os.environ.get(_VARIABLE)
    return Path(value) if value else None


def _default() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "mas_avalanche"
