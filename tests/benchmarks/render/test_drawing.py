"""Figures: every point can be asked about, colours can be told apart, files are clean."""

import dataclasses
import html
import io
import json
import re
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from benchmarks import methods
from benchmarks.render import figures
from benchmarks.render.analysis import analyse
from benchmarks.render.drawing import inline_svg, png, style, svg
from benchmarks.render.importance import importance_figures
from benchmarks.render.palette import HUES, look
from tests.benchmarks import synthetic

PANELS = {panel.name: panel for panel in (*figures.panels(), *importance_figures())}


@pytest.fixture(scope="module")
def part():
    study = synthetic.study(parts=["digits"])
    records = synthetic.records(study)
    layers = {
        name: {"sum": total, "histogram": {"counts": [1, 3], "edges": [-2, -1, 0], "num_zero": 0}}
        for name, total in (("hidden", 3.0), ("head", 1.0))
    }
    records = [
        synthetic.record(
            study, "digits", "mas", r.seed, 1.0, importance={"digits 0": layers, "digits 1": layers}
        )
        if (r.method, r.role) == ("mas", "evaluation")
        else r
        for r in records
    ]
    return analyse(study, records).parts[0]


@pytest.fixture(scope="module")
def crowded():
    """A part with every registered method, ten tasks and long names."""
    names = methods.names()
    study = synthetic.study(parts=["digits"], methods=names, evaluation=[1, 2, 3])
    study = dataclasses.replace(
        study,
        parts=(
            dataclasses.replace(
                study.parts[0], title="A learning problem whose name says a lot about it"
            ),
        ),
    )
    layers = {f"features.{n}.weight": {"sum": n + 1.0} for n in range(6)}
    for layer in layers.values():
        layer["histogram"] = {"counts": [1, 3, 2], "edges": [-4, -3, -2, -1], "num_zero": 0}
    tasks = {f"digits {n}": layers for n in range(10)}
    records = [
        synthetic.record(
            study,
            "digits",
            name,
            seed,
            strength,
            num_tasks=10,
            role=role,
            importance=tasks if (name, role) == ("mas", "evaluation") else None,
        )
        for name in names
        for seed, role in ((0, "selection"), (1, "evaluation"), (2, "evaluation"))
        for strength in ((0.01, 1.0, 100.0) if role == "selection" else (1.0,))
    ]
    return analyse(study, records).parts[0]


def _groups(text):
    """The texts of each group that has some, with the number of points drawn in it."""
    for match in re.finditer(r'<g[^>]* data-tips="([^"]*)">(.*?)</g></g>|$', text):
        if match[1]:
            tips = json.loads(html.unescape(match[1]))
            drawn = re.sub(r"<defs>.*?</defs>", "", match[2])
            yield tips, drawn.count("<use") or drawn.count("<path")


@pytest.mark.parametrize("name", PANELS)
def test_every_point_of_a_panel_has_its_text(part, name):
    with style():
        text = inline_svg(PANELS[name].draw(part, False), "x")
    groups = list(_groups(text))
    assert groups
    for tips, num_points in groups:
        assert len(tips) == num_points


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", PANELS)
def test_nothing_is_cut_off_at_the_edge(crowded, name, alone):
    with style():
        image = png(PANELS[name].draw(crowded, alone))
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.int64)
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert (edge >= 250).all()


def test_panels_keep_their_methods(part):
    with style():
        text = inline_svg(PANELS["curves"].draw(part, False), "x")
    for method in part.methods:
        assert f'data-method="{method.name}"' in text


def test_matrix_texts_name_rows_and_columns(part):
    with style():
        text = inline_svg(figures.heat_map(part, part.method("mas")), "x")
    ((tips, num_points),) = _groups(text)
    assert len(tips) == num_points == 16
    assert tips[4].startswith("MAS, after task 2:")
    assert "on task 1 (digits 0)" in tips[4]


def test_files_carry_no_date_and_no_trace_of_the_library(part):
    with style():
        sketch = PANELS["overview"].draw(part, True)
        text = svg(sketch).decode()
        image = png(sketch)
    assert "dc:date" not in text
    assert "dc:creator" not in text
    assert b"Software" not in image
    assert "<text" not in text  # outlines look the same with any fonts


def test_page_colours_are_variables(part):
    with style():
        text = inline_svg(PANELS["curves"].draw(part, False), "x")
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]+", text)


def test_parts_with_nothing_to_show_draw_nothing():
    study = synthetic.study(parts=["digits"], methods=["naive", "mas"])
    selection = [r for r in synthetic.records(study) if r.role == "selection"]
    (part,) = analyse(study, selection).parts
    with style():
        drawn = {name for name, panel in PANELS.items() if panel.draw(part, False)}
    assert drawn == {"strength-accuracy", "strength-forgetting"}


def test_strength_zero_has_a_place(part):
    study = synthetic.study(parts=["digits"], methods=["mas"])
    records = [
        synthetic.record(study, "digits", "mas", 0, strength, role="selection")
        for strength in (0.0, 0.1, 1.0)
    ]
    (part,) = analyse(study, records).parts
    with style():
        text = inline_svg(PANELS["strength-accuracy"].draw(part, False), "x")
    assert "λ = 0:" in text
    assert re.search(r"<text[^>]*>0</text>", text)


# Colours, as people with the common kinds of colour blindness see them (Machado et al., 2009).
MACHADO = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
CORE = ("naive", "joint", "mas", "ewc", "si", "lwf")


def _linear(color):
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    xyz = (
        np.array(
            [
                [0.4124564, 0.3575761, 0.1804375],
                [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041],
            ]
        )
        @ np.clip(linear, 0, 1)
        / np.array([0.95047, 1.0, 1.08883])
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _luminance(color):
    return float(_linear(color) @ np.array([0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("kind", MACHADO)
def test_the_six_main_methods_differ_for_every_kind_of_sight(kind, theme):
    seen = {m: _lab(MACHADO[kind] @ _linear(HUES[look(m).hue][theme])) for m in CORE}
    for a, b in combinations(CORE, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 10, (a, b)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_hue_stands_out_from_its_paper(theme):
    paper = _luminance(("#fffffe", "#17181c")[theme])
    for hue, colors in HUES.items():
        lower, upper = sorted((_luminance(colors[theme]), paper))
        assert (upper + 0.05) / (lower + 0.05) >= 3, hue


def test_no_two_methods_look_the_same():
    looks = [look(name) for name in methods.names()]
    assert len(set(looks)) == len(looks)
    assert len({found.marker for found in map(look, CORE)}) == len(CORE)


def test_an_unknown_method_always_gets_the_same_look():
    assert look("of_tomorrow") == look("of_tomorrow")
    assert look("of_tomorrow").hue in HUES
