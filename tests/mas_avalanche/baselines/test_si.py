import pickle

import pytest
import torch
from avalanche.models import IncrementalClassifier, MTSimpleMLP
from avalanche.training import Naive
from torch import nn

from mas_avalanche.baselines import SIPlugin
from tests.continual import (
    NUM_FEATURES,
    HeadedNet,
    adam,
    assert_same_weights,
    class_incremental_experiences,
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


def swinging(parameters):
    """So much momentum that steps go against the gradient and importance falls below zero."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.95)


@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "strength", "xi", "epochs"),
    [(sgd, 3.0, 0.05, 2), (adam, 3.0, 0.05, 2), (swinging, 0.1, 1e-3, 4)],
)
def test_weights_equal_those_of_plain_pytorch(multi_head, optimizer, strength, xi, epochs):
    ours, theirs = copies(HeadedNet() if multi_head else single_head(), 2)
    stream, plugin = experiences(task_labels=multi_head), SIPlugin(strength, xi=xi)
    train(ours, stream, [plugin], optimizer=optimizer, epochs=epochs)
    importance, num_cut = plain.si(
        theirs,
        [tensors(e) for e in stream],
        strength,
        optimizer(theirs.parameters()),
        epochs=epochs,
        batch_size=5,
        xi=xi,
        multi_head=multi_head,
    )
    assert_same_weights(ours, theirs, tolerance=1e-8)
    for name, value in importance.items():
        torch.testing.assert_close(plugin.importance[name], value, rtol=1e-8, atol=1e-8)
    assert (num_cut > 0) == (optimizer is swinging)


def test_it_differs_from_naive_on_the_cpu():
    naive, ours = copies(single_head(), 2)
    plugin = SIPlugin(3.0)
    train(naive, experiences())
    train(ours, experiences(), [plugin])
    assert next(ours.parameters()).device.type == "cpu"
    assert largest_difference(naive, ours) > 1e-2
    assert all(importance.max() > 1e-3 for importance in plugin.importance.values())


def test_importance_is_never_negative_and_has_no_upper_limit():
    plugin = SIPlugin(0.0, xi=1e-6)
    cut = 0
    learner = train(single_head(), [], [plugin], optimizer=adam)
    for experience in experiences():
        learner.train(experience, shuffle=False)
        values = torch.cat([v.flatten() for v in plugin.importance.values()])
        assert values.min() >= 0
        cut += int((values == 0).sum())
    assert cut > 0
    assert values.max() > 1


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_strength_zero_is_naive_to_the_bit(optimizer):
    naive, ours = copies(HeadedNet(dropout=0.3, dtype=torch.float32), 2)
    stream = experiences(task_labels=True, dtype=torch.float32)
    torch.manual_seed(1)
    train(naive, stream, optimizer=optimizer)
    torch.manual_seed(1)
    train(ours, stream, [SIPlugin(0.0)], optimizer=optimizer)
    assert_same_weights(naive, ours)


def test_parameters_without_a_gradient_gather_nothing_and_stay():
    model, plugin = HeadedNet(), SIPlugin(3.0)
    stream = experiences(task_labels=True)
    learner = train(model, stream[:1], [plugin], optimizer=adam)
    assert all(plugin.importance[f"heads.{i}.weight"].abs().sum() == 0 for i in (1, 2))
    before = weights(model.heads)
    importance = plugin.importance["heads.0.weight"].clone()
    learner.train(stream[1], shuffle=False)
    after = weights(model.heads)
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("1."))
    assert torch.equal(plugin.importance["heads.0.weight"], importance)


def test_heads_may_appear_later():
    plugin = SIPlugin(1.0)
    model = MTSimpleMLP(input_size=NUM_FEATURES, hidden_size=8)
    train(model, experiences(task_labels=True, dtype=torch.float32), [plugin])
    heads = [n for n in plugin.importance if n.startswith("classifier") and n.endswith("weight")]
    assert len(heads) == 3
    assert all(plugin.importance[name].max() > 0 for name in heads)


def test_a_head_may_grow():
    plugin = SIPlugin(1.0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(NUM_FEATURES, 8), nn.Tanh(), IncrementalClassifier(8, masking=False)
    )
    stream = class_incremental_experiences(dtype=torch.float32)
    learner = train(model, stream[:1], [plugin])
    name = "2.classifier.weight"
    shapes = [plugin.importance[name].shape]
    for experience in stream[1:]:
        learner.train(experience)
        assert torch.equal(plugin.anchor[name], model[2].classifier.weight)
        shapes.append(plugin.importance[name].shape)
    assert shapes[-1] == (6, 8)
    assert plugin.importance[name][-1].max() > 0


class Halves(Naive):
    """A step from two backward passes over half a mini-batch each, the loss scaled on the way."""

    scale = 1.0

    def training_epoch(self, **kwargs):
        for batch in self.dataloader:
            self.optimizer.zero_grad()
            halves = [[t[i::2] for t in batch] for i in (0, 1)]
            for i, self.mbatch in enumerate(halves):
                self.is_last = i == 1
                self._unpack_minibatch()
                self._before_training_iteration(**kwargs)
                self.loss = self._make_empty_loss()
                self.mb_output = self.forward()
                self.loss += self.criterion()
                self._before_backward(**kwargs)
                (self.loss * self.scale / 2).backward()
                self._after_backward(**kwargs)
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
                self._after_training_iteration(**kwargs)

    def optimizer_step(self):
        if self.is_last:
            for p in self.model.parameters():
                p.grad /= self.scale
            self.optimizer.step()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_accumulated_and_scaled_passes_give_the_same_importance(scale):
    models, found = copies(single_head(), 2), []
    stream = experiences(num_samples=24)
    for model, strategy in zip(models, (Naive, Halves), strict=True):
        plugin = SIPlugin(3.0)
        learner = train(model, [], [plugin], strategy=strategy, batch_size=6)
        learner.scale = scale
        for experience in stream:
            learner.train(experience, shuffle=False)
        found.append(plugin.importance)
    assert_same_weights(*models, tolerance=1e-10)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-8, atol=1e-12)


def test_memory_is_counted_and_does_not_grow_with_tasks():
    model, plugin = single_head(), SIPlugin(1.0)
    learner = train(model, [], [plugin])
    stored = [plugin.num_stored()]
    for experience in experiences():
        learner.train(experience)
        stored.append(plugin.num_stored())
    size = sum(p.numel() for p in model.parameters())
    assert stored == [0, 2 * size, 2 * size, 2 * size]


def test_a_copy_from_a_pickle_goes_on_the_same():
    model, plugin = single_head(), SIPlugin(3.0)
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
        ({"si_lambda": -1.0}, "`si_lambda` to be finite and not negative, got -1.0"),
        ({"si_lambda": float("inf")}, "`si_lambda` to be finite and not negative, got inf"),
        ({"xi": 0.0}, "`xi` to be finite and positive, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SIPlugin(**arguments)
