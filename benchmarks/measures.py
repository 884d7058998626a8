"""What a run measures beside accuracy, where its study asks for it.

- ``overlap``: whether tasks find the same parameters important.
- ``probes``: what a linear classifier still finds in the frozen features of each task. A network
  forgets in two ways: its features lose what told the classes of a task apart, or they keep it and
  the output layer no longer fits them. A probe that is fitted anew sees only the first.
- the subset: what is kept of the classes of the first task that stay in use, and of the others.

Nothing here changes the network or draws from the random state of the run. State lies in plain
dictionaries, lists and tensors, so that it can be kept with that of an interrupted run.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.models import MultiTaskModule
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn

from benchmarks.models import evaluation_mode
from benchmarks.record import Overlap, Probes, SubsetAccuracy
from mas_avalanche.inspect import importance_correlation

__all__ = ["Measures", "features", "importance_overlap", "layers_of", "probe_accuracy"]

SAMPLED = 20_000
"""Parameters of a layer between which the overlap is measured; a correlation is then known to less
than 0.01."""

Batches = Callable[[str, int], Iterable[tuple[Tensor, Tensor]]]


class Measures:
    """The measurements of one run, task by task.

    Args:
        wanted: Names of the measurements: "overlap", "probes".
        subset: Classes of the first task that stay in use; empty where there is none.
        batches: ``batches(split, position)`` gives the mini-batches (inputs, labels) of a task.
        split: The split that the run is measured on.
        num_tasks: Tasks of the stream.

    Attributes:
        state: All that has been measured, as plain data and tensors.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        subset: Sequence[int],
        batches: Batches,
        split: str,
        num_tasks: int,
    ) -> None:
        self.wanted = tuple(wanted)
        self.classes = tuple(subset)
        self.batches = batches
        self.split = split
        self.num_tasks = num_tasks
        self.state: dict[str, Any] = {
            "initial": [],
            "learned": [],
            "final": [],
            "held": [],
            "in_use": [],
            "others": [],
            "sizes": [0, 0],
        }

    def before(self, model: nn.Module) -> None:
        """Measure the untrained network.

        Args:
            model: Left as it is.
        """
        if "probes" in self.wanted:
            self.state["initial"] = self._probe(model, range(self.num_tasks))

    def after(
        self,
        model: nn.Module,
        importance: Mapping[str, Tensor] | None,
        learned: Sequence[int],
    ) -> None:
        """Measure the network after a task.

        Args:
            model: Left as it is.
            importance: What the method holds; None where it holds none.
            learned: Positions of the tasks that have just been learned, the last one of the stream
                among them at the end.
        """
        if "probes" in self.wanted:
            self.state["learned"] += self._probe(model, learned)
            if self.num_tasks - 1 in learned:
                early = self._probe(model, range(learned[0]))
                self.state["final"] = early + self.state["learned"][learned[0] :]
        if "overlap" in self.wanted and importance:
            self.state["held"].append(layers_of(importance, SAMPLED))
        if self.classes:
            self._count_subset(model)

    def _probe(self, model: nn.Module, positions: Iterable[int]) -> list[float]:
        found = []
        for position in positions:
            train = self._features(model, "train", position)
            found.append(probe_accuracy(*train, *self._features(model, self.split, position)))
        return found

    def _features(
        self, model: nn.Module, split: str, position: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        pairs = [(features(model, x, position), y) for x, y in self.batches(split, position)]
        x = torch.cat([x for x, _ in pairs]).double().cpu().numpy()
        return x, torch.cat([y for _, y in pairs]).cpu().numpy()

    def _count_subset(self, model: nn.Module) -> None:
        kept = torch.tensor(self.classes)
        right, sizes = [0, 0], [0, 0]
        for x, y in self.batches(self.split, 0):
            hits = (_run(model, x, 0).argmax(dim=1) == y).cpu()
            inside = torch.isin(y.cpu(), kept)
            for i, chosen in enumerate((inside, ~inside)):
                right[i] += int(hits[chosen].sum())
                sizes[i] += int(chosen.sum())
        for name, number, size in zip(("in_use", "others"), right, sizes, strict=True):
            self.state[name].append(number / size if size else 0.0)
        self.state["sizes"] = sizes

    def findings(self) -> dict[str, Any]:
        """Return what the record takes over; what is not complete is left out."""
        state = self.state
        found: dict[str, Any] = {}
        if len(state["final"]) == self.num_tasks:
            found["probes"] = Probes(
                *(tuple(state[name]) for name in ("initial", "learned", "final"))
            )
        if len(state["held"]) == self.num_tasks > 1:
            found["overlap"] = importance_overlap(state["held"])
        if state["in_use"]:
            in_use, others = state["sizes"]
            found["subset"] = SubsetAccuracy(
                self.classes, in_use, others, tuple(state["in_use"]), tuple(state["others"])
            )
        return found


def features(model: nn.Module, x: Tensor, task_label: int) -> Tensor:
    """Compute what goes into the last linear layer.

    Args:
        model: Ends in a linear layer, or in one a task.
        x: Inputs of shape (N, ...).
        task_label: The task, for a model with an output layer a task.

    Returns:
        Features of shape (N, F), without gradient.

    Raises:
        ValueError: If the model has no linear layer.
    """
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = [inputs[0].detach()]

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        _run(model, x, task_label)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(
            "Expected `model` to run through a linear layer, got none. Probes read its input."
        )
    return seen[0]


@torch.no_grad()
def _run(model: nn.Module, x: Tensor, task_label: int) -> Tensor:
    with evaluation_mode(model):
        output: Tensor = model(x, task_label) if isinstance(model, MultiTaskModule) else model(x)
    return output


def probe_accuracy(
    train_x: NDArray[np.float64],
    train_y: NDArray[np.int64],
    test_x: NDArray[np.float64],
    test_y: NDArray[np.int64],
) -> float:
    """Fit a logistic regression on features and measure it on others.

    Features are standardised by the training ones; the regression is scikit-learn's with its
    default L2 penalty (C = 1), the same for every task and method.

    Args:
        train_x: Features of shape (N, F).
        train_y: Labels of shape (N,).
        test_x: Features of shape (M, F).
        test_y: Labels of shape (M,).

    Returns:
        Accuracy in 0..1.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> probe_accuracy(x, y, x, y)
        1.0
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    with threadpool_limits(torch.get_num_threads()):
        return float(probe.fit(train_x, train_y).score(test_x, test_y))


def layers_of(importance: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """Join the importance of each layer's weight and bias, and draw at most so many entries.

    Args:
        importance: By parameter name.
        most: Entries a layer; the same ones are drawn from layers of one size each time.

    Returns:
        By layer, of shape (at most ``most``,), in float64 on the CPU.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, value in importance.items():
        layers.setdefault(name.rpartition(".")[0] or name, []).append(value.detach().flatten())
    drawn = {}
    for name, values in layers.items():
        joined = torch.cat(values).double().cpu()
        if len(joined) > most:
            order = torch.randperm(len(joined), generator=torch.Generator().manual_seed(0))
            joined = joined[order[:most]]
        drawn[name] = joined
    return drawn


def importance_overlap(held: Sequence[Mapping[str, Tensor]]) -> tuple[Overlap, ...]:
    """Correlate what each task added to an importance that is summed over tasks.

    Args:
        held: What was held after each task, by layer; of the same parameters each time.

    Returns:
        Correlations to three digits, for the layers to which every task has added something.
    """
    own = [_increase(held[i - 1] if i else {}, now) for i, now in enumerate(held)]
    shared = [
        name
        for name in own[0]
        if all(name in o and o[name].shape == own[0][name].shape for o in own)
        and all(bool(o[name].any()) for o in own)
    ]
    rows: dict[str, list[list[float | None]]] = {n: [[1.0] * len(own) for _ in own] for n in shared}
    for i, first in enumerate(own):
        for j, second in enumerate(own[:i]):
            for name in shared:
                pair = ({name: first[name]}, {name: second[name]})
                value = importance_correlation(*pair)[name]
                rows[name][i][j] = rows[name][j][i] = (
                    round(value, 3) if math.isfinite(value) else None
                )
    return tuple(
        Overlap(name, len(own[0][name]), tuple(map(tuple, matrix))) for name, matrix in rows.items()
    )


def _increase(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Sums are kept in single precision, so a difference can fall just below zero.
    return {
        name: (value - before[name]).clamp(min=0) if name in before else value
        for name, value in now.items()
        if name not in before or before[name].shape == value.shape
    }
