"""Glyphs: eight small recognition tasks that differ in look and in number of classes.

Characters are drawn from the fonts that matplotlib ships, shifted, scaled, sheared, rotated by
up to 15 degrees, coloured, put on a background that is typical of the task, and blurred by noise.
Images have 3 channels. Fonts that are tested on are never trained on, and a font is used for a
character only if its character map has it.

=========== ======= ============================ ==========================================
task        classes trained (and validated) on   tested on
=========== ======= ============================ ==========================================
upper       26      DejaVu Sans and Sans Mono,   the whole family DejaVu Serif (4 fonts),
lower       26      STIX General (4 fonts each), cmtt10
digits      10      cmr10, cmb10, cmti10, cmss10
greek       24      DejaVu Sans and Sans Mono,   the whole family DejaVu Serif (4 fonts)
cyrillic    32      STIX General (4 fonts each)
arrows      16      DejaVu Sans, Sans Mono and   the whole family STIX: General, General
operators   28      Serif, regular and bold      Bold (its italics lack these characters)
box         22      DejaVu Sans                  STIX General, General Bold
=========== ======= ============================ ==========================================

Arrows, operators and box drawing have fewer fonts because DejaVu repeats the same outlines: in
its slanted fonts for arrows and operators, in all twelve fonts for box drawing. Training and
validation images are drawn by seed; test images are the same for every seed.

It stands in for the object-recognition sequence (Flowers, Scenes, Birds, Cars, Aircraft, Actions,
Letters, SVHN) of Aljundi et al. (2018), section 5.1, where the photographs are not at hand.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.streams._types import Stream

__all__ = ["build"]


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    tasks: Sequence[str] | None = None,
    image_size: int = 32,
    train_per_class: int = 40,
    validation_per_class: int = 8,
    test_per_class: int = 20,
) -> Stream:
    """Draw the glyphs.

    Args:
        seed: Decides the training and validation images.
        data_root: Not needed: the fonts come with matplotlib.
        tasks: Names of the tasks in their order; None for all eight.
        image_size: Height and width in pixels.
        train_per_class: Training images a class.
        validation_per_class: Validation images a class, from the training fonts.
        test_per_class: Test images a class, from the held-out fonts.

    Returns:
        A task-incremental stream of images of shape (3, image_size, image_size).

    Raises:
        ValueError: If a task is unknown or a number is out of range.
    """
    from benchmarks.streams._glyphs import ALPHABETS, draw_task

    del data_root
    chosen = list(ALPHABETS) if tasks is None else list(tasks)
    unknown = [name for name in chosen if name not in ALPHABETS]
    if unknown:
        raise ValueError(f"Expected `tasks` to be among {list(ALPHABETS)}, got {unknown}.")
    counts = (train_per_class, validation_per_class, test_per_class)
    if image_size < 8 or min(counts) < 1:
        raise ValueError(
            "Expected `image_size` to be at least 8 and every number of images a class at least 1,"
            f" got {image_size} and {counts}."
        )
    return Stream(
        name="glyphs",
        scenario="task",
        tasks=tuple(draw_task(name, seed, image_size, counts) for name in chosen),
        input_shape=(3, image_size, image_size),
        description=(
            f"{len(chosen)} tasks of characters drawn from matplotlib's fonts on coloured "
            "backgrounds; whole fonts are held out for the test."
        ),
        stand_in_for="the object-recognition sequence",
    )
