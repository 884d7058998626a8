"""Writes every dataset small, in the format and layout in which it is distributed."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat

NAMES = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "flowers",
    "scenes",
    "birds",
    "cars",
    "aircraft",
    "actions",
    "letters",
    "svhn",
)


def write(name, root, **options):
    """Write the dataset `name` below `root`; returns its folder."""
    return globals()[f"write_{name}"](root, **options)


def picture(label, rng, size=(24, 18)):
    """A noisy image whose colour tells its label."""
    colour = np.array([(37 * label) % 256, (101 * label + 60) % 256, (173 * label + 120) % 256])
    noise = rng.integers(-12, 13, (size[1], size[0], 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def save(path, array, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, kind)


def idx(array):
    return (
        struct.pack(">BBBB", 0, 0, 8, array.ndim)
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_idx(folder, per_class=(4, 2), compressed=True):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for stem, count in zip(("train", "t10k"), per_class, strict=True):
        y = np.tile(np.arange(10), count)
        x = np.clip(25 * y[:, None, None] + rng.integers(0, 20, (len(y), 28, 28)), 0, 255)
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            data = idx(array)
            path = folder / f"{stem}-{kind}-ubyte"
            if compressed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return folder


def write_mnist(root, **options):
    return write_idx(root / "MNIST" / "raw", **options)


def write_fashion_mnist(root, **options):
    return write_idx(root / "FashionMNIST" / "raw", **options)


def python2_pickle(content):
    """Pickle as CIFAR's files are: protocol 2, and the name that numpy's module had."""
    return pickle.dumps(content, protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )


def cifar_rows(y, rng):
    return np.stack([picture(label, rng, (32, 32)).transpose(2, 0, 1).reshape(-1) for label in y])


def write_cifar10(root, per_batch=2, test=2):
    rng = np.random.default_rng(1)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    counts = {f"data_batch_{i}": per_batch for i in range(1, 6)} | {"test_batch": test}
    for name, count in counts.items():
        y = rng.permutation(np.tile(np.arange(10), count))
        batch = {"data": cifar_rows(y, rng), "labels": y.tolist(), "batch_label": name}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"label_names": [f"thing{i}" for i in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return folder


def write_cifar100(root, train=4, test=1):
    rng = np.random.default_rng(2)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", train), ("test", test)):
        y = rng.permutation(np.tile(np.arange(100), count))
        batch = {"data": cifar_rows(y, rng), "fine_labels": y.tolist(), "coarse_labels": []}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"fine_label_names": [f"object{i}" for i in range(100)]}
    (folder / "meta").write_bytes(python2_pickle(meta))
    return folder


def write_flowers(root, classes=4, per_class=6):
    rng = np.random.default_rng(3)
    folder = root / "flowers-102"
    y = np.tile(np.arange(classes), per_class)
    for i, label in enumerate(y, 1):
        save(folder / "jpg" / f"image_{i:05d}.jpg", picture(label, rng, (30, 24)))
    ids = np.arange(1, len(y) + 1)
    third = len(y) // 3
    savemat(folder / "imagelabels.mat", {"labels": (y + 1)[None]})
    savemat(
        folder / "setid.mat",
        {
            "trnid": ids[None, :third],
            "valid": ids[None, third : 2 * third],
            "tstid": ids[None, 2 * third :],
        },
    )
    return folder


def write_scenes(root, classes=("airport inside", "bakery", "gym"), counts=(4, 2)):
    rng = np.random.default_rng(4)
    folder = root / "indoor67"
    for name, count in zip(("TrainImages.txt", "TestImages.txt"), counts, strict=True):
        lines = []
        for label, title in enumerate(classes):
            for i in range(count):
                lines.append(f"{title}/{name[:2]} {i}.jpg")
                save(folder / "Images" / lines[-1], picture(label, rng, (18, 30)))
        (folder / name).write_text("\r\n".join(lines) + "\r\n")
    return folder


def write_birds(root, classes=5, per_class=6):
    rng = np.random.default_rng(5)
    folder = root / "CUB_200_2011"
    lines = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    number = 0
    for label in range(classes):
        title = f"{label + 1:03d}.Bird_{label}"
        lines["classes"].append(f"{label + 1} {title}")
        for i in range(per_class):
            number += 1
            name = f"{title}/Bird_{i:04d}.jpg"
            save(folder / "images" / name, picture(label, rng))
            lines["images"].append(f"{number} {name}")
            lines["image_class_labels"].append(f"{number} {label + 1}")
            lines["train_test_split"].append(f"{number} {int(i % 3 != 0)}")
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")
    return folder


def write_cars(root, classes=3, counts=(4, 2)):
    rng = np.random.default_rng(6)
    folder = root / "stanford_cars"
    kinds = [(key, "O") for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    (folder / "devkit").mkdir(parents=True)
    places = {
        "cars_train": folder / "devkit" / "cars_train_annos.mat",
        "cars_test": folder / "cars_test_annos_withlabels.mat",
    }
    for (part, mat), count in zip(places.items(), counts, strict=True):
        rows = []
        for i in range(classes * count):
            name = f"{i + 1:05d}.jpg"
            save(folder / part / name, picture(i % classes, rng, (40, 30)))
            rows.append((1, 1, 39, 29, i % classes + 1, name))
        savemat(mat, {"annotations": np.array(rows, dtype=kinds)[None]})
    names = np.array([f"Maker Model {i} 2012" for i in range(classes)], dtype=object)[None]
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    return folder


def write_aircraft(root, classes=("707-320", "A300B4", "F/A-18"), counts=(4, 2)):
    rng = np.random.default_rng(7)
    data = root / "fgvc-aircraft-2013b" / "data"
    number = 0
    for part, count in zip(("trainval", "test"), counts, strict=True):
        lines = []
        for label, title in enumerate(classes):
            for _ in range(count):
                number += 1
                save(data / "images" / f"{number:07d}.jpg", picture(label, rng, (36, 24)))
                lines.append(f"{number:07d} {title}")
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (data / "variants.txt").write_text("\n".join(classes) + "\n")
    return data.parent


ACTIONS = (
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


def person(box, done):
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    marks = "".join(f"<{name}>{int(name in done)}</{name}>" for name in ACTIONS)
    corners = "".join(f"<{name}>{value}</{name}>" for name, value in edges)
    return (
        f"<object><name>person</name><actions>{marks}</actions><bndbox>{corners}</bndbox></object>"
    )


def write_actions(root, counts=(3, 2)):
    """Two people an image; in the first image of each part one of them does two things."""
    rng = np.random.default_rng(8)
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("ImageSets/Action", "Annotations"):
        (folder / name).mkdir(parents=True)
    for part, count in zip(("train", "val"), counts, strict=True):
        lines = []
        for i in range(count * len(ACTIONS)):
            image, label = f"2011_{part}{i:04d}", i % len(ACTIONS)
            array = np.concatenate([picture(label, rng, (20, 30)), picture(10, rng, (20, 30))], 1)
            save(folder / "JPEGImages" / f"{image}.jpg", array)
            second = ("other", "walking") if i == 0 else ("other",)
            people = person((1, 1, 20, 30), (ACTIONS[label],)) + person((21, 1, 40, 30), second)
            (folder / "Annotations" / f"{image}.xml").write_text(
                f"<annotation><filename>{image}.jpg</filename>{people}</annotation>"
            )
            lines += [f"{image}  1", f"{image}  2"]
        (folder / "ImageSets" / "Action" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_letters(root, per_class=4):
    rng = np.random.default_rng(9)
    folder = root / "chars74k" / "English" / "Img"
    for quality, count in (("GoodImg", per_class - 1), ("BadImag", 1)):
        for sample in range(1, 63):
            for i in range(count):
                name = f"img{sample:03d}-{i + 1:05d}.png"
                path = folder / quality / "Bmp" / f"Sample{sample:03d}" / name
                save(path, picture(sample, rng, (12, 20)), "PNG")
    return root / "chars74k"


def write_svhn(root, per_class=(4, 2)):
    rng = np.random.default_rng(10)
    folder = root / "svhn"
    folder.mkdir(parents=True)
    for part, count in zip(("train", "test"), per_class, strict=True):
        y = rng.permutation(np.tile(np.arange(10), count))
        x = np.stack([picture(label, rng, (32, 32)) for label in y], axis=-1)
        mat = {"X": x, "y": np.where(y == 0, 10, y).astype(np.uint8)[:, None]}
        savemat(folder / f"{part}_32x32.mat", mat, do_compression=True)
    return folder


def tar(members, mode="w:gz"):
    """Pack (TarInfo or name, bytes) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(folder, inside):
    """Pack a folder under the name `inside` ("" for its content alone)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, inside or ".")
    return buffer.getvalue()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members:
            archive.writestr(member, content)
    return buffer.getvalue()
