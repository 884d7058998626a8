"""Streams of datasets on the machine, from the sets' own files to mini-batches."""

import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import data, streams
from benchmarks.streams._datasets import class_groups
from benchmarks.streams._transforms import CentreCrop, Normalize, RandomCrop
from tests import datasets

NEEDS = {
    "permuted_mnist": ("mnist",),
    "permuted_fashion_mnist": ("fashion_mnist",),
    "split_fashion_mnist": ("fashion_mnist",),
    "split_cifar10": ("cifar10",),
    "split_cifar100": ("cifar100",),
    "cifar10_then_cifar100": ("cifar10", "cifar100"),
    "object_recognition": (
        "flowers",
        "scenes",
        "birds",
        "cars",
        "aircraft",
        "actions",
        "letters",
        "svhn",
    ),
}
OPTIONS = {"object_recognition": {"image_size": 14, "validation": 0.25}}
PLAIN = Normalize((0.0,), (1.0,))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for name in datasets.NAMES:
        datasets.write(name, root)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MAS_AVALANCHE_CACHE", str(tmp_path_factory.getbasetemp() / "decoded"))


def build(name, root, seed=1, **options):
    options = OPTIONS.get(name, {}) | options
    if name != "object_recognition":
        options = {"validation": 0.25} | options
    return streams.build(name, seed, data_root=root, **options)


@pytest.mark.parametrize("name", NEEDS)
def test_every_task_can_be_trained_on(name, root):
    stream = build(name, root)
    for task in stream.tasks:
        generator = torch.Generator().manual_seed(0)
        x = task.train.x[:6]
        if task.augment is not None:
            x = task.augment(x, generator)
        model_input = task.transform(x)
        assert model_input.dtype == torch.float32
        assert model_input.shape[1:] == stream.input_shape
        for split in (task.train, task.validation, task.test):
            assert len(split) > 0
            assert task.transform(split.x[:2]).shape[1:] == stream.input_shape


@pytest.mark.parametrize("name", NEEDS)
def test_the_same_seed_gives_the_same_stream(name, root):
    one, two = build(name, root), build(name, root)
    for first, second in zip(one.tasks, two.tasks, strict=True):
        assert first.name == second.name
        assert torch.equal(first.train.x, second.train.x)
        assert torch.equal(first.validation.y, second.validation.y)
        x = first.test.x[:3]
        assert torch.equal(first.transform(x), second.transform(x))


@pytest.mark.parametrize("name", NEEDS)
def test_transforms_and_augmentations_can_be_pickled(name, root):
    task = build(name, root).tasks[-1]
    transform, augment = pickle.loads(pickle.dumps((task.transform, task.augment)))
    x = task.test.x[:3]
    assert torch.equal(transform(x), task.transform(x))
    if augment is not None:
        generators = [torch.Generator().manual_seed(4) for _ in range(2)]
        assert torch.equal(augment(x, generators[0]), task.augment(x, generators[1]))


@pytest.mark.parametrize("name", NEEDS)
def test_missing_data_is_one_clear_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for variable in ("MAS_AVALANCHE_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    from dataclasses import replace

    from benchmarks.data.catalogue import CATALOGUE

    for needed in NEEDS[name]:
        monkeypatch.setitem(CATALOGUE, needed, replace(CATALOGUE[needed], system=()))
    with pytest.raises(data.MissingData, match=str(tmp_path)) as caught:
        build(name, tmp_path)
    for needed in NEEDS[name]:
        assert needed in str(caught.value)


def test_samples_of_permuted_tasks_are_shared(root):
    tasks = build("permuted_fashion_mnist", root, tasks=4).tasks
    assert len({task.train.x.data_ptr() for task in tasks}) == 1
    images = [task.transform(task.test.x[:2]).flatten(1).sort().values for task in tasks]
    assert all(torch.equal(image, images[0]) for image in images)


def test_padded_permutations_move_the_padding_too(root):
    stream = build("permuted_mnist", root, tasks=2, padding=2)
    assert stream.input_shape == (1, 32, 32)
    first, second = (task.transform(task.test.x[:1]) for task in stream.tasks)
    edge = first[0, 0, 0, 0]
    assert (first[0, 0, :2] == edge).all()
    assert not (second[0, 0, :2] == edge).all()


@pytest.mark.parametrize(
    ("name", "options", "classes"),
    [
        ("split_cifar10", {}, [2] * 5),
        ("split_cifar100", {}, [10] * 10),
        ("split_cifar100", {"tasks": 20}, [5] * 20),
        ("split_fashion_mnist", {}, [2] * 5),
        ("cifar10_then_cifar100", {}, [10] * 6),
        ("split_cifar10", {"scenario": "class"}, [2, 4, 6, 8, 10]),
        ("split_cifar100", {"tasks": 4, "scenario": "class"}, [25, 50, 75, 100]),
        ("cifar10_then_cifar100", {"scenario": "class"}, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_classes_are_dealt_out(name, options, classes, root):
    stream = build(name, root, **options)
    assert [task.num_classes for task in stream.tasks] == classes
    if stream.scenario == "class":
        starts = [0, *classes]
        for task, start, end in zip(stream.tasks, starts, classes, strict=False):
            for split in (task.train, task.validation, task.test):
                assert set(split.y.tolist()) == set(range(start, end))


def test_labels_that_count_on_belong_to_the_same_images(root):
    apart, counted = (
        build("cifar10_then_cifar100", root, scenario=scenario) for scenario in ("task", "class")
    )
    assert counted.scenario == "class"
    for position, (one, two) in enumerate(zip(apart.tasks, counted.tasks, strict=True)):
        assert torch.equal(one.train.x, two.train.x)
        assert torch.equal(one.train.y + 10 * position, two.train.y)


class Copies(TorchDispatchMode):
    """Counts the bytes of images that indexing copies."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.index.Tensor and result.dtype == torch.uint8:
            self.bytes += result.nbytes
        return result


@pytest.mark.parametrize("name", ["split_cifar10", "split_cifar100", "permuted_mnist"])
def test_images_are_copied_once_however_many_the_tasks(name, root):
    loaded = data.load(name.removeprefix("split_").removeprefix("permuted_"), root)
    with Copies() as copies:
        build(name, root, tasks=10)
    assert copies.bytes == loaded.train[0].nbytes + loaded.test[0].nbytes


def test_nothing_need_be_held_out(root):
    for name in ("split_cifar10", "split_fashion_mnist", "permuted_mnist"):
        tasks = build(name, root, validation=0.0).tasks
        assert all(len(task.validation) == 0 and len(task.train) > 0 for task in tasks)


def test_split_tasks_hold_their_classes_and_nothing_else(root):
    stream = build("split_cifar10", root, class_order=[7, 2, 0, 1, 3, 4, 5, 6, 8, 9])
    task = stream.tasks[0]
    assert task.name == "thing7-thing2"
    x, y = data.load("cifar10", root).test
    for new, old in ((0, 7), (1, 2)):
        ours = {bytes(i.numpy()) for i in task.test.x[task.test.y == new].flatten(1)}
        assert ours == {bytes(i.numpy()) for i in x[y == old].flatten(1)}


def test_seeds_deal_classes_differently_and_fixed_orders_do_not(root):
    drawn = [[t.name for t in build("split_cifar100", root, seed).tasks] for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    fixed = [
        [t.name for t in build("split_cifar100", root, s, class_order="fixed").tasks]
        for s in (1, 2)
    ]
    assert fixed[0] == fixed[1]
    assert fixed[0][0] == "object0..object9"


def test_training_images_can_be_limited(root):
    task = build("split_cifar10", root, train_per_class=3).tasks[0]
    assert task.train.y.bincount().tolist() == [3, 3]
    task = build("object_recognition", root, tasks=["birds"], train_per_class=2).tasks[0]
    assert task.train.y.bincount().tolist() == [2] * 5
    assert len(task.test) == 10
    task = build("object_recognition", root, tasks=["birds"], test_per_class=1).tasks[0]
    assert len(task.test) == 5


def test_the_sequence_is_the_papers(root):
    stream = build("object_recognition", root)
    names = ["flowers", "scenes", "birds", "cars", "aircraft", "actions", "letters", "svhn"]
    assert [task.name for task in stream.tasks] == names
    assert stream.scenario == "task"
    # Trees of few classes, except where the format fixes their number.
    assert [task.num_classes for task in stream.tasks] == [102, 3, 5, 3, 3, 11, 52, 10]
    pair = build("object_recognition", root, tasks=["scenes", "birds"])
    assert [task.name for task in pair.tasks] == ["scenes", "birds"]


def test_the_sequence_copies_no_pictures(root):
    for name in NEEDS["object_recognition"]:
        task = build("object_recognition", root, tasks=[name]).tasks[0]
        train, validation = task.train.x, task.validation.x
        assert train.untyped_storage().data_ptr() == validation.untyped_storage().data_ptr()
        assert len(train) + len(validation) == len(
            data.load(name, root, None if name == "svhn" else 16).train[1]
        )


def test_the_validation_part_of_the_sequence_is_stratified(root):
    task = build("object_recognition", root, tasks=["birds"], validation=0.25).tasks[0]
    assert task.validation.y.bincount(minlength=5).tolist() == [1] * 5


def test_characters_are_mirrored_only_when_asked(root):
    tasks = {t.name: t for t in build("object_recognition", root).tasks}
    assert {name: t.augment.flip for name, t in tasks.items() if not t.augment.flip} == {
        "letters": False,
        "svhn": False,
    }
    tasks = build("object_recognition", root, flip_characters=True).tasks
    assert all(t.augment.flip for t in tasks)
    assert all(t.augment is None for t in build("object_recognition", root, augment=False).tasks)


def test_centre_crops_are_cut_once_and_resized():
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
    plain = Normalize((0.0,) * 3, (1.0,) * 3, full=1.0)
    crop = CentreCrop(6, 6, plain)
    assert torch.equal(crop(x), x[..., 1:7, 1:7].float())
    assert torch.equal(crop(x[..., :6, 2:]), x[..., :6, 2:].float())
    wider = CentreCrop(4, 8, plain)(torch.full((1, 3, 8, 8), 9, dtype=torch.uint8))
    assert wider.shape == (1, 3, 8, 8)
    assert torch.allclose(wider, torch.tensor(9.0))


def test_random_crops_are_windows_mirrored_or_not():
    x = torch.randint(0, 256, (40, 3, 9, 9), dtype=torch.uint8)
    cut = RandomCrop(5, pad=1)(x, torch.Generator().manual_seed(0))
    assert cut.shape == (40, 3, 5, 5)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    places, mirrored = set(), 0
    for image, window in zip(padded, cut, strict=True):
        found = [
            (r, c, flip)
            for r in range(7)
            for c in range(7)
            for flip in (False, True)
            if torch.equal(window.flip(-1) if flip else window, image[:, r : r + 5, c : c + 5])
        ]
        assert len(found) == 1
        places.add(found[0][:2])
        mirrored += found[0][2]
    assert len(places) > 15
    assert 8 < mirrored < 32
    still = RandomCrop(5, flip=False)(x[:3], torch.Generator().manual_seed(1))
    assert all(
        any(torch.equal(w, i[:, r : r + 5, c : c + 5]) for r in range(5) for c in range(5))
        for w, i in zip(still, x, strict=False)
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("permuted_mnist", {"scenario": "class"}, "`scenario` to be one of"),
        ("permuted_mnist", {"padding": -1}, r"`padding` to lie in 0\.\.64, got -1"),
        ("permuted_mnist", {"tasks": 0}, "`tasks` to be at least 1, got 0"),
        ("split_cifar10", {"tasks": 3}, "`tasks` to divide 10 classes, got 3"),
        ("split_cifar10", {"class_order": "random"}, "`class_order` to be .*got 'random'"),
        ("split_cifar10", {"class_order": [1, 2]}, "every class of 0..9 once"),
        ("split_cifar10", {"train_per_class": 0}, "at least 1 sample a class, got 0"),
        ("split_cifar10", {"scenario": "domain"}, "`scenario` to be one of"),
        ("split_fashion_mnist", {"scenario": "domain"}, "`scenario` to be one of"),
        ("cifar10_then_cifar100", {"scenario": "domain"}, "`scenario` to be one of"),
        ("cifar10_then_cifar100", {"tasks": 1}, r"`tasks` to lie in 2\.\.11, got 1"),
        ("object_recognition", {"tasks": ["pets"]}, r"`tasks` to be among .*\['pets'\]"),
        ("object_recognition", {"image_size": 3}, "`image_size` to be at least 8, got 3"),
        ("object_recognition", {"validation": 1}, r"`validation` to lie in \[0, 1\), got 1"),
    ],
)
def test_bad_options_are_named(name, options, message, root):
    with pytest.raises(ValueError, match=message):
        build(name, root, **options)


def test_class_groups_cover_every_class_once():
    groups = class_groups(100, 20, "seed", 3)
    assert sorted(label for group in groups for label in group) == list(range(100))
    assert {len(group) for group in groups} == {5}
