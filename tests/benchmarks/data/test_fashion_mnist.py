"""The real Fashion-MNIST, where the system's package dataset-fashion-mnist has put it."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import data, study
from benchmarks.data.catalogue import CATALOGUE
from benchmarks.data.verify import verify
from benchmarks.run import execute
from benchmarks.selection import evaluation_runs

FOLDER = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")


def test_the_set_is_whole():
    finding = verify(CATALOGUE["fashion_mnist"], FOLDER)
    assert finding.problems == ()
    assert finding.summary == "60,000 training and 10,000 test samples, 10 classes"


def test_the_first_test_images_are_what_the_set_says():
    loaded = data.load("fashion_mnist", FOLDER.parent)
    _, y = loaded.test
    # An ankle boot, a pullover, two trousers, a shirt.
    assert y[:5].tolist() == [9, 2, 1, 1, 6]
    assert loaded.train[1].bincount().tolist() == [6000] * 10


@pytest.mark.slow
def test_mas_learns_two_permutations_at_full_size():
    full = study.load("fashion_mnist")
    part = next(p for p in full.parts if p.name == "permuted")
    options = {**part.stream_options, "tasks": 2}
    part = dataclasses.replace(part, stream_options=options)
    record = execute(evaluation_runs(full, part, "mas", 0.1)[0], data_root=FOLDER.parent)
    assert record.status == "finished", record.error
    assert record.stream["num_train"] == [54_000] * 2
    assert min(record.accuracy["test"][-1]) > 0.7
