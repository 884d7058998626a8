"""Small continual-learning problems, and one way to train on them with Avalanche."""

import copy

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import MultiTaskModule
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.utils.data import TensorDataset

NUM_FEATURES, NUM_CLASSES, NUM_TASKS = 6, 3, 3


def experiences(*, task_labels=False, num_samples=22, dtype=torch.float64, seed=0):
    """Three tasks of three classes, in which the same labels mean different inputs."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(NUM_TASKS):
        centres = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=generator, dtype=dtype)
        y = torch.arange(num_samples) % NUM_CLASSES
        noise = torch.randn(num_samples, NUM_FEATURES, generator=generator, dtype=dtype)
        data.append(TensorDataset(centres[y] + 0.7 * noise, y))
    benchmark = nc_benchmark(
        data,
        data,
        n_experiences=NUM_TASKS,
        task_labels=task_labels,
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        one_dataset_per_exp=True,
    )
    return list(benchmark.train_stream)


def class_incremental_experiences(*, num_samples=30, dtype=torch.float64, seed=0):
    """Three tasks of two new classes each, for a single head."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(num_samples) % 6
    x = torch.randn(6, NUM_FEATURES, generator=generator, dtype=dtype)[y]
    x = x + 0.5 * torch.randn(num_samples, NUM_FEATURES, generator=generator, dtype=dtype)
    data = TensorDataset(x, y)
    benchmark = nc_benchmark(data, data, n_experiences=3, task_labels=False, shuffle=False)
    return list(benchmark.train_stream)


def tensors(experience):
    """Inputs and labels of an experience in the order of its data set."""
    items = list(experience.dataset)
    return torch.stack([item[0] for item in items]), torch.tensor([int(i[1]) for i in items])


def single_head(*, dropout=0.0, dtype=torch.float64, num_classes=NUM_CLASSES, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, num_classes)
    ).to(dtype)


class HeadedNet(MultiTaskModule):
    """A trunk and a head a task, all there from the start."""

    def __init__(self, dropout=0.0, dtype=torch.float64, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Dropout(dropout))
        self.heads = nn.ModuleList(nn.Linear(8, NUM_CLASSES) for _ in range(NUM_TASKS))
        self.to(dtype)

    def forward(self, x, task_labels):
        (label,) = {int(label) for label in torch.as_tensor(task_labels).reshape(-1)}
        return self.forward_single_task(x, label)

    def forward_single_task(self, x, task_label):
        return self.heads[task_label](self.trunk(x))


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.8, weight_decay=1e-3)


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=1e-2)


def train(
    model, stream, plugins=(), *, optimizer=sgd, epochs=2, batch_size=5, strategy=Naive, **kwargs
):
    """Train on the experiences in turn, samples in order; give the strategy back."""
    learner = strategy(
        model=model,
        optimizer=optimizer(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]),
        **kwargs,
    )
    for experience in stream:
        learner.train(experience, shuffle=False)
    return learner


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one, other, *, tolerance=0.0):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def largest_difference(one, other):
    one, other = weights(one), weights(other)
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def copies(model, number):
    return [copy.deepcopy(model) for _ in range(number)]
