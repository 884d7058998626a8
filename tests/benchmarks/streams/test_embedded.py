"""The three streams that need no download, and what every stream promises."""

import pickle
import time

import pytest
import torch

from benchmarks import streams
from benchmarks.streams import Split, Stream, Task, _glyphs
from benchmarks.streams._splits import generator, stratified
from benchmarks.streams._transforms import Normalize

SMALL = {
    "permuted_mnist_mini": {"tasks": 3},
    "split_digits": {},
    "glyphs": {"train_per_class": 4, "validation_per_class": 2, "test_per_class": 2},
}


@pytest.fixture(scope="module", params=sorted(SMALL))
def stream(request):
    return streams.build(request.param, 3, **SMALL[request.param])


def rows(x):
    return {bytes(image) for image in x.flatten(1).numpy()}


def test_every_task_can_be_trained_on(stream):
    for task in stream.tasks:
        x = task.transform(task.train.x[:5])
        assert x.dtype == torch.float32
        assert x.shape == (5, *stream.input_shape)
        assert x.abs().max() < 10
        for split in (task.train, task.validation, task.test):
            assert set(split.y.tolist()) == set(range(task.num_classes))


def test_no_image_is_in_two_splits(stream):
    for task in stream.tasks:
        train, validation, test = map(rows, (task.train.x, task.validation.x, task.test.x))
        assert len(train | validation | test) == len(train) + len(validation) + len(test)


def test_same_seed_same_stream(stream):
    again = streams.build(stream.name, 3, **SMALL[stream.name])
    for one, two in zip(stream.tasks, again.tasks, strict=True):
        assert one.name == two.name
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(one, part).x, getattr(two, part).x)
            assert torch.equal(getattr(one, part).y, getattr(two, part).y)
        assert torch.equal(one.transform(one.test.x[:4]), two.transform(one.test.x[:4]))


def test_seed_changes_training_but_not_what_is_tested_on(stream):
    other = streams.build(stream.name, 4, **SMALL[stream.name])
    seen = [set.union(*(rows(task.test.x) for task in s.tasks)) for s in (stream, other)]
    assert seen[0] == seen[1]
    trained = [set.union(*(rows(task.train.x) for task in s.tasks)) for s in (stream, other)]
    assert trained[0] != trained[1]


def test_global_random_state_is_left_alone(stream):
    before = torch.get_rng_state()
    streams.build(stream.name, 5, **SMALL[stream.name])
    assert torch.equal(torch.get_rng_state(), before)


def test_transforms_can_be_pickled(stream):
    task = stream.tasks[-1]
    copy = pickle.loads(pickle.dumps(task.transform))
    assert torch.equal(copy(task.test.x[:3]), task.transform(task.test.x[:3]))


def test_stand_ins_are_called_so(stream):
    assert stream.stand_in_for


def test_permutations_differ_and_keep_every_pixel():
    tasks = streams.build("permuted_mnist_mini", 0, tasks=4).tasks
    images = [task.transform(task.test.x[:10]) for task in tasks]
    normalised = Normalize((0.1307,), (0.3081,))(tasks[0].test.x[:10])
    assert torch.equal(images[0], normalised)
    for image in images[1:]:
        assert not torch.equal(image, images[0])
        assert torch.equal(image.flatten(1).sort().values, images[0].flatten(1).sort().values)
    assert tasks[0].train.x.data_ptr() == tasks[3].train.x.data_ptr()


def test_longer_stream_begins_with_the_shorter_one():
    short = streams.build("permuted_mnist_mini", 7, tasks=2).tasks[1].transform.index
    long = streams.build("permuted_mnist_mini", 7, tasks=5).tasks[1].transform.index
    assert torch.equal(short, long)


def test_digits_are_all_there_once():
    stream = streams.build("split_digits", 0)
    assert [task.num_classes for task in stream.tasks] == [2] * 5
    assert sum(map(len, (s for t in stream.tasks for s in (t.train, t.validation, t.test)))) == 1797
    assert sorted("-".join(task.name for task in stream.tasks)) == sorted("-".join("0123456789"))


def test_class_incremental_digits_count_on():
    stream = streams.build("split_digits", 0, scenario="class")
    labels = [sorted(set(task.test.y.tolist())) for task in stream.tasks]
    assert labels == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [task.num_classes for task in stream.tasks] == [2, 4, 6, 8, 10]


def test_glyph_tasks_keep_their_images_in_a_subset():
    counts = SMALL["glyphs"]
    whole = {task.name: task for task in streams.build("glyphs", 1, **counts).tasks}
    part = streams.build("glyphs", 1, tasks=["box", "digits"], **counts).tasks
    assert [task.name for task in part] == ["box", "digits"]
    for task in part:
        assert torch.equal(task.train.x, whole[task.name].train.x)


def test_glyph_fonts_are_held_out_whole():
    for alphabet in _glyphs.ALPHABETS.values():
        assert not set(alphabet.train_fonts) & set(alphabet.test_fonts)
        assert len(set(alphabet.characters)) == len(alphabet.characters)
        train, _ = _glyphs._masks(alphabet.characters, alphabet.train_fonts, 64)
        test, owners = _glyphs._masks(alphabet.characters, alphabet.test_fonts, 64)
        assert not rows(train) & rows(test)
        assert len(owners) == len(alphabet.characters) * len(alphabet.test_fonts)


def test_glyphs_that_a_font_lacks_are_left_out():
    masks, owners = _glyphs._masks("A←", ("STIXGeneral", "STIXGeneralItalic", "cmr10"), 32)
    assert owners.tolist() == [0, 1, 0, 0]
    assert (masks.flatten(1).max(dim=1).values > 0).all()
    with pytest.raises(ValueError, match=r"in one of the fonts.*'←'"):
        _glyphs._masks("A←", ("cmr10",), 32)


def test_glyphs_are_quick_and_of_any_size():
    start = time.process_time()
    stream = streams.build("glyphs", 11, tasks=["digits"], image_size=48)
    assert stream.input_shape == (3, 48, 48)
    assert stream.tasks[0].train.x.shape == (400, 3, 48, 48)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("glyph", {}, "Expected `stream` to be one of .*Did you mean 'glyphs'"),
        ("glyphs", {"task": []}, "Expected an option .*'image_size'.* got 'task'.*'tasks'"),
        ("glyphs", {"tasks": ["runes"]}, r"Expected `tasks` to be among .*'runes'"),
        ("glyphs", {"image_size": 4}, "Expected `image_size` to be at least 8"),
        ("permuted_mnist_mini", {"tasks": 0}, "Expected `tasks` to be at least 1, got 0"),
        ("permuted_mnist_mini", {"scenario": "class"}, "Expected `scenario` to be one of"),
        ("split_digits", {"scenario": "domain"}, "Expected `scenario` to be one of"),
        ("split_digits", {"validation": 1.0}, r"Expected `share` to lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        streams.build(name, 0, **options)


def test_options_are_listed():
    assert streams.options("split_digits") == {
        "data_root": None,
        "scenario": "task",
        "validation": 0.15,
    }


def test_a_stratified_cut_takes_the_same_share_of_every_class():
    y = torch.tensor([0] * 10 + [1] * 20 + [2] * 2 + [3])
    first, second = stratified(y, 0.2, generator(0))
    assert torch.bincount(y[second], minlength=4).tolist() == [2, 4, 1, 0]
    assert sorted(torch.cat([first, second]).tolist()) == list(range(33))


def test_malformed_streams_are_refused():
    x, y = torch.zeros(2, 1), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one label a sample, got 1 labels for 2 samples"):
        Split(x, y[:1])
    with pytest.raises(ValueError, match="`y` to be int64"):
        Split(x, y.int())
    split = Split(x, y)
    with pytest.raises(ValueError, match=r"task 'a' to lie in 0..0, got 0..1"):
        Task("a", 1, split, split, split, torch.clone)
    task = Task("a", 2, split, split, split, torch.clone)
    with pytest.raises(ValueError, match="each with a name of its own"):
        Stream("s", "task", (task, task), (1,), "")
    with pytest.raises(ValueError, match="Expected `scenario`"):
        Stream("s", "tasks", (task,), (1,), "")
