"""Run by tox in an environment that holds the built wheel alone: is it whole, and does it work?"""

import sys
from importlib.metadata import distribution
from pathlib import Path

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import SimpleMLP
from torch.utils.data import TensorDataset

import mas_avalanche


def main() -> None:
    """End with a sentence and a code other than 0 where something is wrong."""
    home = Path(mas_avalanche.__file__).parent
    if "site-packages" not in home.parts:
        sys.exit(f"Expected the installed package, got the one in {home}.")
    files = {str(f) for f in distribution("mas-avalanche").files or []}
    if "mas_avalanche/py.typed" not in files:
        sys.exit("The wheel lacks py.typed: users' type checkers would ignore the annotations.")
    foreign = {f.split("/")[0] for f in files if not f.startswith(("mas_avalanche", ".."))}
    if foreign:
        sys.exit(f"The wheel would install {sorted(foreign)} on users' machines.")
    missing = [name for name in mas_avalanche.__all__ if not hasattr(mas_avalanche, name)]
    if missing:
        sys.exit(f"mas_avalanche.__all__ names what is not there: {missing}.")

    data = TensorDataset(torch.randn(40, 6), torch.arange(40) % 4)
    data.targets = data.tensors[1].tolist()
    stream = nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False)
    model = SimpleMLP(num_classes=4, input_size=6, hidden_size=8)
    strategy = mas_avalanche.MAS(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=torch.nn.CrossEntropyLoss(),
        evaluator=None,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    plugin = next(p for p in strategy.plugins if isinstance(p, mas_avalanche.MASPlugin))
    if not sum(float(omega.sum()) for omega in plugin.importance.values()) > 0:
        sys.exit("MAS trained two experiences and found nothing important.")
    print("wheel: whole and working")


if __name__ == "__main__":
    main()
