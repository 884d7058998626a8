"""Published numbers beside ours, only where the setting is the same.

The facts are in ``published.toml``, each with its source and with the setting that a part must have
to be put beside it. A setting that is only close shows nothing.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.render import text
from benchmarks.render.analysis import PartResult
from benchmarks.render.tables import Cell, Column, Row, Table
from benchmarks.study import Part

__all__ = ["load_published", "matches", "published_table"]

_FILE = Path(__file__).parent / "published.toml"


def load_published() -> list[dict[str, Any]]:
    """Read the published numbers.

    Returns:
        Entries with ``source``, ``setting``, ``match``, and by method ``results``.
    """
    entries: list[dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))["entry"]
    return entries


def matches(wanted: Mapping[str, Any], part: Part) -> bool:
    """Tell whether a part has a setting.

    Args:
        wanted: Values by dotted path into the part, such as ``training.epochs``.
        part: The part, with all defaults written out.

    Returns:
        Whether every value is the same.
    """
    return all(_lookup(part, path.split(".")) == _plain(value) for path, value in wanted.items())


def published_table(part: PartResult) -> Table | None:
    """Put published numbers beside ours.

    Args:
        part: The part.

    Returns:
        A row a method and source; None where no published setting is the same.
    """
    rows = []
    for entry in load_published():
        if not matches(entry["match"], part.part):
            continue
        for name, value in sorted(entry["results"].items()):
            method = part.method(name)
            if method is None:
                continue
            ours = method.estimates["average_accuracy"]
            cells = (
                Cell(method.title),
                Cell(text.percent_interval(ours), ours.mean),
                Cell(str(value["accuracy"])),
                Cell(entry["source"]),
                Cell(entry["setting"]),
            )
            rows.append(Row(cells, name))
    if not rows:
        return None
    columns = (
        Column("Method", numeric=False),
        Column("Ours, ACC %"),
        Column("Published, ACC %"),
        Column("Source", numeric=False),
        Column("Setting", numeric=False),
    )
    return Table(f"{part.name}-published", f"{part.label}: published numbers", columns, tuple(rows))


def _lookup(part: Part, path: list[str]) -> Any:
    found: Any = part
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
    return _plain(found)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
