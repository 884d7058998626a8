"""The pages in a real browser: Debian's Chromium driven by playwright, judged by axe.

Needs the packages ``playwright`` and ``axe-core-python`` and a Chromium on the path.
"""

import shutil

import pytest

from benchmarks import render
from tests.benchmarks import synthetic

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
SIZES = {"phone": (360, 740), "wide": (1600, 1000)}
VIEWS = [(size, theme) for size in SIZES for theme in ("light", "dark")]
PAGES = ("report/index.html", "index.html", "comparison/index.html")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(study, tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    layers = {name: {"sum": total} for name, total in (("hidden", 3.0), ("head", 1.0))}
    records = [
        synthetic.record(
            study,
            r.part,
            r.method,
            r.seed,
            r.strength,
            importance={f"{r.part} 0": layers, f"{r.part} 1": layers},
        )
        if (r.method, r.role) == ("mas", "evaluation")
        else r
        for r in synthetic.records(study)
        if (r.method, r.seed) != ("ewc", 3)
    ]
    render.render(study, records, root / "report")
    render.index(root)
    files, _ = render.comparison.build_comparison(records, synthetic.records(study), ("old", "new"))
    for name, content in files.items():
        path = root / "comparison" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def open_page(browser, site):
    opened, complaints = [], []

    def open_(path="report/index.html", size="wide", theme="light", **options):
        width, height = SIZES[size]
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=theme, **options
        )
        opened.append(page)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type != "log" else None,
        )
        page.on(
            "request",
            lambda asked: (
                complaints.append(asked.url)
                if not asked.url.startswith((site.as_uri(), "data:,"))
                else None
            ),
        )
        page.goto((site / path).as_uri())
        return page

    yield open_
    for page in opened:
        page.close()
    assert complaints == []


def _column(page, table, number):
    rows = page.locator(f"#{table} tbody tr")
    return [
        rows.nth(i).locator("th,td").nth(number).inner_text().strip() for i in range(rows.count())
    ]


@pytest.mark.parametrize(("size", "theme"), VIEWS)
@pytest.mark.parametrize("path", PAGES)
def test_nothing_serious_for_axe(open_page, path, size, theme):
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    page = open_page(path, size, theme)
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    found = axe.Axe().run(page)
    serious = [
        (v["id"], [node["target"] for node in v["nodes"]][:3])
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


CUT_OFF = """() => {
  const wide = document.documentElement.clientWidth + 0.5;
  const bad = [];
  if (document.documentElement.scrollWidth > wide) bad.push("the page scrolls sideways");
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest(".scroll, nav ul, svg, pre, .skip, #tip, .symbols")) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > wide || box.left < -0.5)) {
      bad.push(element.outerHTML.slice(0, 80));
    }
  }
  for (const text of document.querySelectorAll("svg.chart text")) {
    const box = text.getBoundingClientRect();
    const around = text.closest("svg").getBoundingClientRect();
    if (box.left < around.left - 3 || box.right > around.right + 3
        || box.top < around.top - 3 || box.bottom > around.bottom + 3) {
      bad.push(`${text.closest("svg").getAttribute("aria-label")}: ${text.textContent}`);
    }
  }
  return bad;
}"""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_cut_off(open_page, path, size):
    page = open_page(path, size)
    assert page.evaluate(CUT_OFF) == []


def test_wide_screens_need_no_scrolling_in_tables(open_page):
    page = open_page()
    overflow = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"
    assert page.locator(".scroll").evaluate_all(overflow) == []


def test_text_in_figures_is_readable_on_a_phone(open_page):
    page = open_page(size="phone")
    sizes = page.locator("svg.chart text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize)"
        " * e.closest('svg').getScreenCTM().a)"
    )
    assert min(sizes) > 6.5


def test_tables_sort_by_mouse_and_keyboard(open_page):
    page = open_page()
    original = _column(page, "table-overview", 0)
    assert original == ["Naive", "Joint", "MAS", "EWC"]
    head = page.locator("#table-overview thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert _column(page, "table-overview", 0) == ["Joint", "MAS", "EWC", "Naive"]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert _column(page, "table-overview", 0) == ["Naive", "EWC", "MAS", "Joint"]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None
    assert _column(page, "table-overview", 0) == original


def test_missing_values_sort_last_either_way(open_page):
    page = open_page()
    button = page.locator("#table-digits-results thead th").nth(4).locator("button")
    for _ in range(2):
        button.click()
        assert _column(page, "table-digits-results", 0)[-1] == "Joint"


def test_filters_filter_tables_and_figures(open_page):
    page = open_page()
    page.locator("#filter summary").click()
    shown = page.locator('main [data-method="ewc"]:visible')
    before = shown.count()
    assert before > 10
    page.locator('#filter-methods input[value="ewc"]').uncheck()
    assert shown.count() == 0
    assert page.locator("#table-overview tbody tr:visible").count() == 3
    assert page.locator("#filter-state").inner_text() == "3 of 4 methods"
    assert page.locator('main [data-method="mas"]:visible').count() > 10
    page.locator('#filter-methods [data-all="1"]').click()
    assert shown.count() == before
    page.locator('#filter-parts input[value="glyphs"]').uncheck()
    assert page.locator('main [data-part="glyphs"]:visible').count() == 0
    assert page.locator('main [data-part="digits"]:visible').count() > 5


def test_figures_speak_to_pointer_and_keyboard(open_page):
    page = open_page()
    chart = page.locator("#curves svg.chart").first
    chart.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    mark = chart.locator('[data-method="mas"][data-tips] use').nth(1)
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2)
    tip = page.locator("#tip")
    assert tip.inner_text().startswith("MAS, after task 2 (digits 1):")
    page.mouse.move(1, 1)
    chart.focus()
    page.wait_for_timeout(300)
    said = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        said.append(tip.inner_text())
    assert len(set(said)) == 3
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() == said[1]
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_tab_reaches_every_control(open_page):
    page = open_page()
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
    assert {"Skip to content", "All studies", "theme", "Answer"} <= reached
    assert any("Filter" in name for name in reached)


def test_theme_can_be_chosen(open_page):
    page = open_page()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    for name in ("light", "dark"):
        button.click()
        assert button.inner_text() == f"Theme: {name}"
    dark = page.evaluate(paper)
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == dark


def test_printing_is_dark_on_white_and_whole(open_page):
    page = open_page(theme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 26, 27)"
    assert not page.locator(".bar").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_page_can_be_read_without_scripts(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("svg.chart").count() > 20
    assert not page.locator("#filter").is_visible()
    assert page.locator("#table-overview tbody tr").count() == 4
