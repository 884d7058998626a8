"""Reports from synthetic records whose truth is known."""

import re
from html.parser import HTMLParser

import pytest

from benchmarks import render
from tests.benchmarks import synthetic


@pytest.fixture(scope="module")
def study():
    return synthetic.study()


@pytest.fixture(scope="module")
def files(study):
    return render.build(study, synthetic.records(study))


def test_render_writes_what_build_makes_and_check_agrees(tmp_path):
    study = synthetic.study(parts=["digits"], methods=["naive", "mas"])
    files = render.build(study, synthetic.records(study)[::-1])
    folder = tmp_path / study.name
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "old.svg").write_text("of an earlier report")
    render.render(study, synthetic.records(study), folder)
    written = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert written == files
    render.index(tmp_path)
    assert render.check(tmp_path, lambda name: study) == []
    (folder / "README.md").write_text("edited by hand")
    (folder / "tables" / "mine.csv").write_text("added by hand")
    (tmp_path / "index.html").unlink()
    messages = render.check(tmp_path, lambda name: study)
    assert len(messages) == 3
    assert "README.md differs from what its records produce" in messages[0]


class _Outside(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "srcset", "xlink:href", "action", "data") or (
                tag in ("link", "use", "image") and name == "href"
            ):
                self.found.append(value)


def test_page_loads_nothing(files):
    page = files["index.html"].decode()
    parser = _Outside()
    parser.feed(page)
    assert {value for value in parser.found if not value.startswith("#")} == {"data:,"}
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", page)
    assert len(files["index.html"]) < 6e6
