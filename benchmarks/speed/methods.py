"""Every method against a plain loop: a training step, the consolidation, what is stored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from avalanche.benchmarks.scenarios import DatasetExperience
from avalanche.models import MultiTaskModule
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import methods
from benchmarks.run import experiences
from benchmarks.speed.timing import peak_bytes
from benchmarks.streams import Scenario, Split, Stream, Task
from mas_avalanche.heads import MultiHeadModel
from mas_avalanche.importance import estimate_importance
from mas_avalanche.tensor_batches import BatchDataset, TensorBatches

__all__ = ["measure_data", "measure_methods", "measure_tasks", "measure_widths"]

STRENGTH = 1e-3
BATCH_SIZE = 128
NUM_FEATURES = 784
GROWING = ("naive", "mas", "ewc", "ewc_online", "si", "lwf", "avalanche_mas", "avalanche_ewc")


class _Timed(TensorBatches, Naive):  # type: ignore[misc]
    """Finetuning on tensor batches that notes how long the end of an experience takes."""

    consolidation_seconds = 0.0

    def _after_training_exp(self, **kwargs: Any) -> None:
        begin = time.perf_counter()
        super()._after_training_exp(**kwargs)
        self.consolidation_seconds = time.perf_counter() - begin


@dataclass(frozen=True)
class _Task:
    data: BatchDataset
    label: int
    experience: DatasetExperience


def measure_methods(
    *, rounds: int = 7, num_samples: int = 5_120, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Time the second task of each method on an MLP 784-400-400-10.

    Args:
        rounds: Counted rounds; each trains every method once, in turn.
        num_samples: Samples of the second task; the first has a quarter.
        names: Methods; by default all that train task by task.

    Returns:
        For each method what :func:`_summary` gives.
    """
    names = names or [n for n in methods.names() if not methods.get(n).joint]
    tasks = _tasks([num_samples // 4, num_samples], "domain")
    return _compare(names, lambda: _mlp(400), tasks, rounds)


def measure_widths(
    *,
    widths: Sequence[int] = (100, 400, 1_000, 2_000, 4_000),
    rounds: int = 3,
    num_samples: int = 1_280,
) -> dict[str, Any]:
    """Time the second task of some methods on MLPs 784-W-W-10.

    Args:
        widths: Units W of the two hidden layers.
        rounds: Counted rounds.
        num_samples: Samples of each task.

    Returns:
        By width, for each method what :func:`_summary` gives.
    """
    tasks = _tasks([num_samples, num_samples], "domain")
    return {str(w): _compare(GROWING, partial(_mlp, w), tasks, rounds) for w in widths}


def measure_tasks(
    *, counts: Sequence[int] = (2, 5, 10, 20, 50), rounds: int = 3, num_samples: int = 1_280
) -> dict[str, Any]:
    """Time the last of several tasks on a multi-head MLP 784-400-400 with a head of 10 a task.

    Args:
        counts: Numbers of tasks.
        rounds: Counted rounds.
        num_samples: Samples of the last task; those before have a quarter.

    Returns:
        By number of tasks, for each method what :func:`_summary` gives.
    """
    found = {}
    for count in counts:
        tasks = _tasks([num_samples // 4] * (count - 1) + [num_samples], "task")
        found[str(count)] = _compare(GROWING, partial(_multi_head, count), tasks, rounds)
    return found


def measure_data(
    *, counts: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
) -> dict[str, dict[str, float | int | None]]:
    """Time the importance pass of an MLP 784-400-400-10 over more and more images of bytes.

    Args:
        counts: Numbers of samples.

    Returns:
        By number of samples: ``seconds``, ``ratio`` to a plain forward and backward pass over the
        same data, and ``peak_bytes`` beyond model and data, None where that cannot be read.
    """
    torch.manual_seed(0)
    model = _mlp(400)
    images = torch.randint(0, 256, (max(counts), NUM_FEATURES), dtype=torch.uint8)
    estimate_importance(model, torch.rand(BATCH_SIZE, NUM_FEATURES))
    found: dict[str, dict[str, float | int | None]] = {}
    for count in counts:
        data = BatchDataset(images[:count], torch.zeros(count, dtype=torch.int64), _unit)
        plain = _seconds(partial(_plain_pass, model, data))
        seconds = _seconds(partial(estimate_importance, model, data))
        peak = peak_bytes(partial(estimate_importance, model, data))
        found[str(count)] = {"seconds": seconds, "ratio": seconds / plain, "peak_bytes": peak}
    return found


def _compare(
    names: Sequence[str],
    make: Callable[[], nn.Module],
    tasks: Sequence[_Task],
    rounds: int,
) -> dict[str, Any]:
    """Train each method on all tasks, from scratch in every round, and time the last task.

    Each is compared with a plain epoch that has just been timed: the machine drifts within a round.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(1 + rounds):
        for name in names:
            plain = _plain_epoch(make(), tasks)
            timed = _last_task(name, make(), tasks)
            if turn:  # the first round warms up
                timed["training"] /= plain
                timed["consolidation"] /= plain
                found[name].append(timed)
    return {name: _summary(timed) for name, timed in found.items()}


def _summary(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Take the medians over rounds.

    ``training`` and ``consolidation`` are in plain epochs of the same data, ``stored`` in numbers a
    trainable parameter.
    """
    training = [r["training"] for r in rounds]
    return {
        "training": median(training),
        "training_range": [min(training), max(training)],
        "consolidation": median(r["consolidation"] for r in rounds),
        "stored": rounds[-1]["stored"],
        "rounds": len(rounds),
    }


def _last_task(name: str, model: nn.Module, tasks: Sequence[_Task]) -> dict[str, float]:
    method = methods.get(name)
    plugins = method.make(None if method.strength is None else STRENGTH)
    strategy = _Timed(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH_SIZE,
        plugins=plugins,
        evaluator=None,
    )
    for task in tasks[:-1]:
        strategy.train(task.experience)
    total = _seconds(lambda: strategy.train(tasks[-1].experience))
    trainable = sum(p.numel() for p in strategy.model.parameters() if p.requires_grad)
    return {
        "training": total - strategy.consolidation_seconds,
        "consolidation": strategy.consolidation_seconds,
        "stored": sum(plugin.num_stored() for plugin in plugins) / trainable,
    }


def _plain_epoch(model: nn.Module, tasks: Sequence[_Task]) -> float:
    """Time an epoch over the last task, after one over the first as methods have it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()

    def epoch(task: _Task) -> None:
        for index in torch.randperm(len(task.data)).split(BATCH_SIZE):
            optimizer.zero_grad()
            x, y = task.data.batch(index)
            output = model(x, task.label) if isinstance(model, MultiTaskModule) else model(x)
            F.cross_entropy(output, y).backward()
            optimizer.step()

    epoch(tasks[0])
    return _seconds(partial(epoch, tasks[-1]))


def _plain_pass(model: nn.Module, data: BatchDataset) -> None:
    for index in torch.arange(len(data)).split(BATCH_SIZE):
        model.zero_grad()
        model(data.batch(index)[0]).square().sum().backward()
    model.zero_grad()


def _tasks(sizes: Sequence[int], scenario: Scenario) -> list[_Task]:
    """Make tasks of random numbers: what they hold does not matter here."""
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for position, size in enumerate(sizes):
        x = torch.rand(size, NUM_FEATURES, generator=generator)
        split = Split(x, torch.arange(size) % 10)
        tasks.append(Task(str(position), 10, split, split, split, nn.Identity()))
    stream = Stream("random", scenario, tuple(tasks), (NUM_FEATURES,), "random numbers")
    return [
        _Task(BatchDataset(task.train.x, task.train.y), experience.task_label, experience)
        for task, experience in zip(tasks, experiences(stream), strict=True)
    ]


def _mlp(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


def _multi_head(num_tasks: int) -> nn.Module:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(NUM_FEATURES, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU())
    return MultiHeadModel(trunk, 400, [10] * num_tasks)


def _unit(x: Tensor) -> Tensor:
    return x.float().div_(255)


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
