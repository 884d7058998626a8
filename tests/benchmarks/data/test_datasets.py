"""From every dataset's own files to arrays: the right images, the right labels, once."""

import gzip
import os
import pickle
import shutil
import tracemalloc
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import data
from benchmarks.data import cache, catalogue, places
from benchmarks.data.readers import ARRAYS, PICTURES, Picture
from tests import datasets

NUMBERS = {
    "mnist": (40, 20, 10),
    "fashion_mnist": (40, 20, 10),
    "cifar10": (100, 20, 10),
    "cifar100": (400, 100, 100),
    "flowers": (16, 8, 102),
    "scenes": (12, 6, 3),
    "birds": (20, 10, 5),
    "cars": (12, 6, 3),
    "aircraft": (12, 6, 3),
    # Two people in 33 and 22 images, less one person a part who does two things.
    "actions": (65, 43, 11),
    # 52 classes of 4, of which 15 % are cut off.
    "letters": (177, 31, 52),
    "svhn": (40, 20, 10),
}


def size_of(name):
    return None if name in ARRAYS else 16


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_sample_is_read_with_its_label(name, root):
    datasets.write(name, root)
    loaded = data.load(name, root, size_of(name))
    train, test, classes = NUMBERS[name]
    assert len(loaded.class_names) == classes
    for (x, y), count in ((loaded.train, train), (loaded.test, test)):
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert len(x) == len(y) == count
        assert 0 <= int(y.min()) <= int(y.max()) < classes
    if name in PICTURES:
        assert loaded.train[0].shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_colours_tell_the_labels(name, root):
    """Each picture has the mean colour that the generator gave its label."""
    datasets.write(name, root)
    loaded = data.load(name, root, 16)
    shift = 11 if name == "letters" else 0
    rng = np.random.default_rng(0)
    for x, y in (loaded.train, loaded.test):
        for image, label in zip(x, y.tolist(), strict=True):
            wanted = datasets.picture(label + shift, rng).mean(axis=(0, 1))
            got = image.float().mean(dim=(1, 2)).numpy()
            assert np.abs(wanted - got).max() < 14


def test_svhn_takes_ten_for_zero(root):
    folder = datasets.write_svhn(root)
    from scipy.io import loadmat

    raw = loadmat(folder / "test_32x32.mat")
    x, y = data.load("svhn", root).test
    assert np.array_equal(y.numpy(), raw["y"].reshape(-1) % 10)
    assert np.array_equal(x[3].numpy().transpose(1, 2, 0), raw["X"][..., 3])


def test_cifar_and_mnist_are_read_to_the_bit(root):
    folder = datasets.write_cifar10(root)
    with (folder / "test_batch").open("rb") as handle:
        batch = pickle.load(handle, encoding="latin1")
    x, y = data.load("cifar10", root).test
    assert np.array_equal(x.reshape(len(x), -1).numpy(), batch["data"])
    assert y.tolist() == batch["labels"]
    raw = datasets.write_mnist(root)
    pixels = gzip.decompress((raw / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert data.load("mnist", root).test[0].numpy().tobytes() == pixels


def test_idx_files_may_be_unpacked(root):
    datasets.write_mnist(root, compressed=False)
    assert len(data.load("mnist", root).train[1]) == 40


def test_torchvision_reads_the_same_trees(root):
    """The generated trees have the layout that torchvision expects."""
    from torchvision.datasets import MNIST, FGVCAircraft, StanfordCars

    datasets.write_aircraft(root)
    datasets.write_cars(root)
    datasets.write_mnist(root, compressed=False)
    assert len(FGVCAircraft(root, "test")) == NUMBERS["aircraft"][1]
    assert len(StanfordCars(root, "train")) == NUMBERS["cars"][0]
    theirs = MNIST(root, train=False)
    x, y = data.load("mnist", root).test
    assert torch.equal(theirs.data, x[:, 0])
    assert torch.equal(theirs.targets, y)


def test_voc_people_are_cut_out_along_their_boxes(root):
    folder = datasets.write_actions(root)
    listing = PICTURES["actions"](folder)
    assert {p.box for p in listing.train} == {(0, 0, 20, 30), (20, 0, 40, 30)}
    first = [p for p in listing.train if p.path.name == "2011_train0000.jpg"]
    assert [(p.label, p.box) for p in first] == [(0, (0, 0, 20, 30))]


def test_decoding_is_shorter_side_then_centre_crop(tmp_path):
    rng = np.random.default_rng(0)
    smooth = rng.random((8, 14, 3))
    image = Image.fromarray((255 * smooth).astype(np.uint8)).resize((280, 160), 2)
    image.save(tmp_path / "a.png")
    from torchvision.transforms.functional import center_crop, resize

    wanted = np.asarray(center_crop(resize(image, 64), 64)).transpose(2, 0, 1)
    got = cache.decode(Picture(tmp_path / "a.png", 0), 64)
    assert np.abs(wanted.astype(int) - got)[:, 2:-2, 2:-2].max() <= 3


def test_every_end_of_the_training_part_is_a_stratified_sample():
    y = np.repeat([0, 1, 2, 3], [100, 50, 10, 40])
    np.random.default_rng(1).shuffle(y)
    order = cache.stratified_order(y)
    assert sorted(order.tolist()) == list(range(200))
    for share in (0.1, 0.2, 0.5):
        end = np.bincount(y[order[-round(200 * share) :]], minlength=4)
        assert np.abs(end - share * np.array([100, 50, 10, 40])).max() <= 1


def test_a_second_load_decodes_nothing(root, monkeypatch):
    datasets.write_scenes(root)
    first = data.load("scenes", root, 16)
    monkeypatch.setattr(cache, "decode", None)
    second = data.load("scenes", root, 16)
    assert torch.equal(first.train[0], second.train[0])
    assert second.class_names == first.class_names


def test_loaded_images_are_mapped_not_held(root):
    datasets.write_scenes(root)
    x, _ = data.load("scenes", root, 16).train
    x[0] = 7
    assert not torch.equal(x, data.load("scenes", root, 16).train[0])


def test_a_changed_source_is_decoded_again(root):
    folder = datasets.write_scenes(root)
    before = data.load("scenes", root, 16)
    path = folder / "Images" / "gym" / "Te 1.jpg"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path)
    after = data.load("scenes", root, 16)
    assert not torch.equal(before.test[0], after.test[0])
    assert torch.equal(before.train[0], after.train[0])
    kept = [p for p in places.cache_root().iterdir() if p.is_dir()]
    assert len(kept) == 1


def test_sizes_have_caches_of_their_own(root):
    datasets.write_scenes(root)
    assert data.load("scenes", root, 8).train[0].shape[-1] == 8
    assert data.load("scenes", root, 12).train[0].shape[-1] == 12
    assert len([p for p in places.cache_root().iterdir() if p.is_dir()]) == 2


def _load_in_a_process(root):
    return int(data.load("scenes", Path(root), 16).train[0].long().sum())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_several_processes_may_start_at_once(root):
    datasets.write_scenes(root)
    with get_context("fork").Pool(4) as pool:
        sums = pool.map(_load_in_a_process, [str(root)] * 4)
    assert len(set(sums)) == 1
    folders = [p.name for p in places.cache_root().iterdir() if p.is_dir()]
    assert len(folders) == 1


def test_an_interrupted_build_leaves_nothing(root, monkeypatch):
    datasets.write_scenes(root)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("scenes", root, 16)
    assert not [p for p in places.cache_root().iterdir() if p.is_dir()]


def test_a_full_disk_is_an_error_before_anything_is_written(root, monkeypatch):
    datasets.write_scenes(root)
    usage = shutil.disk_usage(root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(data.DataError, match=r"Expected room for 9,216 bytes.*MAS_AVALANCHE_CACHE"):
        data.load("scenes", root, 16)


def test_a_cache_that_cannot_be_written_says_so(root, tmp_path, monkeypatch):
    datasets.write_scenes(root)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MAS_AVALANCHE_CACHE", str(blocked / "cache"))
    with pytest.raises(data.DataError, match=r"write decoded data to .*MAS_AVALANCHE_CACHE"):
        data.load("scenes", root, 16)


def test_roots_are_searched_in_order(root, tmp_path, monkeypatch):
    other = tmp_path / "other"
    datasets.write_scenes(other)
    monkeypatch.setenv("MAS_AVALANCHE_DATA", str(other))
    assert places.find("scenes", root) == other / "indoor67"
    datasets.write_scenes(root)
    assert places.find("scenes", root) == root / "indoor67"
    assert places.find("scenes") == other / "indoor67"
    assert places.home_of_downloads(root) == root
    assert places.home_of_downloads() == other
    monkeypatch.delenv("MAS_AVALANCHE_DATA")
    local = Path("data").absolute()
    datasets.write_scenes(local)
    assert places.find("scenes") == local / "indoor67"
    assert places.home_of_downloads().parts[-3:] == (".local", "share", "mas_avalanche")


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("mnist", "mnist"),
        ("fashion_mnist", "fashionmnist"),
        ("cifar10", "cifar10"),
        ("cifar100", "cifar100"),
        ("birds", "CUB_200_2011"),
    ],
)
def test_folders_of_avalanche_are_honoured(name, below):
    folder = datasets.write(name, Path.home() / ".avalanche" / "data" / below)
    assert places.find(name) == folder


def test_folders_of_the_system_are_honoured(tmp_path, monkeypatch):
    folder = tmp_path / "usr" / "fashion-mnist"
    datasets.write_idx(folder)
    known = replace(catalogue.CATALOGUE["fashion_mnist"], system=(str(folder),))
    monkeypatch.setitem(catalogue.CATALOGUE, "fashion_mnist", known)
    assert places.find("fashion_mnist") == folder


def test_a_missing_set_says_where_it_was_looked_for(root):
    with pytest.raises(data.MissingData) as caught:
        data.load("cifar10", root)
    assert caught.value.dataset == "cifar10"
    assert caught.value.where_looked[0] == root
    assert "data download cifar10` (about 171 MB" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(data.MissingData, match=r"address is dead.*cars_train/ and cars_test/"):
        data.load("cars", root, 16)


def test_an_incomplete_set_is_missing(root):
    folder = datasets.write_birds(root)
    (folder / "classes.txt").unlink()
    with pytest.raises(data.MissingData):
        data.load("birds", root, 16)


def test_all_missing_sets_are_named_at_once(root):
    datasets.write_scenes(root)
    with pytest.raises(
        data.MissingData,
        match=r"The datasets flowers, birds, cars are not in .*; get flowers birds with .*"
        r"data download flowers birds` \(about .*; cars: ",
    ):
        data.require(("flowers", "scenes", "birds", "cars"), root)
    (datasets.write_birds(root) / "classes.txt").unlink()
    with pytest.raises(
        data.MissingData,
        match=rf"; birds: {root}/CUB_200_2011 has a part of it and lacks classes.txt; get flowers",
    ):
        data.require(("flowers", "birds"), root)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_text(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def move_a_box_away(path):
    replace_text(path, "<xmin>21<", "<xmin>999<")
    replace_text(path, "<xmax>40<", "<xmax>1200<")


@pytest.mark.parametrize(
    ("name", "file", "spoil", "message"),
    [
        ("mnist", "train-images-idx3-ubyte.gz", truncate, "train-images.*readable, got"),
        (
            "mnist",
            "t10k-labels-idx1-ubyte.gz",
            lambda p: p.write_bytes(gzip.compress(datasets.idx(np.zeros(3)))),
            "one label an image, got 3 labels for 20 images",
        ),
        (
            "mnist",
            "t10k-labels-idx1-ubyte.gz",
            lambda p: p.write_bytes(gzip.compress(datasets.idx(np.full(20, 77)))),
            r"lie in 0\.\.9, got 77\.\.77",
        ),
        (
            "mnist",
            "t10k-labels-idx1-ubyte.gz",
            lambda p: p.write_bytes(gzip.compress(b"<html>")),
            "the header 3c68746d instead of the header 00000801",
        ),
        (
            "mnist",
            "t10k-labels-idx1-ubyte.gz",
            lambda p: p.write_bytes(b""),
            "an empty file instead of the header 00000801",
        ),
        (
            "mnist",
            "train-images-idx3-ubyte.gz",
            lambda p: p.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12)),
            "absurd shape",
        ),
        ("cifar10", "data_batch_3", truncate, "data_batch_3 to be readable"),
        ("cifar10", "test_batch", lambda p: p.write_bytes(b""), "test_batch to be readable"),
        (
            "cifar10",
            "test_batch",
            lambda p: p.write_bytes(pickle.dumps([1])),
            "a pickled list instead of a dictionary",
        ),
        (
            "cifar100",
            "meta",
            lambda p: p.write_bytes(pickle.dumps({"fine_label_names": ["one"]})),
            "to name 100 classes, got 1",
        ),
        ("cifar100", "train", lambda p: p.write_bytes(pickle.dumps({})), "KeyError: 'data'"),
        ("svhn", "train_32x32.mat", truncate, "train_32x32.mat to be readable"),
        ("svhn", "test_32x32.mat", lambda p: p.write_bytes(b"x" * 300), "test_32x32.mat to be rea"),
        ("flowers", "setid.mat", truncate, "setid.mat to be readable"),
        ("flowers", "imagelabels.mat", truncate, "imagelabels.mat to be readable"),
        ("flowers", "jpg/image_00001.jpg", truncate, "image_00001.jpg to be a whole image"),
        ("flowers", "jpg/image_00002.jpg", os.unlink, r"got none at .*00002.jpg \(1 missing"),
        ("scenes", "Images/gym/Tr 1.jpg", lambda p: p.write_bytes(b""), "to be a whole image"),
        (
            "scenes",
            "TestImages.txt",
            lambda p: p.write_text("../../etc/passwd\n"),
            "the line '../../etc/passwd' instead of class/file",
        ),
        (
            "scenes",
            "TestImages.txt",
            lambda p: p.write_text("attic/1.jpg\n"),
            "TestImages.txt to be readable, got KeyError: 'attic'",
        ),
        (
            "birds",
            "image_class_labels.txt",
            lambda p: p.write_text("1 1\n"),
            "images.txt to be readable, got KeyError: '2'",
        ),
        ("birds", "images.txt", lambda p: p.write_text("1 2 3\n"), "two words a line .* '1 2 3'"),
        ("cars", "devkit/cars_train_annos.mat", truncate, "cars_train_annos.mat to be readable"),
        ("cars", "cars_test_annos_withlabels.mat", truncate, "withlabels.mat to be readable"),
        ("cars", "devkit/cars_meta.mat", lambda p: p.write_bytes(b""), "meta.mat to be readable"),
        (
            "aircraft",
            "data/variants.txt",
            lambda p: p.write_text("707-320\n"),
            r"trainval.txt to name variants that .*variants.txt lists, got '\d+ A300B4'",
        ),
        (
            "actions",
            "Annotations/2011_val0003.xml",
            truncate,
            "2011_val0003.xml to be readable",
        ),
        (
            "actions",
            "Annotations/2011_val0003.xml",
            lambda p: replace_text(p, "<xmax>20<", "<xmax>1<"),
            "an empty box",
        ),
        (
            "actions",
            "Annotations/2011_val0003.xml",
            move_a_box_away,
            "Expected the box .* to lie in .*40x30 pixels",
        ),
    ],
)
def test_damage_is_named_in_one_sentence(name, file, spoil, message, root):
    folder = datasets.write(name, root)
    spoil(folder / file)
    with pytest.raises(data.DamagedData, match=message):
        data.load(name, root, size_of(name))
    if places.cache_root().exists():
        assert not [p for p in places.cache_root().iterdir() if p.is_dir()]


def test_a_pickle_that_wants_to_run_something_is_refused(root, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = datasets.write_cifar10(root)
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": Hostile()}))
    with pytest.raises(data.DamagedData, match=r"wants to run posix.mkdir, which is refused"):
        data.load("cifar10", root)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(("name", "size"), [("mnist", 16), ("scenes", None)])
def test_a_size_is_for_pictures(name, size):
    with pytest.raises(ValueError, match="size"):
        data.load(name, None, size)


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match=r"Expected a dataset out of .*got 'imagenet'"):
        places.find("imagenet")


def peak_of(action):
    """Most bytes that Python and numpy held at once during an action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def anonymous_bytes():
    """Memory of this process that is not backed by files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon")


def test_pictures_are_never_all_in_memory(root):
    datasets.write_scenes(root, counts=(64, 16))
    whole = 240 * 3 * 256 * 256
    assert peak_of(lambda: data.load("scenes", root, 256)) < 0.8 * whole


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_mapped_pictures_takes_no_memory_of_its_own(root):
    datasets.write_scenes(root, counts=(64, 16))
    x, _ = data.load("scenes", root, 256).train
    before = anonymous_bytes()
    for start in range(0, len(x), 4):
        x[start : start + 4].float().mean()
    assert anonymous_bytes() - before < 0.5 * x.numel()


def test_arrays_are_not_held_twice(root):
    datasets.write_cifar10(root, per_batch=150, test=10)
    whole = 5 * 1500 * 3072
    assert peak_of(lambda: data.load("cifar10", root)) < 1.9 * whole
