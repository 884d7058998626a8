"""How glyphs look, and how they are drawn; what the tasks are says ``glyphs.py``."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import ft2font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from benchmarks.streams._splits import generator
from benchmarks.streams._transforms import Normalize
from benchmarks.streams._types import Split, Task

__all__ = ["ALPHABETS", "draw_task"]

_SANS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique")
_MONO = (
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
)
_SERIF = ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic")
_STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
_LATIN_TRAIN = (*_SANS, *_MONO, *_STIX, "cmr10", "cmb10", "cmti10", "cmss10")
_LATIN_TEST = (*_SERIF, "cmtt10")
_UPRIGHT = (*_SANS[:2], *_MONO[:2], *_SERIF[:2])

_CHUNK = 512  # images drawn at once: bounds the memory of the geometry


@dataclass(frozen=True)
class _Look:
    """How the images of one task look.

    Args:
        background: Pattern behind the glyph.
        ink: Whether the glyph is lighter than its background, darker, or either.
        noise: Standard deviation of the pixel noise; 1 is the full range of a channel.
    """

    background: Literal["plain", "ramp", "stripes", "clouds", "speckle", "plate", "ruled", "dim"]
    ink: Literal["light", "dark", "either"]
    noise: float


@dataclass(frozen=True)
class _Alphabet:
    characters: str
    train_fonts: tuple[str, ...]
    test_fonts: tuple[str, ...]
    look: _Look


ALPHABETS = {
    "upper": _Alphabet(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ", _LATIN_TRAIN, _LATIN_TEST, _Look("plain", "either", 0.06)
    ),
    "lower": _Alphabet(
        "abcdefghijklmnopqrstuvwxyz", _LATIN_TRAIN, _LATIN_TEST, _Look("ramp", "dark", 0.04)
    ),
    "digits": _Alphabet("0123456789", _LATIN_TRAIN, _LATIN_TEST, _Look("stripes", "either", 0.06)),
    "greek": _Alphabet(
        "αβγδεζηθικλμνξοπρστυφχψω",
        (*_SANS, *_MONO, *_STIX),
        _SERIF,
        _Look("clouds", "light", 0.03),
    ),
    "cyrillic": _Alphabet(
        "абвгдежзийклмнопрстуфхцчшщъыьэюя",
        (*_SANS, *_MONO, *_STIX),
        _SERIF,
        _Look("speckle", "light", 0.05),
    ),
    "arrows": _Alphabet("←↑→↓↔↕↖↗↘↙↦↩↪↯⇄⇅", _UPRIGHT, _STIX[:2], _Look("plate", "either", 0.04)),
    "operators": _Alphabet(
        "∀∂∃∆∇∈∉∏∑√∝∞∠∧∨∩∪∫≈≠≤≡⊂⊃⊕⊗⊢⊥", _UPRIGHT, _STIX[:2], _Look("ruled", "dark", 0.05)
    ),
    "box": _Alphabet("─│┌┐└┘├┤┬┴┼═║╔╗╚╝╠╣╦╩╬", _SANS[:1], _STIX[:2], _Look("dim", "either", 0.08)),
}


def draw_task(name: str, seed: int, size: int, counts: tuple[int, int, int]) -> Task:
    """Draw the images of one task.

    Args:
        name: A key of :data:`ALPHABETS`.
        seed: Decides the training and validation images.
        size: Height and width in pixels.
        counts: Training, validation and test images a class.

    Returns:
        The task; its test images are the same for every seed.
    """
    alphabet = ALPHABETS[name]
    fonts = (alphabet.train_fonts, alphabet.train_fonts, alphabet.test_fonts)
    sources = (
        generator(seed, name, "train"),
        generator(seed, name, "validation"),
        generator(0, name, "test"),
    )
    train, validation, test = (
        _draw(alphabet, fonts_of_split, count, size, rng)
        for fonts_of_split, count, rng in zip(fonts, counts, sources, strict=True)
    )
    return Task(
        name=name,
        num_classes=len(alphabet.characters),
        train=train,
        validation=validation,
        test=test,
        transform=Normalize((0.5, 0.5, 0.5), (0.28, 0.28, 0.28)),
    )


def _draw(
    alphabet: _Alphabet, fonts: tuple[str, ...], count: int, size: int, rng: torch.Generator
) -> Split:
    """Draw `count` images of every character, taking its fonts in turn."""
    masks, owners = _masks(alphabet.characters, fonts, 2 * size)
    y = torch.arange(len(alphabet.characters)).repeat_interleave(count)
    chosen = []
    for label in range(len(alphabet.characters)):
        own = (owners == label).nonzero().flatten()
        turns = torch.arange(count) % len(own)
        chosen.append(own[torch.randperm(len(own), generator=rng)][turns])
    order = torch.randperm(len(y), generator=rng)
    y, source = y[order], torch.cat(chosen)[order]
    x = torch.empty(len(y), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(y), _CHUNK):
        part = slice(start, start + _CHUNK)
        ink = _moved(masks[source[part]], rng)
        x[part] = _painted(ink, alphabet.look, rng)
    return Split(x, y)


@lru_cache(maxsize=64)
def _masks(characters: str, fonts: tuple[str, ...], side: int) -> tuple[Tensor, Tensor]:
    """Draw every character in every font that has it.

    Returns:
        Masks of shape (M, side, side), uint8, and the index in `characters` of each, (M,).
    """
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    drawn, owners = [], []
    for font in fonts:
        path = str(folder / f"{font}.ttf")
        has = ft2font.FT2Font(path).get_charmap()
        face = ImageFont.truetype(path, round(0.72 * side), layout_engine=ImageFont.Layout.BASIC)
        for label, character in enumerate(characters):
            if ord(character) in has:
                drawn.append(_mask(face, character, side))
                owners.append(label)
    missing = set(range(len(characters))) - set(owners)
    if missing:
        raise ValueError(
            f"Expected every character to be in one of the fonts {fonts}, got none for "
            f"{''.join(characters[i] for i in sorted(missing))!r}."
        )
    return torch.from_numpy(np.stack(drawn)), torch.tensor(owners)


def _mask(face: ImageFont.FreeTypeFont, character: str, side: int) -> np.ndarray:
    """Draw one character, its ink in the middle, made smaller where it would not fit."""
    left, top, right, bottom = face.getbbox(character)
    width, height = int(right - left), int(bottom - top)
    glyph = Image.new("L", (width, height))
    ImageDraw.Draw(glyph).text((-left, -top), character, font=face, fill=255)
    shrink = min(1.0, 0.8 * side / max(width, height))
    if shrink < 1:
        new_size = (max(1, round(shrink * width)), max(1, round(shrink * height)))
        glyph = glyph.resize(new_size, Image.Resampling.BOX)
    canvas = Image.new("L", (side, side))
    canvas.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return np.asarray(canvas)


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng)


def _moved(masks: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, scale, shear and rotate (N, 2S, 2S) masks to ink of shape (N, 1, S, S) in 0..1."""
    n = len(masks)
    angle = torch.deg2rad(_uniform(n, -15, 15, rng))
    zoom = 1 / _uniform(n, 0.8, 1.2, rng)
    shear = _uniform(n, -0.15, 0.15, rng)
    shift = _uniform(2 * n, -0.18, 0.18, rng).view(2, n)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cos, shear * cos - sin, shift[0]], dim=1),
            torch.stack([sin, shear * sin + cos, shift[1]], dim=1),
        ],
        dim=1,
    )
    stored = masks.unsqueeze(1).float() / 255
    grid = F.affine_grid(matrix, list(stored.shape), align_corners=False)
    return F.avg_pool2d(F.grid_sample(stored, grid, align_corners=False), 2)


def _painted(ink: Tensor, look: _Look, rng: torch.Generator) -> Tensor:
    """Put ink of shape (N, 1, S, S) on backgrounds; uint8 images of shape (N, 3, S, S)."""
    n, _, size, _ = ink.shape
    paper, other, pen = _colours(n, look, rng)
    pattern = _pattern(n, size, look, rng)
    ground = torch.lerp(paper, other, pattern)
    image = torch.lerp(ground, pen, ink)
    image += look.noise * torch.randn(image.shape, generator=rng)
    if look.background == "speckle":
        grains = torch.rand(n, 1, size, size, generator=rng)
        image = image.masked_fill(grains < 0.03, 0.9).masked_fill(grains > 0.98, 0.05)
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _colours(n: int, look: _Look, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw two background colours that are alike in brightness, and an ink that is not."""
    light = {"light": 1.0, "dark": 0.0, "either": 0.5}[look.ink]
    ink_is_light = (torch.rand(n, 1, generator=rng) < light).float()
    contrast = (0.25, 0.4) if look.background == "dim" else (0.35, 0.7)
    gap = _uniform(n, *contrast, rng).unsqueeze(1)
    low = torch.rand(n, 1, generator=rng) * (0.9 - gap) + 0.05
    dark, bright = low, low + gap

    def tinted(level: Tensor, spread: float) -> Tensor:
        tint = spread * (torch.rand(n, 3, generator=rng) - 0.5)
        tint -= tint.mean(dim=1, keepdim=True)
        return (level + tint).clamp(0, 1).view(n, 3, 1, 1)

    ground = torch.where(ink_is_light > 0, dark, bright)
    pen = torch.where(ink_is_light > 0, bright, dark)
    # The second colour stays on the far side of the first, seen from the ink.
    away = ground + torch.sign(ground - pen) * 0.25 * torch.rand(n, 1, generator=rng)
    return tinted(ground, 0.4), tinted(away, 0.4), tinted(pen, 0.4)


def _pattern(n: int, size: int, look: _Look, rng: torch.Generator) -> Tensor:
    """Mix of the two background colours, in 0..1, of shape (N, 1, S, S) or (N, 1, 1, 1)."""
    axis = torch.linspace(-1, 1, size)
    rows, columns = axis.view(1, 1, size, 1), axis.view(1, 1, 1, size)
    turn = _uniform(n, 0, 2 * torch.pi, rng).view(n, 1, 1, 1)
    along = turn.cos() * columns + turn.sin() * rows
    if look.background == "ramp":
        return (0.5 + 0.5 * along).clamp(0, 1)
    if look.background == "stripes":
        pitch = _uniform(n, 6, 14, rng).view(n, 1, 1, 1)
        return 0.5 + 0.5 * torch.sin(pitch * along + turn)
    if look.background == "clouds":
        coarse = torch.rand(n, 1, 5, 5, generator=rng)
        return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    if look.background == "plate":
        radius = _uniform(n, 0.8, 1.05, rng).view(n, 1, 1, 1)
        distance = (rows.square() + columns.square()).sqrt()
        return torch.sigmoid((distance - radius) * size / 2)
    if look.background == "ruled":
        pitch = _uniform(n, 8, 12, rng).view(n, 1, 1, 1)
        lines = torch.cos(pitch * (rows + 0.05 * columns) + turn)
        return torch.sigmoid(12 * (lines - 0.8))
    return torch.zeros(n, 1, 1, 1)
