import collections
import random

import numpy as np
import pytest
import torch
import torchvision
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import loss_metrics
from avalanche.models import MTSimpleMLP
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.mas import MASPlugin as AvalancheMAS
from avalanche.training.supervised import Naive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mas_avalanche.guard import DivergenceError
from mas_avalanche.importance import _Engine, estimate_importance
from mas_avalanche.mini_batches import MiniBatch
from mas_avalanche.objectives import resolve
from mas_avalanche.per_sample.gradients import Settings
from mas_avalanche.tensor_batches import BatchDataset
from tests import oracles, zoo
from tests.zoo import CASES

EXACT = 1e-10


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def inputs(n, *shape):
    return torch.randn(n, *(shape or (4,)), dtype=torch.float64)


def assert_equal(found, expected, limit=EXACT):
    errors = oracles.relative_errors(found, expected)
    assert max(errors.values()) < limit, errors


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# Exactness


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zoo_equals_one_sample_at_a_time(case):
    model, x = case.build()
    expected = oracles.importance(model, x)
    for sizes in ([3, 2], [1, 1, 3]):
        for found in (
            estimate_importance(model, x.split(sizes)),
            estimate_importance(model, iter(x.split(sizes))),  # one at a time
        ):
            assert_equal(found, expected)
    assert case.generic is None or set(found.generic) == case.generic


@pytest.mark.parametrize("name", ["mlp", "batch-norm", "vit", "tied-embedding", "weight-norm"])
def test_squares_equal_one_sample_at_a_time(name):
    model, x = zoo.case(name).build()
    expected = oracles.importance(model, x, power=2)
    assert_equal(estimate_importance(model, x, power=2), expected)


def test_samples_of_opposite_sign_do_not_cancel():
    line = nn.Linear(1, 1).double()
    nn.init.ones_(line.weight)
    nn.init.zeros_(line.bias)
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    found = estimate_importance(line, x)
    assert found["weight"].item() == 2
    assert found["bias"].item() == 2
    (batch,) = torch.autograd.grad(line(x).square().mean(), line.bias)
    assert batch.item() == 0


def _alexnet(size):
    torch.manual_seed(0)
    return torchvision.models.alexnet(num_classes=5).double(), inputs(3, 3, size, size)


def test_weights_computed_for_each_sample():
    """A layer whose weights are computed per sample has no parameter of its own."""
    model = zoo.Lambda(
        lambda s, x: torch.einsum("nij,nj->ni", s.a(x).unflatten(1, (3, 4)), x),
        a=nn.Linear(4, 12),
    ).double()
    x = inputs(5)
    assert_equal(estimate_importance(model, x), oracles.importance(model, x))


@pytest.mark.slow
def test_alexnet_equals_one_sample_at_a_time():
    model, x = _alexnet(64)
    assert_equal(estimate_importance(model, x.split([1, 2])), oracles.importance(model, x))


def test_bfloat16_parameters_are_accumulated_in_float32():
    model = mlp().bfloat16()
    x = inputs(300).bfloat16()
    found = estimate_importance(model, x, batch_size=1)
    expected = oracles.importance(model.double(), x.double())
    assert {v.dtype for v in found.values()} == {torch.bfloat16}
    assert_equal({n: v.double() for n, v in found.items()}, expected, 0.02)


def test_autocast_stays_near_full_precision():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = inputs(6, 3, 5, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = estimate_importance(model, x)
    assert not found.generic
    assert_equal(found, estimate_importance(model, x), 0.05)


# Objectives


def _each_output(output):
    return list(output.flatten())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(
    "name", ["mlp", "vit", "module-twice", "written-in-place", "matmul", "slices", "lstm-cell"]
)
def test_vector_adds_the_magnitudes_of_each_output(name, power):
    model, x = zoo.case(name).build()
    expected = oracles.importance(model, x, _each_output, power)
    for sizes in ([2, 2, 1], [5]):
        found = estimate_importance(model, x.split(sizes), objective="vector", power=power)
        assert_equal(found, expected)


class Counter(TorchDispatchMode):
    """Counts calls by the operation's name."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_vector_takes_one_product_for_all_outputs():
    """The magnitude of an outer product factors: |d_1 a| + |d_2 a| = (|d_1| + |d_2|) |a|."""
    engine = _Engine(mlp().eval(), resolve("vector"), Settings(1, 2**20), False, True)
    engine.add(MiniBatch(inputs(5), None, None))
    with Counter() as counter:
        engine.add(MiniBatch(inputs(5), None, None))
    assert counter.calls["addmm_"] == 2  # one a layer, of three outputs


class Masked(nn.Module):
    """A head whose last units are not in use yet."""

    def __init__(self, fill):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layer = nn.Linear(4, 5)
        self.fill = fill

    def forward(self, x):
        output = self.layer(self.first(x))
        return output.masked_fill(torch.arange(5) > 2, self.fill)


@pytest.mark.parametrize("fill", [-1000.0, torch.finfo(torch.float64).min, float("-inf")])
def test_vector_takes_no_pass_for_masked_units(fill):
    model = Masked(fill).double()
    x = inputs(7)
    expected = oracles.importance(model, x, lambda output: list(output[0, :3]))
    passes = []
    model.layer.register_full_backward_hook(lambda *_: passes.append(1))
    found = estimate_importance(model, x, objective="vector")
    assert_equal(found, expected)
    assert not found["layer.weight"][3:].any()
    assert len(passes) == 3 + 2  # and the two rehearsals


def test_vector_keeps_a_living_unit_that_looks_masked():
    model = nn.Linear(4, 2).double()
    with torch.no_grad():
        model.weight[1].zero_()
        model.bias[1] = -1000
    expected = oracles.importance(model, x := inputs(5), _each_output)
    assert_equal(estimate_importance(model, x, objective="vector"), expected)


def test_squared_norm_ignores_masked_units():
    model = Masked(-1000.0).double()
    x = inputs(5)
    expected = oracles.importance(model, x, lambda output: output[:, :3].square().sum())
    assert_equal(estimate_importance(model, x), expected)


def test_log_likelihood_with_squares_is_the_empirical_fisher():
    model = mlp()
    x, y = inputs(9), torch.arange(9) % 3

    def log_likelihood(output, n):
        return torch.log_softmax(output, 1)[0, y[n]]

    log_likelihood.takes_index = True
    expected = oracles.importance(model, x, log_likelihood, power=2)
    data = TensorDataset(x, y)
    found = estimate_importance(model, data, objective="log_likelihood", power=2, batch_size=4)
    assert_equal(found, expected)


def test_callable_objective_equals_one_sample_at_a_time():
    model, x = mlp(), inputs(5)

    def confidence(output):
        return torch.softmax(output, 1).max(1).values

    expected = oracles.importance(model, x, lambda output: confidence(output).sum())
    assert_equal(estimate_importance(model, x, objective=confidence), expected)


# Data


class Rows(Dataset):
    """A data set without tensors to cut from."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], index


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: Rows(x),
        lambda x: Stream(x),
        lambda x: TensorDataset(x, torch.zeros(len(x))),
        lambda x: BatchDataset(x, torch.zeros(len(x), dtype=torch.int64)),
        lambda x: DataLoader(TensorDataset(x), 3, shuffle=True),
        lambda x: ((part,) for part in x.split(2)),
        lambda x: [[part, 0] for part in x.split([1, 6])],
        lambda x: nc_benchmark(*_labelled(x), 1, task_labels=False).train_stream[0].dataset,
        lambda x: nc_benchmark(*_labelled(x), 1, task_labels=False).train_stream[0].dataset.eval(),
    ],
    ids=[
        "tensor",
        "dataset",
        "iterable-dataset",
        "tensor-dataset",
        "batch-dataset",
        "loader",
        "generator",
        "list",
        "avalanche",
        "avalanche-eval",
    ],
)
def test_any_form_of_data_gives_the_same(wrap):
    model, x = mlp(), inputs(7)
    found = estimate_importance(model, wrap(x), batch_size=2)
    assert found.num_samples == 7
    assert_equal(found, oracles.importance(model, x))


def _labelled(x):
    data = TensorDataset(x, torch.arange(len(x)) % 2)
    data.targets = data.tensors[1].tolist()
    return data, data


def test_inputs_may_be_nested():
    model = zoo.Lambda(lambda s, x: s.a(x["u"]) * x["v"][0], a=nn.Linear(4, 3)).double()
    u, v = inputs(5), inputs(5, 3)
    found = estimate_importance(model, [({"u": u, "v": [v]},)])
    expected = oracles.importance(
        model,
        torch.cat([u, v], 1),
        run=lambda x: model({"u": x[:, :4], "v": [x[:, 4:]]}),
    )
    assert_equal(found, expected)


def test_sequences_of_several_lengths_are_planned_one_by_one():
    model, _ = zoo.case("lstm-time-first").build()
    parts = [inputs(2, length, 3) for length in (2, 5, 2, 3)]
    each = [oracles.importance(model, part) for part in parts]
    expected = {n: sum(e[n] for e in each) / 4 for n in each[0]}
    assert_equal(estimate_importance(model, parts), expected)


def test_values_read_back_into_python_are_read_for_each_mini_batch():
    model = zoo.Lambda(
        lambda s, x: s.a(torch.lerp(x, s.p, float(x[0, 0]))), a=nn.Linear(4, 3), p=zoo.parameter(4)
    ).double()
    parts = [inputs(3), inputs(2)]
    for part, value in zip(parts, (0.25, 0.75), strict=True):
        part[:, 0] = value  # shared by the samples of a mini-batch
    assert_equal(estimate_importance(model, parts), oracles.importance(model, torch.cat(parts)))


def test_a_plan_from_too_few_samples_is_made_anew():
    model, x = zoo.case("windows").build()
    engine = _Engine(model.eval(), resolve("squared_l2"), Settings(1, 2**20), False, True)
    found = []
    for part in x.split([1, 4]):
        engine.add(MiniBatch(part, None, None))
        (planned,) = engine.plans.values()
        found.append(planned.distinct)
    assert found == [1, 3]
    assert_equal(engine.result(5, ""), oracles.importance(model, x))


def _passes(model, run):
    """Return the numbers of samples that the model is given, and what a call returns."""
    sizes = []
    hook = model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    try:
        return sizes, run()
    finally:
        hook.remove()


def test_small_mini_batches_share_a_pass():
    model, x = mlp(), inputs(600)
    y = torch.arange(600) % 3
    data = list(zip(x.split(8), y.split(8), strict=True))
    sizes, found = _passes(
        model, lambda: estimate_importance(model, data, objective="log_likelihood")
    )
    assert max(sizes) > 400
    assert len(sizes) < 10
    assert found.num_samples == 600
    expected = estimate_importance(model, [(x, y)], objective="log_likelihood")
    assert_equal(found, expected)


def test_no_pass_is_shared_where_it_would_leave_the_cache():
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 8, 3)).double()
    sizes, _ = _passes(model, lambda: estimate_importance(model, inputs(24, 3, 32, 32).split(4)))
    assert max(sizes) == 4


def test_a_buffer_that_is_filled_anew_is_read_before():
    model, x, buffer = mlp(), inputs(40), torch.empty(4, 4, dtype=torch.float64)

    def filled():
        for part in x.split(4):
            yield buffer.copy_(part)

    assert_equal(estimate_importance(model, filled()), estimate_importance(model, x))


def test_max_samples_cuts_a_mini_batch():
    model, x = mlp(), inputs(9)
    expected = oracles.importance(model, x[:5])
    for data in (x, x.split(2), TensorDataset(x)):
        found = estimate_importance(model, data, max_samples=5, batch_size=4)
        assert found.num_samples == 5
        assert_equal(found, expected)


def test_progress_shows_a_bar(capsys):
    estimate_importance(mlp(), inputs(6), progress=True)
    assert "6/6" in capsys.readouterr().err
    estimate_importance(mlp(), inputs(6))
    assert not capsys.readouterr().err


# Multi-task models


def _two_tasks():
    x = torch.randn(12, 4)
    data = TensorDataset(x, torch.arange(12) % 4)
    data.targets = data.tensors[1].tolist()
    benchmark = nc_benchmark(
        data, data, 2, task_labels=True, shuffle=False, class_ids_from_zero_in_each_exp=True
    )
    model = MTSimpleMLP(input_size=4, hidden_size=5)
    for experience in benchmark.train_stream:
        avalanche_model_adaptation(model, experience)
    return model.double(), benchmark, x.double()


def test_task_labels_choose_the_heads():
    model, _, x = _two_tasks()
    labels = torch.arange(12) % 2
    batch = [x, torch.zeros(12), labels]
    found = estimate_importance(model, [batch])
    each = [oracles.importance(model, x[t::2], run=lambda x, t=t: model(x, t)) for t in (0, 1)]
    assert_equal(found, {n: (each[0][n] + each[1][n]) / 2 for n in each[0]})


def test_a_task_label_leaves_other_heads_at_zero():
    model, _, x = _two_tasks()
    found = estimate_importance(model, TensorDataset(x), task_label=1)
    assert_equal(found, oracles.importance(model, x, run=lambda x: model(x, 1)))
    assert not found["classifier.classifiers.0.classifier.weight"].any()
    assert found["classifier.classifiers.1.classifier.weight"].any()


def test_an_avalanche_experience_brings_its_task_labels():
    model, benchmark, _ = _two_tasks()
    model.float()
    for label, experience in enumerate(benchmark.train_stream):
        found = estimate_importance(model, experience.dataset)
        heads = [bool(found[f"classifier.classifiers.{t}.classifier.bias"].any()) for t in (0, 1)]
        assert heads == [label == 0, label == 1]


def test_missing_task_labels_are_an_error():
    model, _, x = _two_tasks()
    with pytest.raises(ValueError, match=r"Expected `task_label` to be given"):
        estimate_importance(model, x)


# Stop by precision


def test_tolerance_stops_once_the_standard_error_is_small_enough():
    model, x = mlp(), inputs(4000)
    full = estimate_importance(model, x)
    found = estimate_importance(model, x, tolerance=0.05, batch_size=16)
    assert found.num_samples < 2000
    assert 0 < found.relative_error < 0.05
    norm = torch.cat([v.flatten() for v in full.values()]).norm()
    error = torch.cat([(found[n] - v).flatten() for n, v in full.items()]).norm() / norm
    assert error < 0.15


def test_the_standard_error_is_that_of_the_mean():
    model, x = mlp(), inputs(3000)
    full = estimate_importance(model, x)
    norm = torch.cat([v.flatten() for v in full.values()]).norm()
    errors, claimed = [], []
    for part in x.split(100):  # thirty estimates from mini-batches that are thrown away
        found = estimate_importance(model, part.split(10), tolerance=1e-9)
        errors.append(torch.cat([(found[n] - v).flatten() for n, v in full.items()]).norm() / norm)
        claimed.append(found.relative_error)
    actual = torch.stack(errors).square().mean().sqrt().item()
    assert actual == pytest.approx(np.sqrt(np.mean(np.square(claimed))), rel=0.25)


def test_tolerance_reads_everything_where_it_must():
    model, x = mlp(), inputs(40)
    found = estimate_importance(model, x, tolerance=1e-9, batch_size=4)
    assert found.num_samples == 40
    assert found.relative_error == 0
    assert_equal(found, oracles.importance(model, x))


# No trace


def test_the_model_and_random_states_are_left_as_they_were():
    model, x = zoo.case("batch-norm").build(6)
    model.register_buffer("seen", torch.zeros(()))
    model.register_forward_pre_hook(lambda m, args: m.seen.add_(1) and None)
    model[0].eval()
    model.train()
    model[1].eval()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    model[5].bias.requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(x), 2, shuffle=True, generator=generator)

    def state():
        return {
            "modes": [m.training for m in model.modules()],
            "tensors": {n: t.clone() for n, t in model.state_dict().items()},
            "pointers": [t.data_ptr() for t in [*model.parameters(), *model.buffers()]],
            "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "trained": [p.requires_grad for p in model.parameters()],
            "hooks": [
                (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                for m in model.modules()
            ],
            "random": (
                random.getstate(),
                np.random.get_state()[1].tolist(),
                torch.get_rng_state(),
                generator.get_state(),
            ),
            "grad": torch.is_grad_enabled(),
        }

    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            before = state()
            estimate_importance(model, loader)
            torch.testing.assert_close(state(), before, rtol=0, atol=0)


def test_the_model_is_put_back_after_an_error():
    model = mlp().train()
    with pytest.raises(ValueError, match="one scalar a sample"):
        estimate_importance(model, inputs(3), objective=lambda output: output)
    assert model.training


def test_embeddings_that_renormalise_are_put_back():
    model, x = zoo.case("embedding-max-norm").build()
    before = model[0].weight.clone()
    estimate_importance(model, x)
    assert torch.equal(model[0].weight, before)


def test_no_gradient_is_left_behind():
    model = mlp()
    estimate_importance(model, inputs(3))
    assert all(p.grad is None for p in model.parameters())
    assert all(not p._backward_hooks for p in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "batch-norm", "vit", "tied-embedding", "weight-norm"])
def test_the_loop_over_mini_batches_reads_nothing_back(name):
    model, x = zoo.case(name).build()
    model.eval()
    engine = _Engine(model, resolve("squared_l2"), Settings(1, 2**20), False, True)
    engine.add(MiniBatch(x, None, None))
    with Recorder() as recorder:
        engine.add(MiniBatch(x, None, None))
    assert len(recorder.names) > 5
    assert not recorder.names & {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_importance_that_is_not_finite_is_refused(bad):
    x = torch.rand(4, 3)
    x[2, 1] = bad
    with pytest.raises(DivergenceError, match="importance of `weight` to be finite"):
        estimate_importance(nn.Linear(3, 2), x)


# Properties


def samples(max_size=6):
    value = st.floats(-2, 2, allow_nan=False, width=32)
    row = st.lists(value, min_size=4, max_size=4)
    return st.lists(row, min_size=1, max_size=max_size).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )


few = settings(max_examples=10, deadline=None, derandomize=True, database=None)


@few
@given(samples(), st.data())
def test_neither_split_nor_order_matters(x, data):
    order = data.draw(st.permutations(range(len(x))))
    size = data.draw(st.integers(1, len(x)))
    expected = estimate_importance(mlp(), x)
    assert_equal(estimate_importance(mlp(), x[list(order)].split(size)), expected)


@few
@given(samples())
def test_duplicates_change_nothing(x):
    expected = estimate_importance(mlp(), x)
    assert_equal(estimate_importance(mlp(), torch.cat([x, x])), expected)


@few
@given(samples(), samples())
def test_a_union_is_the_weighted_mean(x, y):
    first, second = estimate_importance(mlp(), x), estimate_importance(mlp(), y)
    weight = len(x) / (len(x) + len(y))
    expected = {n: weight * first[n] + (1 - weight) * second[n] for n in first}
    assert_equal(estimate_importance(mlp(), torch.cat([x, y])), expected)


@few
@given(samples(), st.floats(0.1, 3))
def test_a_scaled_objective_scales_importance(x, factor):
    def scaled(output):
        return factor * output.square().sum(1)

    expected = {n: factor * v for n, v in estimate_importance(mlp(), x).items()}
    assert_equal(estimate_importance(mlp(), x, objective=scaled), expected)


@few
@given(samples())
def test_importance_is_never_negative(x):
    assert all((v >= 0).all() for v in estimate_importance(mlp(), x).values())


# Against Avalanche's own


def _trained_with_avalanche(size):
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    data.targets = data.tensors[1].tolist()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    plugin = AvalancheMAS(lambda_reg=1.0)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=size,
        train_epochs=1,
        plugins=[plugin],
        evaluator=EvaluationPlugin(loss_metrics(epoch=True), loggers=[]),
    )
    benchmark = nc_benchmark(data, data, 1, task_labels=False, shuffle=False)
    experience = benchmark.train_stream[0]
    strategy.train(experience)
    theirs = {n: v.data for n, v in plugin.importance.items()}
    return theirs, estimate_importance(model, experience.dataset)


def test_avalanche_agrees_with_mini_batches_of_one():
    theirs, ours = _trained_with_avalanche(1)
    assert_equal(theirs, ours, 1e-4)


def test_avalanche_falls_short_with_mini_batches_of_128():
    theirs, ours = _trained_with_avalanche(128)
    ratios = {n: float(theirs[n].sum() / ours[n].sum()) for n in ours}
    assert ratios["0.weight"] < 0.75  # samples of opposite sign have cancelled
    assert ratios["0.bias"] < 0.75
    assert max(ratios.values()) <= 1


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"power": 3}, r"Expected `power` to be 1 or 2, got 3\."),
        ({"batch_size": 0}, r"Expected `batch_size` to be at least 1, got 0\."),
        ({"max_samples": 0}, r"Expected `max_samples` to be at least 1, got 0\."),
        ({"tolerance": 0.0}, r"Expected `tolerance` to be positive and finite, got 0\.0\."),
        ({"memory_budget": 0}, r"Expected `memory_budget` to be at least 1, got 0\."),
        ({"objective": "l2"}, r"Expected `objective` to be one of 'squared_l2', .* got 'l2'\."),
        ({"objective": "log_likelihood"}, r"Expected `data` to hold labels"),
        ({"objective": lambda output: output.sum()}, r"Expected `objective` to return one scalar"),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate_importance(mlp(), inputs(3), **arguments)


@pytest.mark.parametrize("data", [inputs(0), [], DataLoader(TensorDataset(inputs(0)), 2)])
def test_no_samples_are_an_error(data):
    with pytest.raises(ValueError, match=r"Expected `data` to hold at least one sample, got none"):
        estimate_importance(mlp(), data)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="Expected `data` to be a Dataset"):
        estimate_importance(mlp(), 3)
    with pytest.raises(TypeError, match="Expected each mini-batch of `data` to be a tensor"):
        estimate_importance(mlp(), ["abc"])
    with pytest.raises(TypeError, match="Expected `objective` to be a name or a callable, got int"):
        estimate_importance(mlp(), inputs(2), objective=3)
    with pytest.raises(ValueError, match="to hold as many samples, got 2, 3"):
        estimate_importance(mlp(), [({"a": inputs(2), "b": inputs(3)},)])


def _centred(self, x):
    return self.a(x - x.mean(0))


def _batch_attention(self, x):
    return self.a(torch.softmax(x @ x.t(), 1) @ x)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        zoo.Lambda(_centred, a=nn.Linear(4, 3)),
        zoo.Lambda(_batch_attention, a=nn.Linear(4, 3)),
        zoo.Lambda(lambda s, x: s.a(x).mean(0), a=nn.Linear(4, 3)),
        zoo.Lambda(lambda s, x: (s.a(x), s.a.weight), a=nn.Linear(4, 3)),
        zoo.Lambda(lambda s, x: s.a(x).flip(0), a=nn.Linear(4, 3)),
    ],
    ids=["batch-norm", "centred", "attention", "mean", "parameter-as-output", "flipped"],
)
def test_mixing_samples_is_refused(model):
    with pytest.raises(ValueError, match="Expected `model` to treat samples independently"):
        estimate_importance(model.double(), inputs(5))


def test_the_refusal_names_the_layer_and_can_be_switched_off():
    model = nn.Sequential(nn.Linear(4, 3), nn.InstanceNorm1d(3), nn.BatchNorm1d(3))
    model[2].running_mean = model[2].running_var = None
    with pytest.raises(ValueError, match=r"`2` has none\."):
        estimate_importance(model.double(), inputs(5, 3, 4))
    mixing = zoo.Lambda(_centred, a=nn.Linear(4, 3)).double()
    x = inputs(5)
    found = estimate_importance(mixing, x, check=False)
    assert_equal(found, oracles.importance(mixing, x))


def test_the_generic_path_says_so_once(caplog):
    model, x = zoo.case("written-in-place").build()
    estimate_importance(model, x, batch_size=1)
    assert [r.message for r in caplog.records] == [
        "No rule covers p: computed exactly, but slower, sample by sample."
    ]


# Known limits: the reasons are those of docs/importance.md, word for word


def _branch_on_the_whole_batch(self, x):
    return self.a(x) if len(x) < 4 else self.b(x)


@pytest.mark.xfail(strict=True, reason="A branch on the *size* of a mini-batch passes the check")
def test_limit_branch_on_the_size_of_the_mini_batch():
    model = zoo.Lambda(_branch_on_the_whole_batch, a=nn.Linear(4, 3), b=nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="independently"):
        estimate_importance(model, inputs(8))


@pytest.mark.xfail(strict=True, reason="Reentrant checkpoints (`use_reentrant=True`) refuse")
def test_limit_reentrant_checkpoint():
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.a, x.requires_grad_(), use_reentrant=True)

    model, x = zoo.Lambda(forward, a=nn.Linear(4, 3)).double(), inputs(5)
    assert_equal(
        estimate_importance(model, x), oracles.importance(model, x, run=lambda x: model.a(x))
    )


@pytest.mark.xfail(strict=True, reason="Hooks on *parameters* act on training gradients")
def test_limit_hooks_on_parameters():
    model, x = mlp(), inputs(5)
    model[0].weight.register_hook(lambda gradient: 2 * gradient)
    assert_equal(estimate_importance(model, x), oracles.importance(model, x))


@pytest.mark.xfail(strict=True, reason="An objective may read the output only")
def test_limit_objective_that_reads_parameters():
    model, x = mlp(), inputs(5)

    def decayed(output):
        return output.square().sum(1) * model[0].bias.square().sum()

    expected = oracles.importance(model, x, lambda output: decayed(output).sum())
    assert_equal(estimate_importance(model, x, objective=decayed), expected)
