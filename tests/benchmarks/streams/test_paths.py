"""From each set's own files to a finished run with MAS, by way of the small studies."""

import dataclasses
import math

import pytest

from benchmarks import study
from benchmarks.data import MissingData
from benchmarks.run import execute
from benchmarks.study import RunConfig
from tests import datasets

STUDIES = {
    "object_recognition": "object_recognition_small",
    "permuted_fashion_mnist": "permuted_fashion_mnist_small",
    "permuted_mnist": "permuted_mnist_small",
    "split_cifar": "split_cifar_small",
    "split_fashion_mnist": "split_fashion_mnist_small",
}
# Parts that go the same way as another one.
REPEATED = ("cifar100_by_5", "scenes_birds", "flowers_birds", "flowers_scenes")
PARTS = [
    pytest.param(
        part,
        id=f"{name}-{part.name}",
        marks=[pytest.mark.slow] if part.name in REPEATED else [],
    )
    for name in STUDIES.values()
    for part in study.load(name).parts
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for name in datasets.NAMES:
        datasets.write(name, root)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MAS_AVALANCHE_CACHE", str(tmp_path_factory.getbasetemp() / "decoded"))


def run(part, root, **changes):
    config = RunConfig(
        study="test",
        part=part.name,
        method="mas",
        strength=part.grid["mas"][-1],
        seed=1,
        role="evaluation",
        stream=part.stream,
        stream_options=part.stream_options,
        model=part.model,
        model_options=part.model_options,
        training=dataclasses.replace(part.training, epochs=1),
        method_options=part.options["mas"],
    )
    return execute(dataclasses.replace(config, **changes), data_root=root)


@pytest.mark.parametrize("part", PARTS)
def test_mas_runs_on_files_in_their_own_format(part, root):
    smaller = {"image_size": 32} if part.name == "sequence" else {}
    record = run(part, root, stream_options={**part.stream_options, **smaller})
    assert record.status == "finished", record.error
    matrix = record.accuracy["test"]
    tasks = len(record.task_names)
    assert len(matrix) == tasks
    assert all(len(row) == tasks and all(map(math.isfinite, row)) for row in matrix)
    assert min(record.stream["num_train"]) > 0


@pytest.mark.parametrize(
    ("study_name", "part_name", "scenario"),
    [
        ("permuted_mnist_small", "permuted_mnist", "task"),
        ("split_cifar_small", "cifar10_then_cifar100", "class"),
        pytest.param("split_cifar_small", "cifar100_by_10", "class", marks=pytest.mark.slow),
        pytest.param("split_fashion_mnist_small", "split", "class", marks=pytest.mark.slow),
    ],
)
def test_mas_runs_in_the_other_scenario_too(study_name, part_name, scenario, root):
    part = next(p for p in study.load(study_name).parts if p.name == part_name)
    record = run(part, root, stream_options={**part.stream_options, "scenario": scenario})
    assert record.status == "finished", record.error
    assert record.stream["scenario"] == scenario


def test_colours_are_learned_from_files(root):
    """Trained for longer, the scenes, which differ in colour, are told apart."""
    part = next(p for p in study.load("object_recognition_small").parts if p.name == "sequence")
    record = run(
        part,
        root,
        stream_options={**part.stream_options, "tasks": ["scenes"]},
        model="cnn",
        model_options={"channels": [8, 8, 8], "hidden": 32, "dropout": 0.0},
        training=dataclasses.replace(part.training, epochs=40, decay_every=30),
    )
    assert record.accuracy["test"][0][0] == 1.0


@pytest.mark.parametrize("full", sorted(STUDIES))
def test_a_small_study_has_the_shape_of_its_full_one(full):
    large, small = study.load(full), study.load(STUDIES[full])
    if full != "permuted_mnist":
        assert [part.name for part in small.parts] == [part.name for part in large.parts]
    for one in small.parts:
        two = next((p for p in large.parts if p.name == one.name), large.parts[0])
        assert one.stream == two.stream
        assert one.model == two.model
        assert set(one.methods) <= set(two.methods)


def test_missing_data_stops_a_run_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MAS_AVALANCHE_DATA", raising=False)
    part = study.load("split_cifar_small").parts[0]
    with pytest.raises(MissingData, match="The dataset 'cifar10' is not in "):
        run(part, tmp_path / "nothing")
