"""The profile of a study: it names what takes time, and where."""

import pytest

from benchmarks.speed.study import measure_study
from benchmarks.streams._transforms import Permute

STUDY = """
title = "Small"
question = "Where does the time go?"
[seeds]
tuning = [0]
evaluation = [1, 2]
[parts.digits]
title = "Digits"
stream = "permuted_mnist_mini"
stream_options = { tasks = 2 }
model = "mlp"
model_options = { hidden = [8] }
methods = ["naive", "mas"]
training = { optimizer = "sgd", learning_rate = 0.01, epochs = 1, batch_size = 500 }
[parts.digits.grid]
mas = [1.0, 0.1]
"""


def test_names_the_function_that_takes_the_time(tmp_path, monkeypatch):
    transform = Permute.__call__

    def slow(self, x):
        count = 0
        while count < 1_000_000:
            count += 1
        return transform(self, x)

    monkeypatch.setattr(Permute, "__call__", slow)
    path = tmp_path / "small.toml"
    path.write_text(STUDY, encoding="utf-8")
    found = measure_study(str(path))
    assert (found["title"], found["runs"]) == ("Small", 2)
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert {"torch", "benchmarks", "mas_avalanche", "avalanche"} <= found["shares"].keys()
    first, *others = found["functions"]
    assert first["name"].endswith("test_study.slow")
    assert first["share"] > max(other["share"] for other in others)
    assert not any("torch" in function["name"] for function in found["functions"])
