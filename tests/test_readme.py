"""What the README says is so: its example runs, its links lead somewhere."""

import re

import pytest

from benchmarks.provenance import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # Avalanche's default evaluator and progress bars
def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace = {}
    exec(code, namespace)
    (plugin,) = (p for p in namespace["strategy"].plugins if type(p).__name__ == "MASPlugin")
    assert sum(float(omega.sum()) for omega in plugin.importance.values()) > 0


def test_what_it_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_its_results_are_those_of_the_published_reports():
    results = README.split("## Results")[1].split("## Reproduce")[0]
    head, _, *rows = [cells(line) for line in results.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["Naive", "Joint", "MAS", "EWC", "Online EWC", "SI", "LwF"]
    for column, title in enumerate(head[1:], start=1):
        (path,) = re.findall(r"\((reports/\w+/README\.md)\)", title)
        report = (ROOT / path).read_text(encoding="utf-8").split("## Answer")[1]
        lines = [cells(line) for line in report.splitlines() if line.startswith("| ")]
        accuracy = lines[0].index("ACC, %")
        published = {line[0]: line[accuracy] for line in reversed(lines)}
        shown = {row[0]: row[column] for row in rows}
        assert shown == {name: published[name] for name in shown}, path
