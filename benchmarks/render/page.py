"""Writes content as Markdown, as one HTML page, and as LaTeX tables."""

import html
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmarks.render.analysis import MethodInfo
from benchmarks.render.drawing import css_name, inline_svg
from benchmarks.render.figures import color_ramp, swatch
from benchmarks.render.palette import HUES, INK, MUTED, PAPER, RULE
from benchmarks.render.tables import Table

__all__ = ["escape_markdown", "latex_table", "legend_items", "to_html", "write"]

_FOLDER = Path(__file__).parent / "templates"
_DARK = {INK: "#ececee", MUTED: "#a9a9ad", RULE: "#3a3b40", PAPER: "#17181c"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "–": "--",
    "†": r"\dag{}",
    "Ω": r"$\Omega$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "ξ": r"$\xi$",
    "Σ": r"$\Sigma$",
    "²": r"$^2$",
    "×": r"$\times$",
    "½": r"$\frac{1}{2}$",
    "·": r"$\cdot$",
    "\u202f": r"\,",
    "\u00a0": "~",
}


def write(template: str, context: Mapping[str, Any]) -> bytes:
    """Fill a template.

    Args:
        template: File in the folder of templates; the ending before ``.j2`` says the language.
        context: What it may use; anything else in it is an error.

    Returns:
        UTF-8, ending in one line feed.
    """
    text = _environment(template).get_template(template).render(context)
    lines = [line.rstrip() for line in text.splitlines()]
    joined = "\n".join(lines).strip("\n")
    return (re.sub(r"\n{3,}", "\n\n", joined) + "\n").encode()


def to_html(markdown: str, *, shift: int = 0) -> Markup:
    """Turn Markdown into HTML; raw HTML in it is shown, not obeyed.

    Args:
        markdown: CommonMark with tables.
        shift: By how many levels headings are lowered, so that they fit below the page's own.

    Returns:
        HTML that needs no more escaping.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    rendered = parser.render(markdown)

    def lower(match: re.Match[str]) -> str:
        return f"{match[1]}{min(6, int(match[2]) + shift)}"

    return Markup(re.sub(r"(</?h)([1-6])(?=>)", lower, rendered))


def escape_markdown(text: str) -> str:
    r"""Make a plain text mean itself in Markdown, also within a table.

    Args:
        text: One line.

    Returns:
        The text with Markdown's characters escaped.

    Example:
        >>> print(escape_markdown("a|b *c* <d>"))
        a\|b \*c\* \<d\>
    """
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    r"""Make a plain text mean itself in LaTeX.

    Args:
        text: One line.

    Returns:
        LaTeX for it.

    Example:
        >>> print(escape_latex("50 % of λ_1"))
        50 \% of $\lambda$\_1
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex_table(table: Table) -> bytes:
    r"""Write a table with the rules of booktabs.

    Args:
        table: The table.

    Returns:
        A ``table`` environment to ``\input``.
    """
    return write("table.tex.j2", {"table": table})


def legend_items(methods: Sequence[MethodInfo]) -> list[dict[str, Any]]:
    """Draw the swatch of each method; to be called inside the drawing style.

    Args:
        methods: Each once.

    Returns:
        ``name`` and ``title`` of each, its ``symbol`` to define once in the page, and the ``svg``
        that uses it.
    """
    return [
        {
            "name": m.name,
            "title": m.title,
            "symbol": Markup(_symbol(inline_svg(swatch(m), f"s{i}-"), f"look-{m.name}")),
            "svg": Markup(
                f'<svg aria-hidden="true" viewBox="0 0 26 10"><use href="#look-{m.name}"/></svg>'
            ),
        }
        for i, m in enumerate(methods)
    ]


def _symbol(drawn: str, name: str) -> str:
    body = drawn[drawn.index(">") + 1 : drawn.rindex("</svg>")]
    return f'<symbol id="{name}" viewBox="0 0 26 10">{body}</symbol>'


def theme_css() -> Markup:
    """Give the colours of both themes as CSS variables."""
    light = {color: color for color in (INK, MUTED, RULE, PAPER)}
    light |= {on_white: on_white for on_white, _ in HUES.values()}
    dark = _DARK | dict(HUES.values())

    def declare(colors: Mapping[str, str]) -> str:
        return "".join(f"--{css_name(name)}:{value};" for name, value in colors.items())

    named = (("ink", INK), ("muted", MUTED), ("rule", RULE), ("paper", PAPER))
    names = "".join(f"--{name}:var(--{css_name(color)});" for name, color in named)
    # Variables that refer to others are resolved where they are declared, so each theme has both.
    return Markup(
        f":root{{color-scheme:light;{declare(light)}{names}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{declare(dark)}{names}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{declare(dark)}{names}}}}}"
    )


@cache
def _environment(template: str) -> Environment:
    kind = template.split(".")[-2]
    options: dict[str, Any] = {}
    if kind == "tex":
        options = {
            "variable_start_string": "<<",
            "variable_end_string": ">>",
            "block_start_string": "<%",
            "block_end_string": "%>",
            "comment_start_string": "<#",
            "comment_end_string": "#>",
        }
    environment = Environment(
        loader=FileSystemLoader(_FOLDER, encoding="utf-8"),
        undefined=StrictUndefined,
        autoescape=kind == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        newline_sequence="\n",
        **options,
    )
    environment.filters |= {
        "md": escape_markdown,
        "tex": escape_latex,
        "html": to_html,
        "safe_html": Markup,
        "attribute": html.escape,
    }
    environment.globals |= {"theme_css": theme_css, "color_ramp": color_ramp, "asset": _asset}
    return environment


def _asset(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))
