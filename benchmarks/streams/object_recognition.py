"""Eight object-recognition tasks: Flowers, Scenes, Birds, Cars, Aircraft, Actions, Letters, SVHN.

The sequence of Aljundi et al. (2018), section 5.1, and, by the option ``tasks``, its four
two-task sequences (``["birds", "scenes"]``, ``["scenes", "birds"]``, ``["flowers", "birds"]``,
``["flowers", "scenes"]``). One head a task.

======== ============================ ======= ==================================================
task     set                          classes trained on / tested on
======== ============================ ======= ==================================================
flowers  Oxford Flowers-102           102     official training and validation part / test part
scenes   MIT Indoor-67                67      TrainImages.txt / TestImages.txt
birds    CUB-200-2011                 200     official parts
cars     Stanford Cars                196     official parts
aircraft FGVC-Aircraft, variants      100     trainval / test
actions  PASCAL VOC 2012 Actions      11      challenge training part / its validation part
letters  Chars74K, natural images     52      our own split: 85 % / 15 % of every class, seeded
svhn     SVHN, cropped digits         10      official parts, without "extra"
======== ============================ ======= ==================================================

Where this differs from what is known of the paper and of the survey that repeated its sequence
(De Lange et al., 2021):

- The survey halves the official test parts into validation and test. Here the validation images
  are the last tenth of every class of the *training* part, in a seeded order that is the same for
  every seed, and the whole official test part is tested on.
- Which persons of VOC made the Actions task is not known. Here it is every person with exactly one
  action, cut out along the annotated box.
- Source and split of the Letters task are not known. Here it is the letters of Chars74K's natural
  images, good and bad, split as in the table.
- Pictures are stored as the centred square of 256x256 pixels. Training takes a random 224x224
  square of it, mirrored half the time; evaluation the middle 224x224. The survey cuts its random
  square from the whole picture resized to a shorter side of 256 pixels.
- Letters and house numbers are not mirrored, as a mirrored letter is another letter or none;
  ``flip_characters=True`` mirrors them too.
- SVHN is stored at its own 32x32 pixels; 28x28 of them are cut out and resized to 224x224, which
  is what resizing to 256 and cutting 224 shows.

Pixels are normalised with the mean and deviation of ImageNet, as the weights expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import data
from benchmarks.streams._types import Split, Stream, Task

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.streams._transforms import CentreCrop, RandomCrop

__all__ = ["build"]

_TASKS = ("flowers", "scenes", "birds", "cars", "aircraft", "actions", "letters", "svhn")
_CHARACTERS = ("letters", "svhn")


def build(
    seed: int,
    *,
    data_root: Path | None = None,
    tasks: Sequence[str] = _TASKS,
    image_size: int = 224,
    validation: float = 0.1,
    augment: bool = True,
    flip_characters: bool = False,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
) -> Stream:
    """Build the sequence.

    Args:
        seed: Decides nothing here: the parts are the same for every seed.
        data_root: Folder of the datasets, searched first.
        tasks: Which tasks, in which order.
        image_size: Height and width of the model input; pictures are stored 8/7 as large.
        validation: Share of every class of the training part that is held out, in [0, 1).
        augment: Whether to train on random crops and mirror images.
        flip_characters: Whether to mirror letters and house numbers too.
        train_per_class: Most training and most validation images a class; None for all.
        test_per_class: Most test images a class; None for all.

    Returns:
        A task-incremental stream of images of shape (3, image_size, image_size); samples are
        memory-mapped.

    Raises:
        ValueError: If an option is outside its range.
    """
    from benchmarks.streams._transforms import CentreCrop, Normalize, RandomCrop

    del seed
    unknown = [name for name in tasks if name not in _TASKS]
    if unknown:
        raise ValueError(f"Expected `tasks` to be among {list(_TASKS)}, got {unknown}.")
    if image_size < 8:
        raise ValueError(f"Expected `image_size` to be at least 8, got {image_size}.")
    if not 0 <= validation < 1:
        raise ValueError(f"Expected `validation` to lie in [0, 1), got {validation}.")
    data.require(tasks, data_root)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    made = []
    for name in tasks:
        stored = None if name == "svhn" else round(image_size * 8 / 7)
        loaded = data.load(name, data_root, stored)
        crop = 28 if stored is None else image_size
        flip = flip_characters or name not in _CHARACTERS
        made.append(
            _task(
                name,
                loaded,
                validation,
                (train_per_class, test_per_class),
                CentreCrop(crop, image_size, normalize),
                RandomCrop(crop, flip=flip) if augment else None,
            )
        )
    return Stream(
        name="object_recognition",
        scenario="task",
        tasks=tuple(made),
        input_shape=(3, image_size, image_size),
        description=f"Object recognition: {', '.join(tasks)}.",
    )


def _task(
    name: str,
    loaded: data.Loaded,
    validation: float,
    most: tuple[int | None, int | None],
    transform: CentreCrop,
    augment: RandomCrop | None,
) -> Task:
    x, y = loaded.train
    # The end of the training part, of any length, is a stratified sample; slices copy nothing.
    cut = len(y) - round(validation * len(y))
    return Task(
        name=name,
        num_classes=len(loaded.class_names),
        train=_thinned(x[:cut], y[:cut], most[0]),
        validation=_thinned(x[cut:], y[cut:], most[0]),
        test=_thinned(*loaded.test, most[1]),
        transform=transform,
        augment=augment,
    )


def _thinned(x: Tensor, y: Tensor, count: int | None) -> Split:
    import torch

    from benchmarks.streams._datasets import at_most_per_class

    if count is None or not len(y):
        return Split(x, y)
    chosen = at_most_per_class(y, count)
    return Split(x[chosen].clone(memory_format=torch.contiguous_format), y[chosen])
