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


def test_its_results_are_those_of_the_published_report():
    report = (ROOT / "reports" / "embedded" / "README.md").read_text(encoding="utf-8")
    results = README.split("## Results")[1].split("## Reproduce")[0]
    rows = [line for line in results.splitlines() if line.startswith("| ")]
    assert len(rows) > 3
    assert [row for row in rows if row not in report.splitlines()] == []
