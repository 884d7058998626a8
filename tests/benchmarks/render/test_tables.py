"""Tables: only winners are bold, LaTeX is escaped, CSV holds what the report shows."""

import csv
import dataclasses
import io

import pytest

from benchmarks.render import page, published, tables
from benchmarks.render.analysis import analyse
from tests.benchmarks import synthetic


@pytest.fixture(scope="module")
def result():
    study = synthetic.study()
    return analyse(study, synthetic.records(study))


def test_only_the_winner_is_bold(result):
    for part in result.parts:
        bold = {
            (row.method, column.title)
            for row in tables.results_table(part).rows
            for cell, column in zip(row.cells, tables.results_table(part).columns, strict=True)
            if cell.bold
        }
        assert {method for method, _ in bold} == {"mas"}
        assert ("mas", "ACC, %") in bold


def test_stand_ins_are_said_at_each_head_or_once_for_all(result):
    mixed = tables.overview_table(result)
    heads = [column.title for column in mixed.columns[1:]]
    assert heads == ["Digits problem", "Glyphs problem (stand-in)"]
    assert "All streams are stand-ins." not in mixed.notes
    study = synthetic.study()
    records = [
        dataclasses.replace(r, stream={**r.stream, "stand_in_for": "another"})
        for r in synthetic.records(study)
    ]
    same = tables.overview_table(analyse(study, records))
    assert [column.title for column in same.columns[1:]] == ["Digits problem", "Glyphs problem"]
    assert "All streams are stand-ins." in same.notes


def test_csv_holds_every_record_and_every_accuracy(result):
    files = {
        name: list(csv.DictReader(io.StringIO(text)))
        for name, text in tables.csv_files(result).items()
    }
    assert len(files["runs.csv"]) == len(result.records)
    cells = sum(len(row) for r in result.records for row in r.accuracy["test"])
    assert len(files["accuracy.csv"]) == cells
    summary = {(r["part"], r["method"], r["metric"]): r for r in files["summary.csv"]}
    mas = result.parts[0].method("mas").estimates["average_accuracy"]
    row = summary["digits", "mas", "average_accuracy"]
    assert float(row["mean"]) == pytest.approx(mas.mean, rel=1e-5)
    assert float(row["t_low"]) < float(row["low"]) < float(row["high"]) < float(row["t_high"])
    assert row["best_beyond_noise"] == "1"
    joint = [r for r in files["accuracy.csv"] if r["method"] == "joint"]
    assert {r["after_task"] for r in joint} == {"4"}
    assert len(files["paired.csv"]) == 2 * 2 * 4
    assert len(files["selection.csv"]) == 2 * 4 * 3


def test_latex_is_escaped_and_has_booktabs_rules(result):
    text = page.latex_table(tables.results_table(result.parts[1])).decode()
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    assert r"ACC, \%" in text
    assert r"$\lambda$ = 1" in text
    assert r"\textbf{" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.strip()]
    assert len(lines) == 6
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert all(line.count(" & ") == len(columns) - 1 for line in lines)
    assert all(line.endswith(r"\\") for line in lines)
    assert text.isascii()


def test_latex_knows_the_letters_of_the_symbols():
    for symbol in ("λ", "c", "α", "Ω", "ξ", "T²", "2 × 512", "−0.5", "β_1 & 50 %"):
        assert page.escape_latex(symbol).isascii()


def test_markdown_rows_have_as_many_cells_as_heads(readme):
    widths = set()
    for block in readme.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            counts = {line.replace("\\|", "").count("|") for line in rows}
            assert len(counts) == 1
            widths |= counts
    assert widths


def _part(**changes):
    study = synthetic.study(parts=["digits"])
    part = study.parts[0]
    training = dataclasses.replace(
        part.training, learning_rate=0.001, epochs=10, batch_size=changes.pop("batch_size", 256)
    )
    return dataclasses.replace(
        part,
        stream="permuted_mnist",
        stream_options={"tasks": 10, "scenario": "domain", "padding": 0, "validation": 0.0},
        model_options={"hidden": [512]},
        training=training,
        **changes,
    )


def test_published_numbers_stand_only_beside_the_same_setting(result):
    shown = dataclasses.replace(result.parts[0], part=_part())
    (row,) = published.published_table(shown).rows
    assert row.method == "ewc"
    assert row.cells[2].text == "83"
    for other in (_part(batch_size=128), result.parts[0].part):
        assert published.published_table(dataclasses.replace(shown, part=other)) is None


def test_every_published_entry_has_source_setting_and_a_full_match():
    for entry in published.load_published():
        assert entry["source"]
        assert entry["setting"]
        assert {"stream", "model", "training.epochs", "training.batch_size"} <= set(entry["match"])


def test_times_are_told_beside_those_of_naive_training(result):
    part = result.parts[0]
    table = tables.cost_table(part)
    heads = [column.title for column in table.columns]
    assert heads[:3] == ["Method", "Time, s", "Time / naive"]
    cells = {row.method: row.cells[2] for row in table.rows}
    assert cells["naive"].text == "1.00"
    runs = {method.name: method.runs for method in part.methods}
    seeds = runs["mas"].keys() & runs["naive"].keys()
    ratios = [runs["mas"][s].values["seconds"] / runs["naive"][s].values["seconds"] for s in seeds]
    assert cells["mas"].order == pytest.approx(sum(ratios) / len(ratios))

    others = tuple(method for method in part.methods if method.name != "naive")
    table = tables.cost_table(dataclasses.replace(part, methods=others))
    assert "Time / naive" not in [column.title for column in table.columns]
