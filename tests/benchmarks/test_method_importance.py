"""Where importance comes from: mini-batch gradients in place of exact ones, and other inputs."""

from itertools import combinations

import pytest
import torch
from torch import nn

from benchmarks import methods, streams
from benchmarks.methods._batch_gradient import batch_gradient_importance
from benchmarks.methods._unlabelled import Unlabelled
from mas_avalanche import estimate_importance
from mas_avalanche.heads import MultiHeadModel
from tests.continual import NUM_FEATURES, experiences, plain_sgd, tensors, train


def multi_head_model():
    torch.manual_seed(0)
    return MultiHeadModel(nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.ReLU()), 8, [3, 3, 3])


def sample_by_sample(model, inputs, batch_size):
    """The mean over mini-batches, each weighed by its size, of the mean gradient's magnitude."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for batch in inputs.split(batch_size):
        model.zero_grad()
        (model(batch, 0) ** 2).sum(dim=1).mean().backward()
        for t, p in zip(total, model.parameters(), strict=True):
            t += 0 if p.grad is None else len(batch) * p.grad.abs() / len(inputs)
    model.zero_grad()
    return total


@pytest.mark.parametrize("batch_size", [1, 4, 22, 100])
def test_batch_gradients_cancel_within_mini_batches_and_one_sample_is_exact(batch_size):
    model = multi_head_model().double()
    (experience, *_) = experiences(task_labels=True)
    found = batch_gradient_importance(model, experience.dataset, batch_size, task_label=0)
    order = torch.randperm(22, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([experience.dataset[i][0] for i in order.tolist()])
    expected = sample_by_sample(model, inputs, batch_size)
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    exact = estimate_importance(model, inputs, task_label=0)
    for name, value in exact.items():
        if batch_size == 1:
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
        else:
            assert (found[name] <= value + 1e-12).all()
    if batch_size > 1:
        assert sum(v.sum() for v in found.values()) < 0.9 * sum(v.sum() for v in exact.values())


def test_batch_gradients_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(NUM_FEATURES, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    model[1].eval()
    (experience, *_) = experiences()
    first = batch_gradient_importance(model, experience.dataset, 4)
    second = batch_gradient_importance(model, experience.dataset, 4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (model.training, model[1].training) == (True, False)
    assert all(p.grad is None for p in model.parameters())


def test_importance_comes_from_the_inputs_that_were_asked_for():
    made = {}
    for source in ("train", "test", "both", "subset"):
        model, (plugin,) = multi_head_model(), methods.get("mas").make(1.0, importance_data=source)
        (experience, *_) = experiences(task_labels=True, dtype=torch.float32)
        x, y = tensors(experience)
        task = streams.Task(
            "t", 3, streams.Split(x, y), streams.Split(x[:2] + 5, y[:2]),
            streams.Split(x[2:9] - 5, y[2:9]), transform=torch.clone,
        )  # fmt: skip
        experience.unlabelled = Unlabelled(task, "test", (1,))
        train(model, [experience], [plugin], optimizer=plain_sgd)
        both = torch.cat([x, task.test.x])
        chosen = {"train": x, "test": task.test.x, "both": both, "subset": x[y == 1]}[source]
        expected = estimate_importance(model, chosen, task_label=0)
        for name, value in plugin.importance.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
        made[source] = plugin.importance["trunk.0.weight"]
        hidden = Unlabelled(task, "validation").inputs("test")
        assert torch.equal(hidden.x, task.validation.x)
        assert not hidden.y.any()
    assert all(not torch.equal(made[a], made[b]) for a, b in combinations(made, 2))


def test_a_tolerance_decides_how_much_of_the_data_is_read():
    made = {}
    for options in ({}, {"tolerance": 1e-9}):
        (plugin,) = methods.get("mas_sampled").make(1.0, **options)
        made[plugin.tolerance] = plugin
        (experience, *_) = experiences(task_labels=True, dtype=torch.float32)
        model = multi_head_model()
        train(model, [experience], [plugin], optimizer=plain_sgd)
    assert set(made) == {0.02, 1e-9}
    x, _ = tensors(experience)
    expected = estimate_importance(model, x, task_label=0)
    for name, value in made[1e-9].importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_a_source_of_inputs_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"`importance_data` to be one of .*'subset'.*got 'tests'"):
        methods.get("mas_local").make(1.0, importance_data="tests")
    (experience, *_) = experiences()
    x, y = tensors(experience)
    split = streams.Split(x, y)
    task = streams.Task("letters", 3, split, split, split, transform=torch.clone)
    with pytest.raises(ValueError, match=r"to name classes of task 'letters', got \[7\]"):
        Unlabelled(task, "test", (7,)).inputs("subset")
