"""Reports as a whole: complete, deterministic, checked, free of the network."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest

from benchmarks import beside, render
from benchmarks.record import read_lines
from tests.benchmarks import synthetic

SECTIONS = [
    "Answer",
    "Commentary",
    "Results by part",
    "Accuracy as tasks come",
    "Accuracy matrices",
    "Stability against plasticity",
    "Cost against accuracy",
    "Sensitivity to strength",
    "Paired differences",
    "Selection of strengths",
    "Deviations and failures",
    "Definitions",
    "Setting",
    "Environment",
    "Make it again",
]


@pytest.fixture(scope="module")
def small():
    study = synthetic.study(parts=["digits"], methods=["naive", "mas"])
    return study, dict(render.build(study, synthetic.records(study)))


def test_bytes_depend_neither_on_order_nor_on_the_users_matplotlib(small):
    study, files = small
    records = synthetic.records(study)[::-1]
    users = {"font.size": 20, "svg.hashsalt": None, "xtick.direction": "in", "xtick.top": True}
    with mpl.rc_context(users):
        again = dict(render.build(study, records))
    assert again.keys() == files.keys()
    assert [name for name in files if again[name] != files[name]] == []


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process(small, tmp_path):
    _, files = small
    code = (
        "import hashlib; from tests.benchmarks import synthetic; from benchmarks import render;"
        "s = synthetic.study(parts=['digits'], methods=['naive', 'mas']);"
        "f = dict(render.build(s, synthetic.records(s)));"
        "print(*(f'{n} {hashlib.sha256(b).hexdigest()}' for n, b in sorted(f.items())), sep='\\n')"
    )
    root = Path(__file__).parents[3]
    package = tmp_path / "tests"
    package.symlink_to(root / "tests")
    seen = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{root}"}
        preload = "import sys, types; m = types.ModuleType('tests'); m.__path__ = [sys.argv[1]]; "
        preload += "sys.modules['tests'] = m; "
        run = subprocess.run(
            [sys.executable, "-c", preload + code, str(root / "tests")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(run.stdout)
    assert len(seen) == 1
    assert len(seen.pop().splitlines()) == len(files)


def test_a_second_process_draws_the_same(small, monkeypatch):
    study, files = small
    monkeypatch.setattr(beside, "MANY_RECORDS", 0)
    monkeypatch.setattr(beside, "is_possible", lambda: True)
    assert dict(render.build(study, synthetic.records(study))) == files


def test_render_writes_what_build_makes_and_check_agrees(small, tmp_path, monkeypatch):
    study, files = small
    monkeypatch.setattr(render, "build", lambda *_: files.items())
    folder = tmp_path / study.name
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "old.svg").write_text("of an earlier report")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if name != "README.md":
            (folder / name).write_bytes(content)
    render.render(study, synthetic.records(study), folder)
    written = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert written == files
    (folder / "README.md").write_text("edited by hand")
    (folder / "tables" / "mine.csv").write_text("added by hand")
    (folder / "tables" / "runs.csv").unlink()
    messages = render.check(tmp_path, lambda name: study)
    texts = [
        "README.md differs from what its records produce",
        "runs.csv is missing",
        "mine.csv is not produced by the records",
        # The pages that list the reports were never written.
        "README.md is missing",
        "index.html is missing",
    ]
    assert len(messages) == len(texts)
    for message, text in zip(messages, texts, strict=True):
        assert text in message


def test_records_come_back_from_the_report(small, tmp_path):
    study, files = small
    path = tmp_path / "records.jsonl"
    path.write_bytes(files["records.jsonl"])
    key = {r.id: r for r in synthetic.records(study)}
    assert {r.id: r for r in read_lines(path)} == key


def test_a_folder_without_records_is_named(tmp_path):
    (tmp_path / "lost").mkdir()
    assert "records.jsonl is missing" in render.check(tmp_path)[0]


def test_index_lists_every_report_with_its_headline(files, study, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_bytes(files["summary.json"])
    render.index(tmp_path)
    answer = json.loads(files["summary.json"])["answer"]
    for name in ("README.md", "index.html"):
        text = (tmp_path / name).read_text()
        assert text.count("MAS is ahead of every other method") == 2
        assert text.count("(stand-in)") >= 2
        for report in ("one", "two"):
            assert re.search(rf"{report}/(README\.md|index\.html)", text)
    assert "MAS is ahead of every other method on" in answer


def test_sections_come_in_order_in_both_formats(page, readme):
    assert re.findall(r"^## (.*)$", readme, re.MULTILINE) == SECTIONS
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == SECTIONS


def test_a_stand_in_is_called_so_wherever_it_is_shown(files, page, readme):
    for text in (page, readme):
        assert "stands in for the object-recognition sequence" in text
        bare = re.findall(r"Glyphs problem(?! \(stand-in[;)]| stands in|</dt>|\*\*: This)", text)
        assert bare == []
    for name, content in files.items():
        if name.startswith("tables/glyphs") and name.endswith(".tex"):
            assert "(stand-in)" in content.decode()
    assert "(stand-in)" in json.loads(files["summary.json"])["table"]["columns"][2]


def test_text_of_the_study_cannot_break_the_page(page, readme):
    assert "<h1>Synthetic *comparison* &amp; &lt;checks&gt;</h1>" in page
    assert "# Synthetic \\*comparison\\* & \\<checks\\>" in readme
    assert "A <strong>known</strong> winner" in page
    assert "A **known** winner" in readme


def test_html_in_a_commentary_is_shown_not_obeyed():
    study = synthetic.study(
        parts=["digits"], methods=["naive", "mas"], commentary="<script>alert(1)</script>"
    )
    assert "<script>alert" not in render.page.to_html(study.commentary)


class _Outside(HTMLParser):
    """Collects what a page would load from elsewhere, and checks that its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.open = []
        self.ids = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "input", "br", "hr", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "srcset", "xlink:href", "action", "data") or (
                tag in ("link", "use", "image") and name == "href"
            ):
                self.found.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_loads_nothing(files, page):
    parser = _Outside()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert {value for value in parser.found if not value.startswith("#")} == {"data:,"}
    used = {value[1:] for value in parser.found if value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(parser.ids)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", page)
    assert len(files["index.html"]) < 2e6


def test_links_lead_to_files_of_the_report(files, page, readme):
    for text, pattern in ((page, r'href="([^"#:]+)"'), (readme, r"\]\(([^)#:]+)\)")):
        targets = set(re.findall(pattern, text)) - {"../index.html", "tables", "figures"}
        assert targets <= files.keys()
        assert targets


def test_records_of_another_study_are_refused(study):
    stranger = dataclasses.replace(synthetic.records(study)[0], study="other")
    with pytest.raises(ValueError, match="Expected `records` to belong to study `synthetic`"):
        dict(render.build(study, [stranger]))
    with pytest.raises(ValueError, match="at least one record, got none"):
        dict(render.build(study, []))
