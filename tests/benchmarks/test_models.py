import pytest
import torch

from benchmarks import models, streams


@pytest.fixture(scope="module")
def digits():
    return streams.build("split_digits", 0)


@pytest.fixture(scope="module")
def class_digits():
    return streams.build("split_digits", 0, scenario="class")


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_known_task_has_a_head_of_its_own(digits, name):
    model = models.build(name, digits, {})
    x = torch.zeros(3, *digits.input_shape)
    for position in range(5):
        assert model(x, position).shape == (3, 2)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_other_streams_have_one_output_a_class(class_digits, name):
    model = models.build(name, class_digits, {})
    assert model(torch.zeros(3, *class_digits.input_shape)).shape == (3, 10)


def test_options_change_the_network(digits):
    small = models.build("mlp", digits, {"hidden": [4]})
    assert sum(p.numel() for p in small.parameters()) == 64 * 4 + 4 + 5 * (4 * 2 + 2)
    dropping = models.build("cnn", digits, {"channels": [2], "hidden": 3, "dropout": 0.5})
    assert any(isinstance(module, torch.nn.Dropout) for module in dropping.modules())


def test_the_network_of_zenke_et_al_has_their_layers():
    images = torch.zeros(2, 3, 32, 32)
    labels = torch.zeros(2, dtype=torch.int64)
    split = streams.Split(images, labels)
    tasks = tuple(streams.Task(str(i), 10, split, split, split, torch.Tensor.float) for i in "abc")
    stream = streams.Stream("made", "task", tasks, (3, 32, 32), "Made.")
    model = models.build("zenke_cnn", stream, {})
    assert model(images, 2).shape == (2, 10)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25, 0.5]
    convolutions = 32 * (3 * 9 + 1) + 32 * (32 * 9 + 1) + 64 * (32 * 9 + 1) + 64 * (64 * 9 + 1)
    assert sum(p.numel() for p in model.parameters()) == (
        convolutions + 512 * (64 * 6 * 6 + 1) + 3 * 10 * (512 + 1)
    )


def test_alexnet_is_sized_by_the_stream():
    stream = streams.build(
        "glyphs",
        0,
        tasks=["digits", "box"],
        train_per_class=1,
        validation_per_class=1,
        test_per_class=1,
        image_size=24,
    )
    model = models.build("alexnet", stream, {"width": 0.0625, "initialisation": "he"})
    assert model(torch.zeros(2, 3, 24, 24), 0).shape == (2, 10)
    assert model(torch.zeros(2, 3, 24, 24), 1).shape == (2, 22)
    with pytest.raises(ValueError, match="Expected `initialisation` to be 'torch' or 'he'"):
        models.build("alexnet", stream, {"initialisation": "xavier"})


def test_he_initialisation_keeps_the_size_of_activations():
    stream = streams.build(
        "glyphs", 0, tasks=["digits"], train_per_class=1, validation_per_class=1, test_per_class=1
    )
    x = torch.randn(64, 3, 32, 32)
    sizes = {
        kind: models.build("alexnet", stream, {"width": 0.25, "initialisation": kind})
        .eval()
        .trunk(x)
        .square()
        .mean()
        .item()
        for kind in ("torch", "he")
    }
    assert sizes["he"] > 100 * sizes["torch"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mpl", {}, "Unknown model `mpl`"),
        ("mlp", {"hiden": [3]}, "Unknown option `hiden`"),
        ("cnn", {"channels": [2, 2, 2, 2]}, "images of at least 16 pixels a side"),
        ("zenke_cnn", {"channels": [2, 2]}, "larger images for 2 pairs of convolutions"),
        ("zenke_cnn", {"dropout": [0.5]}, "`dropout` to be two shares"),
    ],
)
def test_mistakes_are_said(digits, name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, digits, options)


def test_alexnet_needs_known_tasks(class_digits):
    with pytest.raises(ValueError, match="Expected a task-incremental stream"):
        models.build("alexnet", class_digits, {})
