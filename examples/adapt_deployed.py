"""A deployed model re-weighs what matters from the unlabelled inputs that it meets.

A network learns to tell the digits 0 to 4 apart and is deployed where it meets threes alone. Nobody
labels them. Before it learns the digits 5 to 9 it may measure importance anew on what it has met,
so that only what reading threes needs is held, and the rest is free for the new task (the
adaptation experiment of Aljundi et al., 2018, section 5, on scikit-learn's digits).

Run it with ``python examples/adapt_deployed.py``; it takes a few seconds and no download.
"""

from dataclasses import dataclass

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mas_avalanche import MAS
from mas_avalanche.heads import MultiHeadModel

MET = 3
STRENGTH = 1.0
SEEDS = range(3)


@dataclass(frozen=True)
class Outcome:
    """Test accuracies after both tasks, each in 0..1."""

    met: float
    first_task: float
    second_task: float


def main() -> dict[str, Outcome]:
    """Compare importance from the training data with importance from the data met in use."""
    outcomes = {}
    for title, adapt in (("importance from training", False), ("importance from use", True)):
        runs = [run(adapt=adapt, seed=seed) for seed in SEEDS]
        outcomes[title] = Outcome(
            met=sum(r.met for r in runs) / len(runs),
            first_task=sum(r.first_task for r in runs) / len(runs),
            second_task=sum(r.second_task for r in runs) / len(runs),
        )
    print(f"{'accuracy after both tasks':28} {'threes':>8} {'0 to 4':>8} {'5 to 9':>8}")
    for title, o in outcomes.items():
        print(f"{title:28} {o.met:8.1%} {o.first_task:8.1%} {o.second_task:8.1%}")
    return outcomes


def run(*, adapt: bool, seed: int) -> Outcome:
    """Learn the first task, meet threes, perhaps adapt, learn the second task."""
    torch.manual_seed(seed)
    x, y = digits()
    train, test = torch.arange(len(y)) % 4 != 0, torch.arange(len(y)) % 4 == 0
    stream = nc_benchmark(
        TensorDataset(x[train], y[train]),
        TensorDataset(x[test], y[test]),
        n_experiences=2,
        task_labels=True,
        fixed_class_order=list(range(10)),
        class_ids_from_zero_in_each_exp=True,
    )
    model = MultiHeadModel(nn.Sequential(nn.Linear(64, 24), nn.ReLU()), 24, [5, 5])
    strategy = MAS(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        lambda_reg=STRENGTH,
        mode="proximal",
        train_mb_size=32,
        train_epochs=10,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    strategy.train(stream.train_stream[0])
    if adapt:
        met_in_use = x[train][y[train] == MET]
        strategy.mas.update_importance(model, met_in_use, task_label=0, how="replace")
    strategy.train(stream.train_stream[1])
    model.eval()
    return Outcome(
        met=accuracy(model, x[test], y[test], [MET], task=0),
        first_task=accuracy(model, x[test], y[test], range(5), task=0),
        second_task=accuracy(model, x[test], y[test], range(5, 10), task=1),
    )


def digits() -> tuple[Tensor, Tensor]:
    """Load scikit-learn's 1,797 handwritten digits, 64 pixels each, in 0..1."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, classes: object, task: int) -> float:
    """Measure the accuracy on some classes, through the head of their task."""
    chosen = torch.isin(y, torch.tensor(list(classes)))
    predicted = model(x[chosen], task).argmax(1) + 5 * task
    return float((predicted == y[chosen]).float().mean())


if __name__ == "__main__":
    main()
