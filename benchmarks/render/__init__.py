"""Reports: pure functions from a study and its records to files.

- :func:`render` writes the report of a study into a folder: ``README.md``, one self-contained
  ``index.html``, ``figures/`` as SVG and PNG, ``tables/`` as CSV and LaTeX, ``records.jsonl`` and
  ``summary.json``.
- :func:`index` writes ``README.md`` and ``index.html`` of the folder that holds the reports.
- :func:`check` says where committed reports differ from what their records produce.
- :func:`compare` puts two studies, or two versions of one, side by side.

:func:`build` gives the same bytes as :func:`render` without writing them. They depend on study,
records and the versions of the libraries that draw, on nothing else: no clock, no path, no order of
arrival. No report is edited by hand; commentary belongs in the study file.
"""

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from benchmarks import beside
from benchmarks.record import Record, read_lines, to_lines
from benchmarks.render import page, questions, timings
from benchmarks.render.analysis import StudyResult, analyse
from benchmarks.render.comparison import compare
from benchmarks.render.content import Content, TableBlock, compose
from benchmarks.render.drawing import style
from benchmarks.render.files import differences, replace_folder
from benchmarks.render.tables import Cell, Column, Row, Table, csv_files, overview_table
from benchmarks.study import Study, load

__all__ = ["build", "check", "compare", "index", "render"]

_OWNED = ("figures", "tables")

TIMINGS = "record.json"
"""Record of ``python -m benchmarks speed``, in its folder."""


def render(study: Study, records: Sequence[Record], out: Path) -> None:
    """Write the report of a study.

    Args:
        study: What was declared.
        records: Its records, in any order.
        out: Folder of the report; what an earlier report left in it is replaced.

    Raises:
        ValueError: If there is no record, one belongs elsewhere, or two stand for the same run.
    """
    replace_folder(Path(out), build(study, records), _OWNED)


def build(study: Study, records: Sequence[Record]) -> Iterator[tuple[str, bytes]]:
    """Make the files of a report, one after the other, as those of many records are large.

    Args:
        study: What was declared.
        records: Its records, in any order.

    Yields:
        Path within the report's folder, and content.

    Raises:
        ValueError: If there is no record, one belongs elsewhere, or two stand for the same run.
    """
    gc.freeze()  # the records stay: the garbage collector need not walk over them again and again
    try:
        # A file, as memory would hold twice what another process hands over.
        with TemporaryFile() as lines:
            write = beside.Task(_write_records, records, lines)
            with beside.meanwhile([write], len(records)):
                result = analyse(study, records)
                with style():
                    content = compose(result)
                write()
            lines.seek(0)
            yield "records.jsonl", lines.read()
        drawings: list[beside.Task[Any]] = [*content.inline, *content.files.values()]
        with beside.meanwhile(drawings, len(records)):
            yield from _files(result, content)
    finally:
        gc.unfreeze()


def _write_records(records: Sequence[Record], file: IO[bytes]) -> None:
    file.writelines(to_lines(records))
    file.flush()


def _files(result: StudyResult, content: Content) -> Iterator[tuple[str, bytes]]:
    context = {
        "title": result.study.title,
        "question": result.study.question,
        "answer": result.answer,
        "parts": [(part.name, part.label) for part in result.parts],
        "sections": content.sections,
        "legend": page.legend_items(result.methods),
        "crumb": True,
    }
    for table in _tables(content):
        yield f"tables/{table.name}.tex", page.latex_table(table)
    for name, text in (csv_files(result) | questions.csv_files(result)).items():
        yield f"tables/{name}", text.encode()
    yield "summary.json", _summary(result)
    yield "README.md", page.write("report.md.j2", context)
    # What is drawn comes last: the second process has drawn some of it by now.
    yield "index.html", page.write("report.html.j2", context)
    for path, draw in reversed(content.files.items()):  # the second process comes from the front
        for ending, figure in draw().items():
            yield f"{path}.{ending}", figure


def index(reports: Path) -> None:
    """Write the pages that list all reports, from the summaries in their folders.

    Args:
        reports: Folder that holds a folder for each study.
    """
    replace_folder(Path(reports), _index_files(Path(reports)).items(), ())


def check(reports: Path, find: Callable[[str], Study] = load) -> list[str]:
    """Compare committed reports with what their records produce.

    Args:
        reports: Folder that holds a folder for each study.
        find: Gives the study of a name.

    Returns:
        A sentence a difference; none where all is as it should be.
    """
    reports = Path(reports)
    found = []
    for folder in sorted(path for path in reports.iterdir() if path.is_dir()):
        measured = folder / TIMINGS
        if measured.is_file():
            pages = timings.build(json.loads(measured.read_text(encoding="utf-8")))
            found += differences(folder, pages.items(), ())
            continue
        records = folder / "records.jsonl"
        if not records.is_file():
            found.append(f"{records} is missing, so nothing in {folder} can be checked.")
            continue
        files = build(find(folder.name), read_lines(records))
        found += differences(folder, files, _OWNED)
    return found + differences(reports, _index_files(reports).items(), ())


def _tables(content: Content) -> list[Table]:
    return [
        block.table
        for section in content.sections
        for block in section.blocks
        if isinstance(block, TableBlock)
    ]


def _summary(result: StudyResult) -> bytes:
    table = overview_table(result)
    summary = {
        "name": result.study.name,
        "title": result.study.title,
        "question": result.study.question,
        "answer": result.answer,
        "num_records": len(result.records),
        "table": {
            "caption": table.caption,
            "columns": [column.title for column in table.columns],
            "rows": [
                {
                    "method": row.method,
                    "cells": [
                        {"text": c.text, "order": _finite(c.order), "bold": c.bold}
                        for c in row.cells
                    ],
                }
                for row in table.rows
            ],
            "notes": [note for note in table.notes if note],
        },
    }
    return (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode()


def _finite(value: float | None) -> float | None:
    return round(value, 6) if value is not None and isfinite(value) else None


def _index_files(reports: Path) -> dict[str, bytes]:
    studies = [_read_summary(path) for path in sorted(reports.glob("*/summary.json"))]
    measured = [path.parent.name for path in sorted(reports.glob(f"*/{TIMINGS}"))]
    context = {"studies": studies, "timings": measured, "timings_title": timings.TITLE}
    return {
        "README.md": page.write("index.md.j2", context),
        "index.html": page.write("index.html.j2", context),
    }


def _read_summary(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    table = summary["table"]
    columns = tuple(
        Column(title, numeric=number > 0) for number, title in enumerate(table["columns"])
    )
    rows = tuple(
        Row(tuple(Cell(c["text"], c["order"], c["bold"]) for c in row["cells"]), row["method"])
        for row in table["rows"]
    )
    name = f"{path.parent.name}-overview"
    summary["table"] = Table(name, table["caption"], columns, rows, tuple(table["notes"]))
    summary["name"] = path.parent.name
    return summary
