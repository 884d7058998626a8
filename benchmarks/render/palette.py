"""How each method looks, in every figure of every report.

A method keeps its colour, marker and line by its name. The hues are chosen to differ for the common
kinds of colour blindness and to stand out from white and from near-black paper; since no palette of
fourteen hues does that, marker and line tell apart what shares a family: Avalanche's own version of
a method has its hue, a hollow marker and a dashed line.
"""

from dataclasses import dataclass
from hashlib import sha256

__all__ = ["HUES", "INK", "MUTED", "PAPER", "RULE", "Look", "look"]

INK = "#1a1a1b"  # text and axes
MUTED = "#5f5f60"  # secondary text
RULE = "#d9d9da"  # grid lines
PAPER = "#fffffe"  # background

HUES: dict[str, tuple[str, str]] = {
    # name: (on white, on near-black)
    "grey": ("#8a8a8a", "#8f8f8f"),
    "ink": ("#1b1b1c", "#f2f2f2"),
    "vermillion": ("#d04a00", "#ff7b33"),
    "amber": ("#b07d00", "#f0b429"),
    "brown": ("#7a4419", "#c99a6b"),
    "wine": ("#8b1e4f", "#e0719f"),
    "blue": ("#0063b1", "#5aa9f0"),
    "sky": ("#2b95cf", "#9ad6f7"),
    "green": ("#00916a", "#2fcf9f"),
    "purple": ("#b65c9a", "#e7a3d3"),
    "olive": ("#7b7b00", "#cfcf5a"),
    "slate": ("#44617b", "#9fb8cf"),
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a method.

    Args:
        hue: Key of :data:`HUES`.
        marker: matplotlib's marker.
        line: matplotlib's line style.
        hollow: Whether the marker is only an outline.
    """

    hue: str
    marker: str
    line: str | tuple[int, tuple[float, ...]] = "-"
    hollow: bool = False

    @property
    def color(self) -> str:
        """The colour on white paper."""
        return HUES[self.hue][0]


_DASHED = (0, (4.0, 1.6))
_DOTTED = (0, (1.2, 1.4))
_LOOKS = {
    "naive": Look("grey", "X", _DOTTED),
    "joint": Look("ink", "*", _DOTTED),
    "mas": Look("vermillion", "o"),
    "mas_local": Look("amber", "v"),
    "mas_vector": Look("brown", "p"),
    "mas_proximal": Look("wine", "h"),
    "mas_sampled": Look("olive", "d"),
    # Variants that studies name: the hue of their method, or from warm to cool along a series.
    "mas_test": Look("vermillion", "<", _DASHED),
    "mas_both": Look("vermillion", ">", _DOTTED),
    "mas_local_test": Look("amber", "<", _DASHED),
    "mas_local_both": Look("amber", ">", _DOTTED),
    "mas_in_use": Look("slate", "P"),
    "mas_batch_gradient": Look("olive", "<"),
    "mas_batch_1": Look("amber", "8"),
    "mas_batch_4": Look("olive", ">"),
    "mas_batch_16": Look("green", "P"),
    "mas_batch_64": Look("sky", "H"),
    "mas_batch_256": Look("blue", "X"),
    "ewc": Look("blue", "s"),
    "ewc_online": Look("sky", "d"),
    "si": Look("green", "^"),
    "lwf": Look("purple", "D"),
    "avalanche_mas": Look("vermillion", "o", _DASHED, hollow=True),
    "avalanche_ewc": Look("blue", "s", _DASHED, hollow=True),
    "avalanche_si": Look("green", "^", _DASHED, hollow=True),
    "avalanche_lwf": Look("purple", "D", _DASHED, hollow=True),
}
_SPARE_HUES = ("olive", "slate", "brown", "amber", "sky", "wine")
_SPARE_MARKERS = ("<", ">", "P", "8", "H")


def look(method: str) -> Look:
    """Give the look of a method; one that is not listed gets it from a hash of its name.

    Args:
        method: Name in records.

    Returns:
        The same look in every process.

    Example:
        >>> look("mas").hue, look("avalanche_mas").hollow
        ('vermillion', True)
    """
    if method in _LOOKS:
        return _LOOKS[method]
    digest = sha256(method.encode()).digest()
    hue = _SPARE_HUES[digest[0] % len(_SPARE_HUES)]
    marker = _SPARE_MARKERS[digest[1] % len(_SPARE_MARKERS)]
    return Look(hue, marker, (0, (5.0, 1.2, 1.2, 1.2)))
