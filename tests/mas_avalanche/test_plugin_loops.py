"""Training loops that people write: loss scaling, autocast, accumulation, clipping, checkpoints."""

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn

from mas_avalanche import MASPlugin
from tests import continual
from tests.continual import assert_same_weights, experiences, largest_difference, single_head, train
from tests.plain_mas import train_plain_mas

MODES = ["gradient", "proximal"]


class Scaling(Naive):
    """Mixed precision as in torch's documentation; the loop itself is Avalanche's."""

    autocast = False
    skip: frozenset[int] = frozenset()

    def forward(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return super().forward()

    def backward(self):
        if not hasattr(self, "scaler"):
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            self.steps = 0
        self.scaler.scale(self.loss).backward()
        if self.steps in self.skip:
            next(self.model.parameters()).grad[0] = float("inf")

    def optimizer_step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1


class Accumulating(Naive):
    """Steps once in two mini-batches."""

    def training_epoch(self, **kwargs):
        self.count = 0
        for mbatch in self.dataloader:
            self.mbatch = mbatch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            if self.count % 2 == 0:
                self.optimizer.zero_grad()
            self.loss = self._make_empty_loss()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss += self.criterion()
            self._before_backward(**kwargs)
            (self.loss / 2).backward()
            self._after_backward(**kwargs)
            self.count += 1
            self._before_update(**kwargs)
            if self.count % 2 == 0:
                self.optimizer.step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


class Clip(SupervisedPlugin):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.norms = norm, []

    def before_update(self, strategy, **kwargs):
        norm = nn.utils.clip_grad_norm_(strategy.model.parameters(), self.norm)
        self.norms.append(float(norm))


@pytest.mark.parametrize("mode", MODES)
def test_loss_scaling_changes_nothing(mode):
    stream = experiences()
    plain = train(single_head(), stream, [MASPlugin(0.3, mode=mode)])
    scaled = train(single_head(), stream, [MASPlugin(0.3, mode=mode)], strategy=Scaling)
    assert_same_weights(plain.model, scaled.model, tolerance=1e-13)
    naive = train(single_head(), stream, strategy=Scaling)
    assert largest_difference(scaled.model, naive.model) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_the_scaler_skips_moves_nothing(mode):
    class SkipAll(Scaling):
        skip = frozenset(range(1000))

    stream = experiences()
    learner = train(single_head(), stream[:1], [MASPlugin(0.3, mode=mode)])
    with torch.no_grad():
        learner.model[0].weight += 1.0  # away from the anchor: a stray pull would show
    before = continual.weights(learner.model)
    skipping = train(learner.model, stream[1:2], learner.plugins[:1], strategy=SkipAll)
    for name, value in continual.weights(skipping.model).items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("mode", MODES)
def test_autocast_with_a_scaler_protects(mode):
    class Mixed(Scaling):
        autocast = True

    stream = experiences(dtype=torch.float32)
    net = single_head(dtype=torch.float32)
    plugin = MASPlugin(1.0 if mode == "gradient" else 20.0, mode=mode)
    learner = train(net, stream[:1], [plugin], strategy=Mixed)
    assert plugin.importance["0.weight"].dtype is torch.float32
    anchor = plugin.anchor["0.weight"].clone()
    learner.train(stream[1], shuffle=False)
    naive = train(single_head(dtype=torch.float32), stream[:2], strategy=Mixed).model
    assert (net[0].weight - anchor).norm() < 0.8 * (naive[0].weight - anchor).norm()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", [continual.sgd, continual.adam])
def test_accumulation_equals_one_larger_mini_batch(optimizer, mode):
    stream = experiences(num_samples=20)
    options = {"optimizer": optimizer}
    whole = train(single_head(), stream, [MASPlugin(0.3, mode=mode)], batch_size=10, **options)
    parts = train(
        single_head(),
        stream,
        [MASPlugin(0.3, mode=mode)],
        batch_size=5,
        strategy=Accumulating,
        **options,
    )
    assert_same_weights(whole.model, parts.model, tolerance=1e-12)


def test_clipping_sees_the_gradient_of_loss_and_penalty():
    stream = experiences()
    plain, clip = single_head(), Clip(0.1)
    tasks = [continual.tensors(experience) for experience in stream]
    train_plain_mas(plain, tasks, continual.sgd, 0.3, clip=0.1)
    learner = train(single_head(), stream, [MASPlugin(0.3), clip])
    assert max(clip.norms) > 0.1
    assert_same_weights(plain, learner.model, tolerance=1e-8)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_zeroed_but_kept(set_to_none):
    """With ``set_to_none=False`` old heads have zero gradients; the penalty must not use them."""

    class Zeroing(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            strategy.optimizer.zero_grad(set_to_none=set_to_none)

    stream = experiences(task_labels=True)
    learner = train(
        continual.HeadedNet(),
        stream[:1],
        [Zeroing(), MASPlugin(0.5)],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    done = continual.weights(learner.model.heads[0])
    with torch.no_grad():
        learner.plugins[1].anchor["heads.0.weight"] += 1.0
    learner.train(stream[1], shuffle=False)
    for name, value in continual.weights(learner.model.heads[0]).items():
        assert torch.equal(value, done[name])
