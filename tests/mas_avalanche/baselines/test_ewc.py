import pickle

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import MTSimpleMLP
from torch import nn
from torch.utils.data import TensorDataset

from mas_avalanche.baselines import EWCPlugin
from mas_avalanche.baselines.ewc import add_task_term
from tests.continual import (
    HeadedNet,
    adam,
    assert_same_weights,
    copies,
    experiences,
    largest_difference,
    sgd,
    single_head,
    tensors,
    train,
    weights,
)
from tests.mas_avalanche.baselines import plain


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("gamma", [None, 1.0, 0.6])
def test_weights_equal_those_of_plain_pytorch(optimizer, multi_head, gamma):
    ours, theirs = copies(HeadedNet() if multi_head else single_head(), 2)
    stream = experiences(task_labels=multi_head)
    if gamma is None:
        plugin = EWCPlugin(30.0)
    else:
        plugin = EWCPlugin(30.0, mode="online", decay_factor=gamma)
    train(ours, stream, [plugin], optimizer=optimizer)
    plain.ewc(
        theirs,
        [tensors(e) for e in stream],
        30.0,
        optimizer(theirs.parameters()),
        epochs=2,
        batch_size=5,
        gamma=gamma,
        multi_head=multi_head,
    )
    assert_same_weights(ours, theirs, tolerance=1e-8)


def test_it_holds_weights_back():
    naive, ours = copies(single_head(), 2)
    train(naive, experiences())
    train(ours, experiences(), [EWCPlugin(30.0)])
    assert largest_difference(naive, ours) > 1e-2


def test_importance_does_not_depend_on_the_size_of_mini_batches():
    found = []
    for batch_size in (1, 7, 128):
        model, plugin = single_head(), EWCPlugin(1.0, batch_size=batch_size)
        train(model, experiences()[:1], [plugin])
        found.append(plugin.importance)
    for name, value in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(value, other[name], rtol=1e-10, atol=0)


def test_importance_is_measured_on_data_without_training_transforms():
    x, y = tensors(experiences()[0])
    data = TensorDataset(x, y)
    benchmark = nc_benchmark(
        [data],
        [data],
        n_experiences=1,
        task_labels=False,
        shuffle=False,
        one_dataset_per_exp=True,
        train_transform=torch.neg,
    )
    model, plugin = single_head(), EWCPlugin(1.0)
    (experience,) = benchmark.train_stream
    assert torch.equal(experience.dataset[0][0], -x[0])
    train(model, [experience], [plugin])
    for name, value in plain.fisher_of(model, model, x, y).items():
        torch.testing.assert_close(plugin.importance[name], value, rtol=1e-10, atol=0)


def test_merged_terms_equal_their_literal_sum():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(50, generator=generator, dtype=torch.float64)

    terms = [(draw().square() * (draw() > 0), draw()) for _ in range(4)]
    importance, anchor = terms[0]
    for fisher, star in terms[1:]:
        importance, anchor = add_task_term(importance, anchor, fisher, star)

    def literal(theta):
        return sum(fisher * (theta - star) ** 2 for fisher, star in terms)

    at_anchor = literal(anchor)
    for _ in range(3):
        theta = 10 * draw()
        merged = importance * (theta - anchor) ** 2 + at_anchor
        torch.testing.assert_close(merged, literal(theta), rtol=1e-12, atol=1e-12)


def test_merging_is_exact_where_a_task_has_no_importance():
    zero, some = torch.zeros(1), torch.full((1,), 0.3)
    old, new = torch.tensor([0.1]), torch.tensor([0.7])
    assert [t.item() for t in add_task_term(some, old, zero, new)] == [some.item(), old.item()]
    assert [t.item() for t in add_task_term(zero, old, some, new)] == [some.item(), new.item()]
    assert [t.item() for t in add_task_term(zero, old, zero, new)] == [0.0, new.item()]


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_strength_zero_is_naive_to_the_bit(optimizer):
    naive, ours = copies(HeadedNet(dropout=0.3, dtype=torch.float32), 2)
    stream = experiences(task_labels=True, dtype=torch.float32)
    torch.manual_seed(1)
    train(naive, stream, optimizer=optimizer)
    torch.manual_seed(1)
    train(ours, stream, [EWCPlugin(0.0)], optimizer=optimizer)
    assert_same_weights(naive, ours)


def test_heads_of_other_tasks_keep_their_weights():
    model, plugin = HeadedNet(), EWCPlugin(10.0)
    stream = experiences(task_labels=True)
    learner = train(model, stream[:1], [plugin], optimizer=adam)
    before = weights(model.heads)
    learner.train(stream[1], shuffle=False)
    after = weights(model.heads)
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("1."))
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_heads_that_appear_or_grow_are_free_at_first():
    stream = experiences(task_labels=True, dtype=torch.float32)
    plugin = EWCPlugin(10.0)
    train(MTSimpleMLP(input_size=6, hidden_size=8), stream, [plugin])
    names = {n for n in plugin.importance if n.startswith("classifier")}
    assert len(names) == 6

    importance, grown = torch.ones(2, 4), nn.Linear(4, 3)
    plugin = EWCPlugin(1.0)
    plugin.importance, plugin.anchor = {"weight": importance}, {"weight": torch.zeros(2, 4)}
    plugin._merge_separate({"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, grown)
    assert plugin.importance["weight"].tolist() == [[2.0] * 4, [2.0] * 4, [1.0] * 4]
    assert torch.equal(plugin.anchor["weight"][2], grown.weight[2])
    assert torch.allclose(plugin.anchor["weight"][:2], grown.weight[:2] / 2)


def test_memory_does_not_grow_with_tasks():
    model, plugin = single_head(), EWCPlugin(1.0)
    stored = [plugin.num_stored()]
    learner = train(model, [], [plugin])
    for experience in experiences():
        learner.train(experience)
        stored.append(plugin.num_stored())
    size = sum(p.numel() for p in model.parameters())
    assert stored == [0, 2 * size, 2 * size, 2 * size]


def test_a_copy_from_a_pickle_goes_on_the_same():
    model, plugin = single_head(), EWCPlugin(5.0)
    stream = experiences()
    train(model, stream[:1], [plugin])
    one, two = copies(model, 2)
    again = pickle.loads(pickle.dumps(plugin))
    train(one, stream[1:], [plugin])
    train(two, stream[1:], [again])
    assert_same_weights(one, two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ewc_lambda": -1.0}, "`ewc_lambda` to be finite and not negative, got -1.0"),
        ({"ewc_lambda": float("nan")}, "`ewc_lambda` to be finite and not negative, got nan"),
        ({"mode": "both"}, "`mode` to be one of .*, got 'both'"),
        ({"mode": "online", "decay_factor": 1.5}, r"`decay_factor` to lie in \[0, 1\], got 1.5"),
        ({"decay_factor": 0.5}, 'mode "separate", got 0.5'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EWCPlugin(**arguments)
