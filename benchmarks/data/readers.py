"""Reading each dataset's own files.

A reader gives either whole arrays (small images that lie in one file) or a listing of pictures
(image files, to be decoded one by one). Labels count from 0. Files are not trusted: pickles are
read without running anything, and what is damaged is named.
"""

import gzip
import pickle
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from benchmarks.data.errors import DamagedData

__all__ = ["ARRAYS", "PICTURES", "ArrayReader", "Arrays", "Picture", "Pictures"]

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Arrays:
    """A dataset as whole arrays.

    Args:
        class_names: One a class.
        train: Images of shape (N, channels, height, width), uint8, and labels of shape (N,).
        test: The same for the test part.
    """

    class_names: tuple[str, ...]
    train: tuple[UInt8Array, Int64Array]
    test: tuple[UInt8Array, Int64Array]


@dataclass(frozen=True)
class Picture:
    """One image file, or a part of one.

    Args:
        path: The file.
        label: Its class.
        box: Left, upper, right and lower edge in pixels of the part that is the sample.
    """

    path: Path
    label: int
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Pictures:
    """A dataset as a listing of image files.

    Args:
        class_names: One a class.
        train: The official training part.
        test: The official test part; empty where the set has no official split.
    """

    class_names: tuple[str, ...]
    train: tuple[Picture, ...]
    test: tuple[Picture, ...]


@dataclass(frozen=True)
class ArrayReader:
    """How a dataset of whole arrays is read.

    Args:
        files: The files that are read, relative to the dataset's folder; "a|b" is either of two.
        read: Folder to arrays.
    """

    files: tuple[str, ...]
    read: Callable[[Path], Arrays]


@contextmanager
def _reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn whatever a damaged file causes into one sentence that names it."""
    usual = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError)
    expected: tuple[type[Exception], ...] = (*usual, *errors)
    try:
        yield
    except expected as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else f"{error}"
        raise DamagedData(
            f"Expected {path} to be readable, got {what or type(error).__name__}."
        ) from error


def _lines(path: Path) -> list[list[str]]:
    """Split a list file into words, line by line; empty lines are left out."""
    with _reading(path):
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line]


# MNIST and Fashion-MNIST: idx, as it is or gzipped.


def _open_either(folder: Path, name: str) -> tuple[Path, IO[bytes]]:
    plain = folder / name
    if plain.exists():
        return plain, plain.open("rb")
    packed = folder / f"{name}.gz"
    return packed, gzip.open(packed, "rb")  # type: ignore[return-value]


def _idx(folder: Path, name: str, dimensions: int) -> UInt8Array:
    """Read unsigned bytes in the idx format: two zeros, type 8, dimensions, sizes, data."""
    path, handle = _open_either(folder, name)
    with _reading(path), handle:
        head = handle.read(4)
        if head != bytes((0, 0, 8, dimensions)):
            found = f"the header {head.hex()}" if head else "an empty file"
            raise ValueError(f"{found} instead of the header 0000080{dimensions}")
        shape = np.frombuffer(handle.read(4 * dimensions), dtype=">u4").astype(int)
        size = int(shape.prod())
        if size > 1 << 32:
            raise ValueError(f"the absurd shape {tuple(shape)}")
        data = np.frombuffer(handle.read(size + 1), dtype=np.uint8)
        if len(data) != size:
            raise ValueError(
                f"{len(data):,} bytes or more where {tuple(map(int, shape))} needs {size:,}"
            )
        return data.reshape(shape)


def _mnist_like(class_names: tuple[str, ...]) -> ArrayReader:
    stems = ("train", "t10k")

    def read(folder: Path) -> Arrays:
        parts = []
        for stem in stems:
            x = _idx(folder, f"{stem}-images-idx3-ubyte", 3)[:, None]
            y = _idx(folder, f"{stem}-labels-idx1-ubyte", 1).astype(np.int64)
            _check_pair(x, y, len(class_names), folder / f"{stem}-labels-idx1-ubyte")
            parts.append((x, y))
        return Arrays(class_names, parts[0], parts[1])

    names = [f"{s}-{kind}-ubyte" for s in stems for kind in ("images-idx3", "labels-idx1")]
    return ArrayReader(tuple(f"{name}|{name}.gz" for name in names), read)


def _check_pair(x: UInt8Array, y: Int64Array, classes: int, path: Path) -> None:
    if len(x) != len(y) or not len(y):
        raise DamagedData(
            f"Expected {path} to have one label an image, got {len(y)} labels for {len(x)} images."
        )
    if not 0 <= y.min() <= y.max() < classes:
        raise DamagedData(
            f"Expected the labels in {path} to lie in 0..{classes - 1}, got {y.min()}..{y.max()}."
        )


# CIFAR: pickled dictionaries of Python 2.


class _NumbersOnly(pickle.Unpickler):
    """Unpickles arrays, numbers, strings and containers; refuses every other object."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"a pickle that wants to run {module}.{name}, which is refused"
            )
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict[str, Any]:
    with _reading(path, pickle.UnpicklingError, AttributeError, ImportError):
        with path.open("rb") as handle:
            content = _NumbersOnly(handle, encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError(f"a pickled {type(content).__name__} instead of a dictionary")
        return content


def _cifar_batch(path: Path, key: str, classes: int) -> tuple[UInt8Array, Int64Array]:
    batch = _unpickled(path)
    with _reading(path):
        x = np.asarray(batch["data"])
        if x.dtype != np.uint8:
            raise ValueError(f"pixels of type {x.dtype}")
        x, y = x.reshape(-1, 3, 32, 32).copy(), np.asarray(batch[key], dtype=np.int64)
    _check_pair(x, y, classes, path)
    return x, y


def _cifar(
    train: Sequence[str], test: str, meta: str, label_key: str, names_key: str, classes: int
) -> ArrayReader:
    def read(folder: Path) -> Arrays:
        names = _unpickled(folder / meta)
        with _reading(folder / meta):
            class_names = tuple(map(str, names[names_key]))
        if len(class_names) != classes:
            raise DamagedData(
                f"Expected {folder / meta} to name {classes} classes, got {len(class_names)}."
            )
        some, labels = _cifar_batch(folder / train[0], label_key, classes)
        size = len(some)
        # Filled in place: to let an array grow holds it twice.
        x, y = np.empty((len(train) * size, 3, 32, 32), np.uint8), np.empty(len(train) * size, int)
        x[:size], y[:size] = some, labels
        for i, name in enumerate(train[1:], start=1):
            del some  # to unpickle a file takes several times its size
            some, labels = _cifar_batch(folder / name, label_key, classes)
            if len(some) != size:
                raise DamagedData(
                    f"Expected {folder / name} to hold {size} images, as {train[0]} does, got "
                    f"{len(some)}."
                )
            x[i * size :][:size], y[i * size :][:size] = some, labels
        return Arrays(class_names, (x, y), _cifar_batch(folder / test, label_key, classes))

    return ArrayReader((*train, test, meta), read)


# SVHN and the other sets with .mat files.


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with _reading(path, MatReadError, NotImplementedError):
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
        return content


def _svhn(folder: Path) -> Arrays:
    parts = []
    for split in ("train", "test"):
        path = folder / f"{split}_32x32.mat"
        content = _mat(path)
        with _reading(path):
            # Stored as (height, width, channels, N); the digit 0 has the label 10.
            x = np.asarray(content["X"], dtype=np.uint8).transpose(3, 2, 0, 1)
            y = np.asarray(content["y"], dtype=np.int64).reshape(-1) % 10
            if x.shape[1:] != (3, 32, 32):
                raise ValueError(f"images of shape {x.shape[1:]}")
        _check_pair(x, y, 10, path)
        parts.append((x, y))
    return Arrays(tuple("0123456789"), parts[0], parts[1])


# Photographs, by torchvision's loaders where there are any.


def _as_path(path: str | Path) -> Path:
    return Path(path)


def _torchvision_samples(dataset: Any) -> tuple[Picture, ...]:
    return tuple(Picture(*dataset[i]) for i in range(len(dataset)))


def _flowers(folder: Path) -> Pictures:
    from torchvision.datasets import Flowers102

    class Unchecked(Flowers102):  # type: ignore[misc]
        # Checksums are what `data verify` is for; here they would refuse any other copy.
        def _check_integrity(self) -> bool:
            return True

    # Read first one by one, so that a damaged one is named.
    for name in ("imagelabels.mat", "setid.mat"):
        _mat(folder / name)
    parts = {}
    with _reading(folder / "setid.mat"):
        for split in ("train", "val", "test"):
            dataset = Unchecked(folder.parent, split=split, loader=_as_path)
            parts[split] = _torchvision_samples(dataset)
    return Pictures(tuple(Flowers102.classes), (*parts["train"], *parts["val"]), parts["test"])


def _aircraft(folder: Path) -> Pictures:
    from torchvision.datasets import FGVCAircraft

    variants = folder / "data" / "variants.txt"
    known = {" ".join(words) for words in _lines(variants)}
    for split in ("trainval", "test"):
        path = folder / "data" / f"images_variant_{split}.txt"
        strange = [words for words in _lines(path) if " ".join(words[1:]) not in known]
        if strange:
            raise DamagedData(
                f"Expected {path} to name variants that {variants} lists, got "
                f"{' '.join(strange[0])!r}."
            )
    with _reading(folder / "data" / "images_variant_trainval.txt"):
        train = FGVCAircraft(folder.parent, split="trainval", loader=_as_path)
        test = FGVCAircraft(folder.parent, split="test", loader=_as_path)
        return Pictures(
            tuple(train.classes), _torchvision_samples(train), _torchvision_samples(test)
        )


def _cars(folder: Path) -> Pictures:
    from torchvision.datasets import StanfordCars

    for name in (
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
    ):
        _mat(folder / name)
    with _reading(folder / "devkit"):
        train = StanfordCars(folder.parent, split="train", loader=_as_path)
        test = StanfordCars(folder.parent, split="test", loader=_as_path)
        return Pictures(
            tuple(map(str, train.classes)),
            *(
                tuple(Picture(p.path, int(p.label)) for p in _torchvision_samples(d))
                for d in (train, test)
            ),
        )


# Photographs that torchvision has no loader for.


def _scenes(folder: Path) -> Pictures:
    images = folder / "Images"
    if not images.exists():
        images = folder / "indoorCVPR_09" / "Images"
    listed = {}
    for split, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        with _reading(folder / name):
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            # Names hold spaces, so a line is one name.
            listed[split] = [line.strip() for line in lines if line.strip()]
            wrong = [line for line in listed[split] if line.count("/") != 1 or ".." in line]
            if wrong:
                raise ValueError(f"the line {wrong[0]!r} instead of class/file")
    class_names = sorted({line.split("/")[0] for line in listed["train"]})
    return _by_class_folder(folder / "TestImages.txt", images, class_names, listed)


def _by_class_folder(
    place: Path, images: Path, class_names: list[str], listed: dict[str, list[str]]
) -> Pictures:
    number = {name: i for i, name in enumerate(class_names)}
    with _reading(place):
        train, test = (
            tuple(Picture(images / line, number[line.split("/")[0]]) for line in listed[split])
            for split in ("train", "test")
        )
    return Pictures(tuple(class_names), train, test)


def _birds(folder: Path) -> Pictures:
    paths = dict(_pairs(folder / "images.txt"))
    labels = dict(_pairs(folder / "image_class_labels.txt"))
    trained = dict(_pairs(folder / "train_test_split.txt"))
    class_names = [name for _, name in _pairs(folder / "classes.txt")]
    parts: dict[str, list[Picture]] = {"0": [], "1": []}
    with _reading(folder / "images.txt"):
        for key, name in paths.items():
            if ".." in name:
                raise ValueError(f"the name {name!r}")
            picture = Picture(folder / "images" / name, int(labels[key]) - 1)
            parts[trained[key]].append(picture)
    return Pictures(tuple(class_names), tuple(parts["1"]), tuple(parts["0"]))


def _pairs(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for words in _lines(path):
        if len(words) != 2:
            raise DamagedData(f"Expected two words a line in {path}, got {' '.join(words)!r}.")
        pairs.append((words[0], words[1]))
    return pairs


_ACTION_NAMES = (
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
    "other",
)


def _actions(folder: Path) -> Pictures:
    """Take the persons with exactly one action, cut out along their boxes.

    The lists name the people of the challenge, an image and the number of the object in its
    annotation (from 1) a line; what they do is in the annotation.
    """
    parts = []
    for split in ("train", "val"):
        people = []
        for words in _lines(folder / "ImageSets" / "Action" / f"{split}.txt"):
            numbers = [int(word) for word in words[1:2] if word.isdigit()]
            people += _people(folder, words[0], numbers[0] if numbers else None)
        parts.append(tuple(people))
    return Pictures(_ACTION_NAMES, parts[0], parts[1])


def _people(folder: Path, image: str, number: int | None) -> list[Picture]:
    path = folder / "Annotations" / f"{image}.xml"
    with _reading(path, ET.ParseError, AttributeError):
        objects = ET.parse(path).getroot().findall("object")
        if number is not None:
            objects = [objects[number - 1]]
        found = []
        for person in objects:
            marks = person.find("actions")
            done = [] if marks is None else [m.tag for m in marks if m.text and float(m.text) > 0]
            if len(done) != 1:
                continue
            left, upper, right, lower = (
                int(float(str(person.findtext(f"bndbox/{edge}"))))
                for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            if not (left < right and upper < lower):
                raise ValueError(f"an empty box {left, upper, right, lower}")
            file = folder / "JPEGImages" / f"{image}.jpg"
            # Edges in the annotation count pixels from 1 and are inside the box.
            box = (max(left - 1, 0), max(upper - 1, 0), right, lower)
            found.append(Picture(file, _ACTION_NAMES.index(done[0]), box))
        return found


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _letters(folder: Path) -> Pictures:
    """Take the letters of the natural images, good and bad; Sample001 to 010 are digits."""
    base = folder / "English" / "Img"
    found = []
    for quality in ("GoodImg", "BadImag", "BadImg"):
        for label in range(len(_LETTERS)):
            sample = base / quality / "Bmp" / f"Sample{label + 11:03d}"
            if sample.is_dir():
                files = sorted(sample.iterdir())
                found += [Picture(f, label) for f in files if f.suffix.lower() == ".png"]
    if not found:
        raise DamagedData(f"Expected folders Sample011 to Sample062 with images below {base}.")
    return Pictures(tuple(_LETTERS), tuple(found), ())


ARRAYS: dict[str, ArrayReader] = {
    "mnist": _mnist_like(tuple("0123456789")),
    "fashion_mnist": _mnist_like(
        (
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )
    ),
    "cifar10": _cifar(
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
        10,
    ),
    "cifar100": _cifar(["train"], "test", "meta", "fine_labels", "fine_label_names", 100),
    "svhn": ArrayReader(("train_32x32.mat", "test_32x32.mat"), _svhn),
}
"""Datasets that are read as whole arrays."""

PICTURES: dict[str, Callable[[Path], Pictures]] = {
    "flowers": _flowers,
    "scenes": _scenes,
    "birds": _birds,
    "cars": _cars,
    "aircraft": _aircraft,
    "actions": _actions,
    "letters": _letters,
}
"""Datasets that are read as listings of image files."""
