import pickle

import pytest
import torch
from avalanche.models import IncrementalClassifier, MTSimpleMLP
from torch import nn

from mas_avalanche.baselines import LwFPlugin
from mas_avalanche.baselines.lwf import distillation_loss
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


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("multi_head", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_weights_equal_those_of_plain_pytorch(optimizer, multi_head, temperature):
    model = HeadedNet() if multi_head else single_head()
    assert_equals_plain(model, experiences(task_labels=multi_head), optimizer, temperature)


def test_weights_equal_those_of_plain_pytorch_with_new_classes():
    assert_equals_plain(single_head(num_classes=6), class_incremental_experiences(), sgd, 2.0)


def assert_equals_plain(model, stream, optimizer, temperature):
    ours, theirs = copies(model, 2)
    multi_head = isinstance(model, HeadedNet)
    train(ours, stream, [LwFPlugin(1.5, temperature)], optimizer=optimizer)
    plain.lwf(
        theirs,
        [tensors(e) for e in stream],
        1.5,
        optimizer(theirs.parameters()),
        epochs=2,
        batch_size=5,
        temperature=temperature,
        multi_head=multi_head,
    )
    assert_same_weights(ours, theirs, tolerance=1e-8)


def test_the_teacher_is_in_evaluation_mode_while_the_student_normalises_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    ours, theirs = copies(model, 2)
    stream = experiences()
    train(ours, stream, [LwFPlugin(1.5)])
    plain.lwf(
        SharedPass(theirs),
        [tensors(e) for e in stream],
        1.5,
        sgd(theirs.parameters()),
        epochs=2,
        batch_size=5,
    )
    assert_same_weights(ours, theirs, tolerance=1e-8)


class SharedPass(nn.Module):
    """Answers the same mini-batch with the same pass, so that statistics move once a step."""

    def __init__(self, model):
        super().__init__()
        self.model, self.last = model, (None, None)

    def __deepcopy__(self, memo):
        return copies(self.model, 1)[0]

    def forward(self, x):
        if self.last[0] is not x:
            self.last = x, self.model(x)
        return self.last[1]


def test_old_heads_share_the_pass_through_the_trunk():
    passes = []
    torch.manual_seed(0)
    model = MTSimpleMLP(input_size=NUM_FEATURES, hidden_size=8)
    plugin = LwFPlugin(1.0)
    stream = experiences(task_labels=True, dtype=torch.float32, num_samples=15)
    learner = train(model, stream[:2], [plugin], epochs=1)
    model.features.register_forward_hook(lambda *_: passes.append("student"))
    plugin.teacher.features.register_forward_hook(lambda *_: passes.append("teacher"))
    learner.train(stream[2], shuffle=False)
    assert passes == ["student", "teacher"] * 3
    assert plugin.value > 0


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_strength_zero_is_naive_to_the_bit(optimizer):
    naive, ours = copies(HeadedNet(dropout=0.3, dtype=torch.float32), 2)
    stream = experiences(task_labels=True, dtype=torch.float32)
    torch.manual_seed(1)
    train(naive, stream, optimizer=optimizer)
    torch.manual_seed(1)
    train(ours, stream, [LwFPlugin(0.0)], optimizer=optimizer)
    assert_same_weights(naive, ours)


def test_it_draws_no_random_numbers_of_its_own():
    ends = []
    for plugins in ([], [LwFPlugin(1.0)]):
        torch.manual_seed(1)
        model = MTSimpleMLP(input_size=NUM_FEATURES, hidden_size=8)  # has dropout
        train(model, experiences(task_labels=True, dtype=torch.float32), plugins)
        ends.append(torch.get_rng_state())
    assert torch.equal(*ends)


def test_units_of_new_classes_are_left_out():
    plugin = LwFPlugin(1.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(NUM_FEATURES, 8), IncrementalClassifier(8, masking=False))
    stream = class_incremental_experiences(dtype=torch.float32)
    learner = train(model, stream[:1], [plugin])
    seen = [set(plugin.seen[0])]
    for experience in stream[1:]:
        learner.train(experience)
        seen.append(set(plugin.seen[0]))
    assert [len(classes) for classes in seen] == [2, 4, 6]
    assert seen[0] == set(stream[0].classes_in_this_experience)

    plugin.seen = {0: [0, 2]}
    answer, target = torch.randn(4, 6), torch.randn(4, 6)
    changed = answer.clone()
    changed[:, [1, 3, 4, 5]] += torch.randn(4, 4)
    losses = [plugin._sum_over_heads({0: a}, {0: target}) for a in (answer, changed)]
    assert losses[0] == losses[1] > 0


def test_the_loss_is_zero_at_the_teacher_and_its_gradient_keeps_its_size():
    teacher = torch.randn(5, 4, dtype=torch.float64)
    assert distillation_loss(teacher, teacher) == 0
    start = teacher + 0.1 * torch.randn(5, 4, dtype=torch.float64)
    sizes = []
    for temperature in (20.0, 200.0):
        student = start.clone().requires_grad_()
        distillation_loss(student, teacher, temperature).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_warm_up_trains_the_new_head_alone():
    plugin = LwFPlugin(1.0, warmup_epochs=1)
    torch.manual_seed(0)
    model = MTSimpleMLP(input_size=NUM_FEATURES, hidden_size=8)
    stream = experiences(task_labels=True, dtype=torch.float32)
    learner = train(model, stream[:1], [plugin])
    first, states = weights(model), []
    learner.plugins.append(AfterEachEpoch(lambda: states.append(weights(model))))
    learner.train(stream[1], shuffle=False)
    warm, end = states
    assert all(torch.equal(value, warm[name]) for name, value in first.items())
    assert not torch.equal(first["features.0.weight"], end["features.0.weight"])
    head = "classifier.classifiers.1.classifier.weight"
    assert not torch.equal(warm[head], end[head])
    assert all(p.requires_grad for p in model.parameters())


class AfterEachEpoch:
    def __init__(self, call):
        self.call = call

    def after_training_epoch(self, strategy, **kwargs):
        self.call()


def test_a_warm_up_as_long_as_the_training_is_refused():
    stream = experiences(task_labels=True)
    with pytest.raises(ValueError, match=r"`warmup_epochs` to be smaller .* \(2\), got 2"):
        train(HeadedNet(), stream, [LwFPlugin(1.0, warmup_epochs=2)], epochs=2)


def test_without_new_parameters_there_is_no_warm_up():
    one, other = copies(single_head(), 2)
    train(one, experiences(), [LwFPlugin(1.0)])
    train(other, experiences(), [LwFPlugin(1.0, warmup_epochs=1)])
    assert_same_weights(one, other)


def test_it_holds_weights_back():
    naive, ours = copies(single_head(), 2)
    train(naive, experiences())
    train(ours, experiences(), [LwFPlugin(2.0)])
    assert largest_difference(naive, ours) > 1e-2


def test_the_teacher_is_counted():
    model, plugin = single_head(), LwFPlugin(1.0)
    assert plugin.num_stored() == 0
    train(model, experiences(), [plugin])
    assert plugin.num_stored() == sum(p.numel() for p in model.parameters())
    assert not plugin.teacher.training
    assert not any(p.requires_grad for p in plugin.teacher.parameters())


def test_a_copy_from_a_pickle_goes_on_the_same():
    model, plugin = HeadedNet(), LwFPlugin(1.0)
    stream = experiences(task_labels=True)
    train(model, stream[:1], [plugin])
    one, two = copies(model, 2)
    again = pickle.loads(pickle.dumps(plugin))
    train(one, stream[1:], [plugin])
    train(two, stream[1:], [again])
    assert_same_weights(one, two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "`alpha` to be finite and not negative, got -1.0"),
        ({"alpha": float("nan")}, "`alpha` to be finite and not negative, got nan"),
        ({"temperature": 0.0}, "`temperature` to be finite and positive, got 0.0"),
        ({"warmup_epochs": -1}, "`warmup_epochs` to be 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LwFPlugin(**arguments)
