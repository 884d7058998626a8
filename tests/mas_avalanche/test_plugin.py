import copy
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark, split_online_stream
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from avalanche.training import Naive
from avalanche.training.plugins import AGEMPlugin, ReplayPlugin, RWalkPlugin
from avalanche.training.plugins import EWCPlugin as AvalancheEWC
from avalanche.training.plugins import LwFPlugin as AvalancheLwF
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from torch import nn
from torch.utils.data import TensorDataset

from mas_avalanche import MAS, MASPlugin, estimate_importance
from mas_avalanche.heads import MultiHeadModel
from mas_avalanche.penalty import StabilityWarning
from mas_avalanche.tensor_batches import TensorBatches
from tests import continual
from tests.continual import (
    HeadedNet,
    assert_same_weights,
    class_incremental_experiences,
    experiences,
    largest_difference,
    single_head,
    train,
    weights,
)

DOUBLE = torch.float64
MODES = ["gradient", "proximal"]


class GrowingNet(nn.Module):
    """A classifier that grows with the classes, registered before its backbone."""

    def __init__(self, dtype=DOUBLE):
        super().__init__()
        torch.manual_seed(0)
        self.classifier = IncrementalClassifier(8, initial_out_features=2)
        self.backbone = nn.Sequential(nn.Linear(continual.NUM_FEATURES, 8), nn.Tanh())
        self.to(dtype)

    def forward(self, x):
        return self.classifier(self.backbone(x))


class NormNet(nn.Module):
    """Dropout and batch statistics: everything that an importance pass might disturb."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(continual.NUM_FEATURES, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(8, continual.NUM_CLASSES),
        )

    def forward(self, x):
        return self.net(x)


def growing_stream():
    """Classes 0-1, then 2-3, then 4-5, in double precision throughout."""
    torch.set_default_dtype(DOUBLE)  # new units are made in the default type
    return class_incremental_experiences()


@pytest.fixture(autouse=True)
def _default_type():
    yield
    torch.set_default_dtype(torch.float32)


# --- lambda 0 and the first experience ------------------------------------------------------


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", [NormNet, GrowingNet, HeadedNet], ids=lambda m: m.__name__)
def test_lambda_zero_is_naive_to_the_bit(model, mode):
    if model is GrowingNet:
        stream = growing_stream()
    else:
        stream = experiences(task_labels=model is HeadedNet, dtype=next(model().parameters()).dtype)
    results = []
    for plugins in ([], [MASPlugin(0.0, mode=mode)]):
        torch.manual_seed(1)
        learner = train(model(), [], plugins)
        for experience in stream:
            learner.train(experience)
        results.append((learner.model, random_states()))
    assert_same_weights(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("mode", MODES)
def test_first_experience_has_no_penalty(mode):
    stream = experiences()
    naive, ours = single_head(), single_head()
    train(naive, stream[:1])
    train(ours, stream[:1], [MASPlugin(100.0, mode=mode)])
    assert_same_weights(naive, ours)


# --- importance -----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
def test_importance_is_that_of_each_experience_joined(alpha):
    stream = experiences()
    model, plugin = single_head(), MASPlugin(0.1, alpha)
    expected = {}
    learner = train(model, [], [plugin])
    for experience in stream:
        learner.train(experience, shuffle=False)
        x, _ = continual.tensors(experience)
        for name, value in estimate_importance(model, x).items():
            if name not in expected:
                expected[name] = value
            elif alpha is None:
                expected[name] = expected[name] + value
            else:
                expected[name] = alpha * expected[name] + (1 - alpha) * value
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(plugin.importance[name], expected[name], rtol=1e-10, atol=1e-12)
        assert torch.equal(plugin.anchor[name], parameter)
    assert len(plugin.importance_seconds) == 3
    assert all(seconds > 0 for seconds in plugin.importance_seconds)


def labelled(x, y):
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return data


class Counting:
    """A transform that counts its calls."""

    def __init__(self, shift):
        self.calls, self.shift = 0, shift

    def __call__(self, x):
        self.calls += 1
        return x + self.shift


def test_importance_is_measured_without_training_transforms():
    x, y = continual.tensors(experiences()[0])
    training, evaluation = Counting(5.0), Counting(1.0)
    data = as_classification_dataset(
        labelled(x, y),
        transform_groups=TransformGroups({"train": (training, None), "eval": (evaluation, None)}),
    )
    stream = benchmark_from_datasets(train=[data]).train_stream
    model, plugin = single_head(), MASPlugin()
    train(model, list(stream), [plugin], epochs=3)
    assert training.calls == 3 * len(x)
    expected = estimate_importance(model, x + 1.0)
    for name, value in plugin.importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)


def test_importance_pass_leaves_buffers_modes_and_gradients():
    learner = train(NormNet(), [], [plugin := MASPlugin()])
    seen = {}

    class Before(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            seen.update(weights(strategy.model))
            seen["modes"] = [m.training for m in strategy.model.modules()]
            seen["grads"] = {n: p.grad.clone() for n, p in strategy.model.named_parameters()}

    learner.plugins.insert(0, Before())
    learner.train(experiences(dtype=torch.float32)[0])
    assert plugin.importance
    assert [m.training for m in learner.model.modules()] == seen.pop("modes")
    for name, gradient in seen.pop("grads").items():
        assert torch.equal(learner.model.get_parameter(name).grad, gradient)
    for name, value in weights(learner.model).items():
        assert torch.equal(value, seen[name])


def test_tensor_batches_give_the_same_importance():
    class Fast(TensorBatches, Naive):
        pass

    plain, fast = MASPlugin(), MASPlugin()
    train(single_head(), experiences()[:1], [plain])
    train(single_head(), experiences()[:1], [fast], strategy=Fast)
    for name, value in plain.importance.items():
        torch.testing.assert_close(fast.importance[name], value, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "vector"},
        {"objective": "local"},
        {"objective": lambda output: output.logsumexp(1)},
        {"max_samples": 5},
        {"tolerance": 0.5, "batch_size": 2},
    ],
    ids=["vector", "local", "callable", "max_samples", "tolerance"],
)
def test_options_of_the_measurement_are_passed_on(options):
    x, _ = continual.tensors(experiences()[0])
    model, plugin = single_head(), MASPlugin(**options)
    plugin.update_importance(model, x)
    expected = estimate_importance(model, x, **options)
    assert_importance(plugin, expected)
    plain = estimate_importance(model, x)
    assert any(not torch.allclose(v, plain[n]) for n, v in plugin.importance.items())


@pytest.mark.parametrize(("batch_size", "same"), [(1, True), (11, False)])
def test_avalanches_plugin_agrees_on_mini_batches_of_one_and_only_there(batch_size, same):
    stream = experiences()
    ours, theirs = MASPlugin(), AvalancheMAS()
    train(single_head(), stream[:1], [theirs, ours], batch_size=batch_size, epochs=1)
    for name, value in ours.importance.items():
        found = theirs.importance[name].data.to(value)
        assert torch.allclose(found, value, rtol=1e-5, atol=1e-6) == same
        assert bool((found <= value * (1 + 1e-5)).all())


def test_replayed_samples_do_not_enter_the_importance():
    stream = experiences()
    model, plugin = single_head(), MASPlugin(0.1, alpha=0.0)
    train(model, stream[:2], [ReplayPlugin(mem_size=10), plugin])
    x, _ = continual.tensors(stream[1])
    expected = estimate_importance(model, x)
    for name, value in plugin.importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)


# --- heads ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov, decay": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_heads_that_take_no_part_keep_their_weights_to_the_bit(optimizer, mode):
    stream = experiences(task_labels=True)
    plugin = MASPlugin(0.5, mode=mode)
    learner = train(HeadedNet(), stream[:1], [plugin], optimizer=OPTIMIZERS[optimizer])
    done = weights(learner.model.heads[0])
    trunk = weights(learner.model.trunk)
    for number, experience in enumerate(stream[1:], start=1):
        learner.train(experience, shuffle=False)
        assert all(torch.equal(v, done[n]) for n, v in weights(learner.model.heads[0]).items())
        assert plugin.importance[f"heads.{number}.weight"].any()
    assert any(not torch.equal(v, trunk[n]) for n, v in weights(learner.model.trunk).items())


def test_importance_has_no_entries_for_heads_not_reached_and_keeps_those_of_old_ones():
    stream = experiences(task_labels=True)
    plugin = MASPlugin(0.1, alpha=0.5)
    learner = train(HeadedNet(), stream[:1], [plugin])
    assert sorted(plugin.importance) == [
        "heads.0.bias",
        "heads.0.weight",
        "trunk.0.bias",
        "trunk.0.weight",
    ]
    first = plugin.importance["heads.0.weight"].clone()
    learner.train(stream[1], shuffle=False)
    assert torch.equal(plugin.importance["heads.0.weight"], first)


def test_heads_of_different_sizes_that_appear_with_their_tasks():
    generator = torch.Generator().manual_seed(0)
    data = [
        TensorDataset(torch.randn(12, 6, generator=generator), torch.arange(12) % classes)
        for classes in (2, 4, 3)
    ]
    stream = nc_benchmark(
        data,
        data,
        n_experiences=3,
        task_labels=True,
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        one_dataset_per_exp=True,
    )
    model = MultiHeadModel(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), 8)
    plugin = MASPlugin(0.5)
    learner = train(model, [], [plugin], optimizer=OPTIMIZERS["AdamW"])
    for task, experience in enumerate(stream.train_stream):
        before = {n: v for n, v in weights(model).items() if n.startswith("head.")}
        learner.train(experience)
        learner.eval(stream.test_stream)
        after = weights(model)
        done = {n for n in before if f"heads.{task}." not in n}
        assert all(torch.equal(after[n], before[n]) for n in done)
        assert plugin.importance[f"head.heads.{task}.weight"].shape == ((2, 4, 3)[task], 8)
    assert set(plugin.importance) == set(dict(model.named_parameters()))


# --- growth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("evaluate", [False, True], ids=["train only", "eval of the future"])
def test_growing_classifier_registered_before_its_backbone(mode, evaluate):
    stream = growing_stream()
    model, plugin = GrowingNet(), MASPlugin(1e6, mode="proximal") if mode == "proximal" else None
    plugin = plugin or MASPlugin(0.05)
    learner = train(model, [], [plugin])
    for number, experience in enumerate(stream):
        old = weights(model)
        rows = plugin.importance.get("classifier.classifier.weight", torch.zeros(0, 8))
        learner.train(experience, shuffle=False)
        if evaluate:
            learner.eval(stream)
        importance = plugin.importance["classifier.classifier.weight"]
        assert importance.shape == (2 * number + 2 if not evaluate else len(importance), 8)
        assert list(plugin.importance) == list(dict(model.named_parameters()))
        if mode == "proximal" and number > 0:
            new = model.classifier.classifier.weight.detach()
            kept, held = old["classifier.classifier.weight"][: len(rows)], rows > 1e-2
            assert held.any()
            assert (new[: len(rows)] - kept)[held].abs().max() < 1e-4
            assert (new[2 * number : 2 * number + 2] - 0).abs().max() > 0
    assert isinstance(model.classifier.classifier.weight, nn.Parameter)


def test_new_rows_of_a_grown_head_learn_as_if_unpenalised():
    stream = growing_stream()
    model, plugin = GrowingNet(), MASPlugin(1e9, mode="proximal")
    learner = train(model, stream[:1], [plugin])
    learner.eval(stream[1])  # grows the head, the plugin's tensors stay small
    assert model.classifier.classifier.weight.shape[0] == 4
    assert plugin.importance["classifier.classifier.weight"].shape[0] == 2
    before = weights(model)["classifier.classifier.weight"]
    learner.train(stream[1], shuffle=False)
    after = weights(model)["classifier.classifier.weight"]
    assert (after[2:] - before[2:]).abs().max() > 1e-2
    assert plugin.importance["classifier.classifier.weight"].shape[0] == 4


def test_replaced_parameter_objects_are_found_by_name():
    stream = experiences()
    one, other = (
        train(single_head(), stream[:1], [MASPlugin(0.3)], optimizer=continual.plain_sgd)
        for _ in range(2)
    )
    layer = one.model[3]
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    one.train(stream[1], shuffle=False)
    other.train(stream[1], shuffle=False)
    assert_same_weights(one.model, other.model)


def test_vanished_and_replaced_layers():
    stream = experiences()
    plugin = MASPlugin(0.3)
    learner = train(single_head(), stream[:1], [plugin])
    learner.model[3] = nn.Linear(8, 3, bias=False).to(DOUBLE)
    learner.train(stream[1], shuffle=False)
    assert "3.bias" not in plugin.importance
    learner.model[0] = nn.Linear(6, 9).to(DOUBLE)
    learner.model[3] = nn.Linear(9, 3).to(DOUBLE)
    with pytest.raises(ValueError, match=r"Expected `3.weight` to keep its shape or to grow"):
        learner.train(stream[2], shuffle=False)


# --- awkward runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_attached_late_protects_from_then_on(mode):
    stream = experiences()
    late, early = MASPlugin(0.3, mode=mode), MASPlugin(0.3, mode=mode)
    one = train(single_head(), stream[:1])
    one.plugins.insert(0, late)
    other = train(single_head(), stream[:1])
    other.plugins.insert(0, early)
    one.train(stream[1], shuffle=False)
    naive = train(single_head(), stream[:2])
    assert_same_weights(one.model, naive.model)
    assert set(late.importance) == set(dict(one.model.named_parameters()))
    one.train(stream[2], shuffle=False)
    assert largest_difference(one.model, train(single_head(), stream).model) > 1e-4


def test_loss_of_exactly_zero_is_a_loss():
    stream = experiences()
    learner = train(single_head(), stream[:1], [MASPlugin(0.3)])
    before = weights(learner.model)
    learner._criterion = lambda output, target: 0.0 * output.sum()
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    learner.train(stream[1], shuffle=False)
    # At the anchor with no task gradient nothing moves.
    assert all(torch.equal(v, before[n]) for n, v in weights(learner.model).items())


def test_zero_importance_penalises_nothing():
    stream = experiences()

    def blank(experience):
        return torch.zeros(4, continual.NUM_FEATURES, dtype=DOUBLE)

    def bias_free():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)
        ).to(DOUBLE)

    plugin = MASPlugin(1e6, importance_data=blank)
    ours = train(bias_free(), stream, [plugin])
    assert plugin.importance == {}
    assert_same_weights(ours.model, train(bias_free(), stream).model)


def test_frozen_parameters_stay_and_thawed_ones_are_protected_again():
    stream = experiences()
    plugin = MASPlugin(0.3)
    learner = train(single_head(), stream[:1], [plugin])
    frozen = weights(learner.model)["0.weight"]
    importance = plugin.importance["0.weight"].clone()
    learner.model[0].weight.requires_grad_(False)
    learner.train(stream[1], shuffle=False)
    assert torch.equal(learner.model[0].weight, frozen)
    assert torch.equal(plugin.importance["0.weight"], importance)
    learner.model[0].weight.requires_grad_(True)
    learner.train(stream[2], shuffle=False)
    assert not torch.equal(learner.model[0].weight, frozen)


class Reconstruct(Naive):
    """Learns to give its input back; never asks for a label."""

    def criterion(self):
        return nn.functional.mse_loss(self.mb_output, self.mb_x)


@pytest.mark.parametrize("num_items", [1, 2, 3, 4])
def test_mini_batches_of_any_number_of_items(num_items):
    torch.manual_seed(0)
    columns = [torch.randn(12, 6, dtype=DOUBLE), *(torch.arange(12) for _ in range(num_items - 1))]
    stream = benchmark_from_datasets(
        train=[AvalancheDataset([TensorDataset(*columns)]) for _ in range(2)]
    ).train_stream
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)).to(DOUBLE)
    plugin = MASPlugin(0.1)
    train(model, list(stream), [plugin], strategy=Reconstruct)
    expected = estimate_importance(model, columns[0])
    torch.testing.assert_close(
        merge_of_two(plugin, expected), expected["0.weight"], rtol=1e-10, atol=1e-12
    )


def merge_of_two(plugin, last):
    """The second of two summed importances, given that it is the last one."""
    first = plugin.importance["0.weight"] - last["0.weight"]
    assert (first > 0).any()
    return plugin.importance["0.weight"] - first


def online(stream, *, boundaries, size=8):
    options = {"experience_size": size, "access_task_boundaries": boundaries}
    return list(split_online_stream(stream, **options))


def class_stream():
    generator = torch.Generator().manual_seed(0)
    data = [
        as_classification_dataset(
            labelled(torch.randn(24, 6, generator=generator), torch.arange(24) % 3)
        )
        for _ in range(2)
    ]
    return benchmark_from_datasets(train=data).train_stream


@pytest.mark.parametrize("size", [8, 9], ids=["parts alike", "a shorter last part"])
def test_online_stream_is_consolidated_at_task_boundaries_on_the_whole_task(size):
    stream = class_stream()
    parts = online(stream, boundaries=True, size=size)
    assert len(parts) == 6
    model, plugin = single_head(dtype=torch.float32), MASPlugin(0.1, alpha=0.0)
    learner = train(model, [], [plugin])
    counts = []
    for part in parts:
        learner.train(part, shuffle=False)
        counts.append(len(plugin.importance_seconds))
    assert counts == [0, 0, 1, 1, 1, 2]
    x, _ = continual.tensors(stream[1])
    expected = estimate_importance(model, x)
    for name, value in plugin.importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_online_stream_without_boundaries_needs_a_moving_average():
    parts = online(class_stream(), boundaries=False)
    learner = train(single_head(dtype=torch.float32), [], [MASPlugin(0.1)])
    with pytest.raises(ValueError, match="Expected the online stream to give access to its task"):
        learner.train(parts[0])
    plugin = MASPlugin(0.1, alpha=0.9)
    train(single_head(dtype=torch.float32), parts, [plugin])
    assert len(plugin.importance_seconds) == len(parts)


@pytest.mark.parametrize("mode", MODES)
def test_model_that_changes_its_precision(mode):
    plugin = MASPlugin(0.3, mode=mode)
    stream = experiences(dtype=torch.float32)
    learner = train(
        single_head(dtype=torch.float32), stream[:1], [plugin], optimizer=continual.plain_sgd
    )
    learner.model.double()
    learner.train(experiences()[1], shuffle=False)
    assert {value.dtype for value in plugin.importance.values()} == {DOUBLE}
    learner.train(experiences()[2], shuffle=False)


class AddToLoss(SupervisedPlugin):
    """Another regulariser: in place, as most are."""

    def before_backward(self, strategy, **kwargs):
        strategy.loss += 0.1 * strategy.model[0].weight.square().sum()


OTHERS = {
    "replay": lambda: ReplayPlugin(mem_size=10),
    "AGEM": lambda: AGEMPlugin(patterns_per_experience=6, sample_size=6),  # passes of its own
    "LwF": lambda: AvalancheLwF(alpha=1.0, temperature=2.0),
    "EWC": lambda: AvalancheEWC(ewc_lambda=1.0),
    "RWalk": lambda: RWalkPlugin(ewc_lambda=0.1),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("other", OTHERS)
def test_other_plugins_beside_it(other, first):
    """Without strength it leaves the others' training as it is, to the bit; with it, it acts."""
    stream = experiences(dtype=torch.float32)
    results = []
    for ours in (None, MASPlugin(0.0), MASPlugin(0.5)):
        plugins = [OTHERS[other]()]
        if ours is not None:
            plugins.insert(0 if first else 1, ours)
        random.seed(3)
        torch.manual_seed(3)
        results.append(train(NormNet(), stream, plugins, optimizer=continual.plain_sgd).model)
    assert_same_weights(results[0], results[1])
    assert largest_difference(results[0], results[2]) > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_order_beside_another_regulariser_does_not_matter(mode):
    stream = experiences()
    one = train(single_head(), stream, [AddToLoss(), MASPlugin(0.3, mode=mode)])
    other = train(single_head(), stream, [MASPlugin(0.3, mode=mode), AddToLoss()])
    assert_same_weights(one.model, other.model, tolerance=1e-14)


# --- stability ------------------------------------------------------------------------------


def accuracy(model, experience):
    x, y = continual.tensors(experience)
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_gradient_form_dies_where_the_proximal_one_learns():
    stream = experiences(num_samples=60)
    strength, long = 50.0, {"epochs": 30, "batch_size": 20}
    with (
        pytest.warns(StabilityWarning, match="Use mode='proximal'") as caught,
        pytest.raises(
            RuntimeError, match="The training has diverged: lower the learning rate or the strength"
        ),
    ):
        train(single_head(), stream, [MASPlugin(strength)], optimizer=continual.plain_sgd, **long)
    assert [w.category for w in caught].count(StabilityWarning) == 1
    model = single_head()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabilityWarning)
        train(
            model,
            stream,
            [MASPlugin(strength, mode="proximal")],
            optimizer=continual.plain_sgd,
            **long,
        )
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    naive = train(single_head(), stream, optimizer=continual.plain_sgd, **long).model
    assert accuracy(model, stream[0]) > accuracy(naive, stream[0]) + 0.1
    assert accuracy(model, stream[0]) > 0.8


def test_first_bad_loss_stops_the_run_and_names_the_iteration():
    learner = train(single_head(), [], [MASPlugin()])
    calls = []

    def criterion(output, target):
        calls.append(None)
        return nn.functional.cross_entropy(output, target) / (0.0 if len(calls) == 4 else 1.0)

    learner._criterion = criterion
    with pytest.raises(RuntimeError, match="got inf in training iteration 4"):
        learner.train(experiences()[0])


def test_first_bad_weight_stops_the_run_in_its_iteration():
    class Overflow(SupervisedPlugin):
        """The loss stays finite; the third update does not."""

        def before_update(self, strategy, **kwargs):
            if strategy.clock.train_exp_iterations == 2:
                strategy.model[3].weight.grad[0, 0] = float("inf")

    learner = train(single_head(), [], [MASPlugin(), Overflow()], optimizer=continual.plain_sgd)
    with pytest.raises(RuntimeError, match=r"`3.weight` to be finite, .* training iteration 3\."):
        learner.train(experiences()[0])
    assert learner.clock.train_exp_iterations == 2


def test_weights_of_a_step_that_a_scaler_skips_are_no_alarm():
    class Skip(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            strategy.model[0].weight.grad.fill_(float("inf"))

    class Skipping(Naive):
        def optimizer_step(self):
            """As a GradScaler does where gradients overflow."""

    train(single_head(), experiences()[:1], [Skip(), MASPlugin()], strategy=Skipping)


def test_bad_weights_stop_the_run_before_they_become_importance():
    class Break(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            with torch.no_grad():
                strategy.model[3].bias[0] = float("nan")

    plugin = MASPlugin()
    with pytest.raises(RuntimeError, match=r"Expected `3.bias` to be finite"):
        train(single_head(), experiences()[:1], [Break(), plugin])
    assert plugin.importance == {}


def test_the_checks_can_be_switched_off():
    learner = train(single_head(), [], [MASPlugin(check_finite=False)])
    learner._criterion = lambda output, target: 0.0 * output.sum() + float("nan")
    learner.train(experiences()[0])


# --- scale ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["mean", "max"])
def test_normalised_importance_does_not_depend_on_the_scale_of_the_output(normalization):
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.net, self.scale = single_head(), scale

        def forward(self, x):
            return self.scale * self.net(x)

    x, _ = continual.tensors(experiences()[0])
    found = []
    for scale in (1.0, 30.0):
        plugin = MASPlugin(normalization=normalization)
        plugin.update_importance(Scaled(scale), x)
        found.append(plugin.importance)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-12)
    everything = torch.cat([v.flatten() for v in found[0].values()])
    reached = everything.mean() if normalization == "mean" else everything.max()
    assert float(reached) == pytest.approx(1.0)


# --- unlabelled data ------------------------------------------------------------------------


def test_importance_data_may_be_a_tensor_or_made_from_the_experience():
    stream = experiences()
    seen = []

    def own(experience):
        seen.append(experience.current_experience)
        return continual.tensors(experience)[0][:7]

    model, plugin = single_head(), MASPlugin(0.1, alpha=0.0, importance_data=own)
    train(model, stream[:2], [plugin])
    assert seen == [0, 1]
    expected = estimate_importance(model, continual.tensors(stream[1])[0][:7])
    assert_importance(plugin, expected)
    fixed = torch.ones(3, continual.NUM_FEATURES, dtype=DOUBLE)
    plugin = MASPlugin(0.1, alpha=0.0, importance_data=fixed)
    train(model, stream[:1], [plugin])
    assert_importance(plugin, estimate_importance(model, fixed))


def assert_importance(plugin, expected):
    for name, value in plugin.importance.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)


def test_importance_data_goes_through_the_head_that_is_asked_for():
    stream = experiences(task_labels=True)
    x = torch.randn(5, continual.NUM_FEATURES, dtype=DOUBLE)
    plugin = MASPlugin(importance_data=x, task_label=2)
    train(HeadedNet(), stream[:1], [plugin])
    assert {n for n in plugin.importance if "heads" in n} == {"heads.2.weight", "heads.2.bias"}
    plugin = MASPlugin(importance_data=x)
    train(HeadedNet(), stream[:1], [plugin])
    assert {n for n in plugin.importance if "heads" in n} == {"heads.0.weight", "heads.0.bias"}


@pytest.mark.parametrize("how", ["replace", "add"])
def test_update_importance_in_use(how):
    stream = experiences(task_labels=True)
    model, plugin = HeadedNet(), MASPlugin(0.3)
    learner = train(model, stream[:2], [plugin])
    old = {n: v.clone() for n, v in plugin.importance.items()}
    met = torch.randn(5, continual.NUM_FEATURES, dtype=DOUBLE)
    before = weights(model)
    with torch.no_grad():
        plugin.update_importance(model, met, task_label=1, how=how)
    assert all(torch.equal(v, before[n]) for n, v in weights(model).items())
    expected = estimate_importance(model, met, task_label=1)
    for name, value in plugin.importance.items():
        wanted = expected[name] if how == "replace" else expected[name] + old[name]
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
    assert ("heads.0.weight" in plugin.importance) == (how == "add")
    assert len(plugin.importance_seconds) == 3
    learner.train(stream[2], shuffle=False)


def test_deployed_model_can_be_protected_without_any_training_of_ours():
    model, plugin = single_head(), MASPlugin(1e8, mode="proximal")
    x, _ = continual.tensors(experiences()[0])
    plugin.update_importance(model, x)
    before = weights(model)
    train(model, experiences()[1:2], [plugin], optimizer=continual.plain_sgd)
    held = plugin.importance["0.weight"] > 0
    assert (model[0].weight - before["0.weight"]).abs().max() > 0
    assert bool(held.all())
    naive = single_head()
    train(naive, experiences()[1:2], optimizer=continual.plain_sgd)
    moved = (model[0].weight - before["0.weight"]).norm()
    assert moved < 1e-3 * (naive[0].weight - before["0.weight"]).norm()


# --- state ----------------------------------------------------------------------------------


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("mode", MODES)
def test_copies_train_on_alike(copier, mode):
    stream = experiences()
    plugin = MASPlugin(0.3, mode=mode)
    learner = train(single_head(), stream[:1], [plugin])
    other = copy.deepcopy(learner)
    other.plugins[0] = copier(plugin)
    learner.train(stream[1], shuffle=False)
    other.train(stream[1], shuffle=False)
    assert_same_weights(learner.model, other.model)
    assert other.plugins[0].importance["0.weight"] is not plugin.importance["0.weight"]


def test_state_dict_loads_safely_and_restores_the_penalty(tmp_path):
    stream = experiences()
    plugin = MASPlugin(0.3)
    learner = train(single_head(), stream[:1], [plugin])
    torch.save(plugin.state_dict(), tmp_path / "mas.pt")
    again = MASPlugin(0.3)
    again.load_state_dict(torch.load(tmp_path / "mas.pt", weights_only=True))
    other = copy.deepcopy(learner)
    other.plugins[0] = again
    learner.train(stream[1], shuffle=False)
    other.train(stream[1], shuffle=False)
    assert_same_weights(learner.model, other.model)
    assert again.importance_seconds[0] == plugin.importance_seconds[0]


def test_foreign_or_damaged_states_are_refused():
    plugin = MASPlugin()
    with pytest.raises(ValueError, match=r"Expected `state` to have the keys"):
        plugin.load_state_dict({"importance": {}})
    state = plugin.state_dict() | {"format": 99}
    with pytest.raises(ValueError, match=r"and format 1, got .* and 99"):
        plugin.load_state_dict(state)
    state = plugin.state_dict() | {"importance": {"w": torch.ones(2)}, "anchor": {}}
    with pytest.raises(ValueError, match=r"Expected `state` to have an anchor of each importance"):
        plugin.load_state_dict(state)


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_lambda_must_be_finite_and_not_negative(value):
    message = f"Expected `lambda_reg` to be finite and at least 0, got {value}"
    with pytest.raises(ValueError, match=message):
        MASPlugin(value)
    plugin = MASPlugin()
    with pytest.raises(ValueError, match=message):
        plugin.lambda_reg = value
    plugin.lambda_reg = 2
    assert plugin.lambda_reg == plugin.penalty.strength == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"Expected `alpha` to be None or in \[0, 1\], got 1.5"),
        ({"alpha": float("nan")}, r"Expected `alpha` to be None or in \[0, 1\], got nan"),
        ({"mode": "implicit"}, r"Expected `mode` to be one of .* got 'implicit'"),
        ({"normalization": "sum"}, r"Expected `normalization` .* got 'sum'"),
        ({"objective": "l2"}, r"Expected `objective` to be one of .* got 'l2'"),
        ({"batch_size": 0}, r"Expected `batch_size` to be at least 1, got 0"),
        ({"max_samples": 0}, r"Expected `max_samples` to be at least 1, got 0"),
        ({"tolerance": 0.0}, r"Expected `tolerance` to be positive and finite, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        MASPlugin(**options)


def test_unknown_way_to_update_is_refused():
    with pytest.raises(ValueError, match="Expected `how` to be 'replace' or 'add', got 'sum'"):
        MASPlugin().update_importance(single_head(), torch.ones(1, 6, dtype=DOUBLE), how="sum")


def test_positional_arguments_are_those_of_avalanche():
    ours, theirs = MASPlugin(2.0, 0.5, True), AvalancheMAS(2.0, 0.5, True)
    assert (ours.lambda_reg, ours.alpha, ours.verbose) == (
        theirs._lambda,
        theirs.alpha,
        theirs.verbose,
    )


def test_strategy_and_plugin_train_alike_and_the_list_of_plugins_is_not_changed():
    stream = experiences()
    mine = [ReplayPlugin(mem_size=4)]
    one = train(single_head(), stream, mine, strategy=MAS, lambda_reg=0.3)
    assert len(mine) == 1
    other = train(single_head(), stream, [ReplayPlugin(mem_size=4), MASPlugin(0.3)])
    assert_same_weights(one.model, other.model)
    assert one.mas.lambda_reg == 0.3
