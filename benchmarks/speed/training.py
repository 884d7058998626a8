"""Training through Avalanche against a plain loop over tensors: the same work in one run."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.timing import interleaved
from mas_avalanche.tensor_batches import BatchDataset, TensorBatches

__all__ = ["measure_training"]


class TensorNaive(TensorBatches, Naive):  # type: ignore[misc]
    """Avalanche's finetuning on mini-batches cut from tensors."""


def measure_training(*, rounds: int = 7) -> dict[str, Any]:
    """Time one epoch of training and one evaluation pass, by three ways to feed the data.

    Args:
        rounds: Counted rounds.

    Returns:
        For each workload, the table of :func:`benchmarks.speed.timing.interleaved` over
        ``"plain loop"``, ``"Avalanche, tensor batches"`` and ``"Avalanche"``.
    """
    return {name: _measure(*workload, rounds=rounds) for name, workload in _workloads().items()}


def _workloads() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]]:
    """Name: model factory, shape of a sample, samples, mini-batch size."""
    return {
        "MLP 784-400-400-10, batch 128": (_mlp, (784,), 10_000, 128),
        "CNN on 3x32x32, batch 128": (_cnn, (3, 32, 32), 1_280, 128),
        "AlexNet on 3x224x224, batch 32": (_alexnet, (3, 224, 224), 64, 32),
    }


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def _alexnet() -> nn.Module:
    model: nn.Module = torchvision.models.alexnet(num_classes=10)
    return model


def _measure(
    factory: Callable[[], nn.Module],
    shape: tuple[int, ...],
    num_samples: int,
    batch_size: int,
    *,
    rounds: int,
) -> dict[str, Any]:
    torch.manual_seed(0)
    data = BatchDataset(torch.rand(num_samples, *shape), torch.randint(0, 10, (num_samples,)))
    dataset = as_classification_dataset(data)
    experience = benchmark_from_datasets(train=[dataset]).train_stream[0]

    def plain() -> Callable[[], object]:
        model = factory()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        return lambda: _plain_loop(model, optimizer, data, batch_size)

    def avalanche(strategy_class: type[Any]) -> Callable[[], object]:
        model = factory()
        strategy = strategy_class(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
            train_mb_size=batch_size,
            eval_mb_size=batch_size,
            evaluator=None,
        )

        def work() -> None:
            strategy.train(experience)
            strategy.eval(experience)

        return work

    return interleaved(
        {
            "plain loop": plain(),
            "Avalanche, tensor batches": avalanche(TensorNaive),
            "Avalanche": avalanche(Naive),
        },
        reference="plain loop",
        rounds=rounds,
    )


def _plain_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: BatchDataset, batch_size: int
) -> Tensor:
    model.train()
    for index in torch.randperm(len(data)).split(batch_size):
        x, y = data.batch(index)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    correct = torch.zeros((), dtype=torch.int64)
    with torch.no_grad():
        for index in torch.arange(len(data)).split(batch_size):
            x, y = data.batch(index)
            correct += (model(x).argmax(1) == y).sum()
    return correct
