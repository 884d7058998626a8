from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mas_avalanche import estimate_importance
from mas_avalanche.heads import MASKED_LOGIT, MultiHead, MultiHeadModel


def experience(label, classes):
    return SimpleNamespace(task_labels=[label], classes_in_this_experience=classes)


@pytest.mark.parametrize("sizes", [[2, 5], {0: 2, 1: 5}])
def test_heads_that_are_listed_are_there_at_once(sizes):
    head = MultiHead(4, sizes)
    x = torch.randn(3, 4)
    assert head(x, 0).shape == (3, 2)
    assert head(x, torch.ones(3, dtype=torch.int64)).shape == (3, 5)
    assert torch.equal(head(x, 1), head(x, torch.tensor([1, 1, 1])))
    assert sorted(dict(head.named_parameters())) == [
        "heads.0.bias",
        "heads.0.weight",
        "heads.1.bias",
        "heads.1.weight",
    ]


def test_mixed_mini_batch_is_filled_up_with_a_constant():
    head = MultiHead(4, [2, 5, 3])
    x = torch.randn(4, 4)
    labels = torch.tensor([2, 0, 2, 0])
    logits = head(x, labels)
    assert logits.shape == (4, 3)
    assert torch.equal(logits[labels == 2], head(x[labels == 2], 2))
    assert torch.equal(logits[labels == 0][:, :2], head(x[labels == 0], 0))
    assert (logits[labels == 0][:, 2] == MASKED_LOGIT).all()
    logits.softmax(1)[:, 0].sum().backward()
    assert head.heads["1"].weight.grad is None
    assert head(x[:0], labels[:0]).shape == (0, 0)


@pytest.mark.parametrize(
    "objective", ["squared_l2", lambda output: output.clamp(min=-10).square().sum(1)]
)
def test_places_without_a_class_add_nothing_to_the_importance(objective):
    torch.manual_seed(0)
    model = MultiHeadModel(nn.Linear(4, 6), 6, [2, 5]).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 1])
    mixed = estimate_importance(
        model, [(x, torch.zeros(4, dtype=torch.int64), labels)], objective=objective
    )
    apart = [
        estimate_importance(model, x[labels == t], task_label=t, objective=objective)
        for t in (0, 1)
    ]
    for name, value in mixed.items():
        expected = 0.25 * apart[0][name] + 0.75 * apart[1][name]
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [list, set, tuple])
def test_heads_appear_and_widen_with_the_classes_of_their_task(kind):
    model = MultiHeadModel(nn.Linear(4, 6), 6).double()
    model.adaptation(experience(0, kind([0, 1])))
    model.head.adaptation(experience(0, kind([0, 1])))
    model.head.adaptation(experience(3, kind([0, 1, 2])))
    weight = model.head.heads["0"].weight
    assert weight.shape == (2, 6)
    assert weight.dtype is torch.float64
    model.head.adaptation(experience(0, kind([2, 3])))
    grown = model.head.heads["0"].weight
    assert grown.shape == (4, 6)
    assert torch.equal(grown[:2], weight)
    assert model.head.known_train_tasks_labels == {0, 3}
    assert set(model.head(torch.zeros(1, 6).double(), None)) == {0, 3}


def test_one_size_for_all():
    head = MultiHead(4, 7)
    head.adaptation(experience(2, [0]))
    assert head(torch.zeros(1, 4), 2).shape == (1, 7)


def test_evaluation_makes_heads_but_does_not_count_as_training():
    head = MultiHead(4)
    head.eval()
    head.adaptation(experience(1, [0, 1]))
    assert "1" in head.heads
    assert head.known_train_tasks_labels == set()


def test_model_runs_its_trunk_once_for_all_heads():
    calls = []

    class Trunk(nn.Linear):
        def forward(self, x):
            calls.append(None)
            return super().forward(x)

    model = MultiHeadModel(Trunk(4, 6), 6, [2, 3])
    for label in (0, 1):
        model.head.adaptation(experience(label, [0]))
    found = model(torch.randn(2, 4), None)
    assert len(calls) == 1
    assert {label: tuple(logits.shape) for label, logits in found.items()} == {0: (2, 2), 1: (2, 3)}
    x = torch.randn(2, 4)
    assert torch.equal(model.forward_single_task(x, 1), model(x, 1))
    assert torch.equal(model.forward_all_tasks(x)[1], model(x, 1))


@pytest.mark.parametrize("labels", [4, torch.tensor([0, 4])])
def test_missing_head_is_named(labels):
    head = MultiHead(4, [2, 5])
    with pytest.raises(
        ValueError, match=r"Expected `task_labels` to name heads among \[0, 1\], got"
    ):
        head(torch.zeros(2, 4), labels)


def test_task_that_is_not_listed_is_refused_before_training():
    with pytest.raises(ValueError, match=r"got 2\. Train on the task first, or list it"):
        MultiHead(4, [2, 5]).adaptation(experience(2, [0, 1]))


def test_sizes_must_be_positive_and_known():
    with pytest.raises(ValueError, match="Expected `num_classes` to be at least 1 for each task"):
        MultiHead(4, [2, 0])
    bare = SimpleNamespace(task_labels=[0])
    with pytest.raises(ValueError, match="Expected the experience to list `classes_in_this_exp"):
        MultiHead(4).adaptation(bare)
    head = MultiHead(4, 3)
    head.adaptation(SimpleNamespace(task_labels=[1]))
    assert head(torch.zeros(1, 4), 1).shape == (1, 3)
