import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import methods, models, streams
from benchmarks.methods import Method
from benchmarks.methods._shipped import count_numbers
from benchmarks.run import derive_seed, execute
from mas_avalanche.baselines import EWCPlugin
from mas_avalanche.heads import MultiHeadModel
from tests.benchmarks.studies import smoke_config
from tests.continual import (
    NUM_FEATURES,
    adam,
    assert_same_weights,
    copies,
    experiences,
    largest_difference,
    plain_sgd,
    sgd,
    single_head,
    tensors,
    train,
)
from tests.mas_avalanche.baselines import plain
from tests.plain_methods import BATCH, EPOCHS, PLAIN, shipped_si

ALL = [
    "avalanche_ewc",
    "avalanche_lwf",
    "avalanche_mas",
    "avalanche_si",
    "ewc",
    "ewc_online",
    "joint",
    "lwf",
    "mas",
    "mas_batch_gradient",
    "mas_local",
    "mas_proximal",
    "mas_sampled",
    "mas_vector",
    "naive",
    "si",
]


def test_the_files_are_the_registry():
    assert list(methods.names()) == ALL


@pytest.mark.parametrize("name", methods.names())
def test_each_file_defines_a_method_of_its_name(name):
    method = methods.get(name)
    assert method.name == name
    assert method.title
    strength = method.default_grid[0] if method.strength else None
    plugins = method.make(strength)
    pickle.loads(pickle.dumps(plugins))
    if method.strength:
        assert plugins
        assert len(method.default_grid) == 7
        assert method.paper
        first, second = method.make(strength), method.make(strength)
        assert first[0] is not second[0]
    else:
        assert plugins == []


def test_only_joint_trains_on_the_union_of_tasks():
    assert [name for name in methods.names() if methods.get(name).joint] == ["joint"]


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(
        ValueError, match=r"got 'mass'\. Did you mean `mas`\? Allowed: .*ewc.*naive"
    ):
        methods.get("mass")


def test_options_are_passed_on_and_unknown_ones_refused():
    method = methods.get("ewc")
    assert method.options() == ("mode", "decay_factor")
    (plugin,) = method.make(2.0, mode="online", decay_factor=0.5)
    assert isinstance(plugin, EWCPlugin)
    assert (plugin.ewc_lambda, plugin.mode, plugin.decay_factor) == (2.0, "online", 0.5)
    with pytest.raises(ValueError, match=r"got 'modes'\. Did you mean `mode`\? Allowed: dec"):
        method.make(2.0, modes="online")


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("naive", 1.0, "no strength for method 'naive', got 1.0"),
        ("si", None, r"strength of method 'si' \(c\) to be finite and not negative, got None"),
        ("si", -1.0, r"to be finite and not negative, got -1.0"),
        ("si", float("inf"), r"to be finite and not negative, got inf"),
    ],
)
def test_a_wrong_strength_is_refused(name, strength, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name).make(strength)


def test_a_grid_must_fall_and_go_with_a_strength():
    with pytest.raises(ValueError, match="to fall strictly, strongest first"):
        Method("m", "M", "λ", (1.0, 3.0), list)
    with pytest.raises(ValueError, match="exactly where there is a strength"):
        Method("m", "M", None, (1.0,), list)


def test_a_plugin_that_does_not_count_what_it_stores_is_refused():
    with pytest.raises(TypeError, match=r"method 'm' to have `num_stored\(\)`, got object without"):
        Method("m", "M", None, (), lambda strength: [object()]).make(None)


def multi_head_model():
    torch.manual_seed(0)
    return MultiHeadModel(nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.ReLU()), 8, [3, 3, 3])


@pytest.fixture(scope="module")
def naive():
    model = multi_head_model()
    train(model, experiences(task_labels=True, dtype=torch.float32), optimizer=plain_sgd)
    return model


@pytest.mark.parametrize("name", [name for name in ALL if methods.get(name).strength])
def test_each_tuned_method_acts_and_counts_what_it_stores(name, naive):
    model, plugins = multi_head_model(), methods.get(name).make(0.5)
    stream = experiences(task_labels=True, dtype=torch.float32)
    train(model, stream, plugins, optimizer=plain_sgd)
    # Avalanche's own SI looks at the live weights in place of its copies on the CPU.
    assert (largest_difference(model, naive) == 0) == (name == "avalanche_si")
    size = sum(p.numel() for p in model.parameters())
    (plugin,) = plugins
    copies = {"avalanche_ewc": 6, "avalanche_si": 5, "lwf": 1, "avalanche_lwf": 1}.get(name, 2)
    kept = count_numbers(plugin, beside=model)
    assert 0 < kept <= copies * size + 4  # a few single numbers
    assert kept - 4 <= plugin.num_stored() <= kept


def test_numbers_are_counted_once_and_without_the_model_s():
    model, kept = nn.Linear(3, 2), torch.zeros(4, 5)
    holder = {"a": [kept, kept[1:]], "live": model.weight.detach().flatten(), "n": 3, "s": "text"}
    holder["itself"] = holder
    assert count_numbers(holder, beside=model) == 20
    assert count_numbers(nn.BatchNorm1d(7), beside=model) == 4 * 7 + 1


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("name", PLAIN)
def test_each_method_trains_to_the_weights_of_plain_pytorch(name, optimizer):
    strength = {"ewc": 30.0, "ewc_online": 30.0, "avalanche_ewc": 100.0}.get(name, 0.5)
    # Avalanche's plugins keep single precision, whatever the model has.
    shipped = name.startswith("avalanche")
    dtype = torch.float32 if shipped else torch.float64
    ours, theirs, unprotected = copies(single_head(dtype=dtype), 3)
    stream = experiences(dtype=dtype)
    tasks = [tensors(experience) for experience in stream]
    tuned = methods.get(name).strength is not None
    train(ours, stream, methods.get(name).make(strength if tuned else None), optimizer=optimizer)
    PLAIN[name](theirs, tasks, optimizer, strength)
    assert_same_weights(ours, theirs, tolerance=1e-5 if shipped else 1e-8)
    PLAIN["naive"](unprotected, tasks, optimizer, None)
    acts = name not in ("naive", "avalanche_si")
    assert (largest_difference(ours, unprotected) > 1e-3) == acts


def test_si_trains_to_the_weights_of_plain_pytorch_where_it_cuts_at_zero():
    def rough(parameters):
        return torch.optim.SGD(parameters, lr=0.5, momentum=0.9)

    ours, theirs, stream = single_head(), single_head(), experiences()
    tasks = [tensors(experience) for experience in stream]
    train(ours, stream, methods.get("si").make(0.1), optimizer=rough)
    _, num_cut = plain.si(
        theirs, tasks, 0.1, rough(theirs.parameters()), epochs=EPOCHS, batch_size=BATCH
    )
    assert num_cut > 0
    assert_same_weights(ours, theirs, tolerance=1e-8)


def test_avalanche_s_si_is_plain_pytorch_that_protects_kernels_with_channels_last():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (2, 1, 3)),
        nn.Conv2d(2, 4, (1, 2)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)
    assert not model[1].weight.is_contiguous()
    ours, theirs, unprotected = copies(model, 3)
    stream = experiences(dtype=torch.float32)
    tasks = [tensors(experience) for experience in stream]
    train(ours, stream, methods.get("avalanche_si").make(1000.0))
    shipped_si(theirs, tasks, sgd, 1000.0)
    assert_same_weights(ours, theirs, tolerance=1e-5)
    PLAIN["naive"](unprotected, tasks, sgd, None)
    assert largest_difference(ours, unprotected) > 1e-3


def test_joint_training_is_a_loop_over_the_shuffled_union():
    """In plain PyTorch: as many passes over each task's data, mini-batches of one task each."""
    config = smoke_config("joint")
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=2))
    stream = streams.build("split_digits", config.seed)
    torch.manual_seed(derive_seed(config.seed, "initialisation"))
    model = models.build("mlp", stream, config.model_options)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.training.learning_rate)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", 0))
    losses = []
    for _ in range(2):
        batches = []
        for label, task in enumerate(stream.tasks):
            order = torch.randperm(len(task.train), generator=generator)
            batches += [(label, task, chosen) for chosen in order.split(64)]
        of_epoch = []
        for i in torch.randperm(len(batches), generator=generator).tolist():
            label, task, chosen = batches[i]
            output = model(task.transform(task.train.x[chosen]), label)
            loss = F.cross_entropy(output, task.train.y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            of_epoch.append(loss.item())
        losses.append(sum(of_epoch) / len(of_epoch))
    record = execute(config)
    assert [row["task_loss"] for row in record.history] == pytest.approx(losses, rel=1e-5)
    right = [
        (model(task.transform(task.test.x), label).argmax(1) == task.test.y).float().mean().item()
        for label, task in enumerate(stream.tasks)
    ]
    assert record.accuracy["test"][0] == pytest.approx(right, abs=1e-3)
