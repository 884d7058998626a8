"""From a matplotlib figure to bytes: files for papers, and SVG that a page can talk to.

Bytes depend on the figure alone: the salt of matplotlib's ids is fixed, no date is written, and
coordinates are rounded to a hundredth of a point. In a page the text stays text, so that it is
read, found and printed, and colours become CSS variables, so that they follow the theme.
"""

import html
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.render.palette import HUES, INK, MUTED, PAPER, RULE

__all__ = [
    "Mark",
    "Sketch",
    "css_name",
    "files",
    "inline_svg",
    "png",
    "style",
    "svg",
]

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.unicode_minus": True,
    "figure.dpi": 100,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "path.simplify": False,
    "savefig.facecolor": PAPER,
    "svg.hashsalt": "benchmarks",
    # Unhinted text is as wide at every resolution, so that one layout serves all formats.
    "text.hinting": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 7.5,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}
_PNG_DPI = 200


@dataclass(frozen=True)
class Mark:
    """A group of points or lines that the page can hide and ask about.

    Args:
        method: Method that it belongs to; None where it belongs to none.
        tips: What to say about each of its points, in drawing order; empty for lines and bands.
    """

    method: str | None
    tips: tuple[str, ...] = ()


@dataclass
class Sketch:
    """A figure and what its marks mean.

    Args:
        figure: matplotlib's figure.
        alt: What the figure shows, for those who do not see it.
        marks: By the ``gid`` of an artist.
    """

    figure: Figure
    alt: str
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, method: str | None, *tips: str) -> str:
        """Register a mark.

        Args:
            method: Method that it belongs to.
            *tips: What to say about each point.

        Returns:
            The ``gid`` to give to the artist.
        """
        gid = f"mark{len(self.marks)}"
        self.marks[gid] = Mark(method, tips)
        return gid


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside: fixed fonts, sizes and colours, whatever the user has configured."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def files(sketch: Sketch) -> dict[str, bytes]:
    """Save for a paper, in this process or another one.

    Args:
        sketch: Made inside :func:`style`.

    Returns:
        Content by ending of the file's name.
    """
    with style():
        return {"svg": svg(sketch), "png": png(sketch)}


def svg(sketch: Sketch) -> bytes:
    """Save for a paper: text as outlines, white paper.

    Args:
        sketch: Made inside :func:`style`.

    Returns:
        A standalone SVG file.
    """
    return _shorten(_save(sketch, "path")).encode()


def png(sketch: Sketch) -> bytes:
    """Save at 200 dots an inch.

    Args:
        sketch: Made inside :func:`style`.

    Returns:
        A PNG file.
    """
    _freeze_layout(sketch.figure)
    buffer = io.BytesIO()
    sketch.figure.savefig(
        buffer, format="png", dpi=_PNG_DPI, metadata={"Software": None}, bbox_inches=None
    )
    return buffer.getvalue()


def inline_svg(sketch: Sketch, prefix: str) -> str:
    """Save for a page: themed, with the marks' methods and texts as data attributes.

    In this process or another one.

    Args:
        sketch: Made inside :func:`style`.
        prefix: Makes ids unique among the figures of the page.

    Returns:
        An ``<svg>`` element.
    """
    with style():
        text = _shorten(_save(sketch, "none"))
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = _prefix_ids(text, prefix, keep=frozenset(sketch.marks))
    text = _theme(text)
    for gid, mark in sketch.marks.items():
        text = text.replace(f'<g id="{gid}"', f"<g{_attributes(mark)}", 1)
    width, height = _size(text)
    head = (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(sketch.alt)}" style="--w:{width:g};--h:{height:g}">'
    )
    body = text[text.index(">") + 1 :]
    return head + re.sub(r">\s+<", "><", body).strip()


def css_name(color: str) -> str:
    """Name the CSS variable of a colour of the light theme.

    Args:
        color: ``#rrggbb``.

    Returns:
        The variable's name without the dashes.
    """
    return f"c{color[1:]}"


def _freeze_layout(figure: Figure) -> None:
    # Once for all formats: working it out again for each would take most of the time.
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        # Not "none", which leaves a placeholder: with one every format is drawn twice.
        figure.set_layout_engine(None)


def _save(sketch: Sketch, fonttype: str) -> str:
    _freeze_layout(sketch.figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": fonttype}):
        sketch.figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=None
        )
    return buffer.getvalue()


def _shorten(text: str) -> str:
    def two_digits(match: re.Match[str]) -> str:
        short = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
        return "0" if short == "-0" else short

    def attribute(match: re.Match[str]) -> str:
        value = re.sub(r"-?\d+\.\d{3,}(?:e-?\d+)?", two_digits, match[2])
        return f'{match[1]}="{" ".join(value.split())}"'

    return re.sub(r'\b(d|x|y|width|height|transform)="([^"]*)"', attribute, text)


def _prefix_ids(text: str, prefix: str, keep: frozenset[str]) -> str:
    found = [name for name in re.findall(r'\bid="([^"]+)"', text) if name not in keep]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    names = {name: f"{prefix}{n}" for n, name in enumerate(dict.fromkeys(found)) if name in used}
    text = re.sub(r'(href="#|url\(#)([^")]+)', lambda m: f"{m[1]}{names.get(m[2], m[2])}", text)

    def rename(match: re.Match[str]) -> str:
        name = match[1]
        if name in keep:
            return match[0]
        return f' id="{names[name]}"' if name in names else ""

    return re.sub(r'\sid="([^"]+)"', rename, text).replace("xlink:href", "href")


def _theme(text: str) -> str:
    for color in (INK, MUTED, RULE, PAPER, *(light for light, _ in HUES.values())):
        text = text.replace(color, f"var(--{css_name(color)})")
    # matplotlib leaves out the fill where it is black.
    return text.replace("#000000", f"var(--{css_name(INK)})")


def _attributes(mark: Mark) -> str:
    attributes = f' data-method="{html.escape(mark.method)}"' if mark.method else ""
    if mark.tips:
        tips = json.dumps(mark.tips, ensure_ascii=False)
        attributes += f' data-tips="{html.escape(tips)}"'
    return attributes


def _size(text: str) -> tuple[float, float]:
    match = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    if match is None:
        raise RuntimeError("Expected the SVG to have a viewBox, got none.")
    return float(match[1]), float(match[2])
