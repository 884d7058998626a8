r"""What is differentiated: the numbers that each sample's output is reduced to.

Memory Aware Synapses measures how far the learned function moves. With one scalar a sample, the
squared :math:`\ell_2` norm of the output, this takes one backward pass (Aljundi et al., 2018,
section 4.1); with the outputs one by one it takes as many as there are outputs. The log-likelihood
of the labels, its gradient squared, gives the empirical Fisher information of EWC instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Objective", "floating_tensors", "resolve"]

_MASKS = (-1000.0,)  # what Avalanche's growing heads write into units that are not in use


@dataclass(frozen=True)
class Objective:
    """Numbers to differentiate, for each sample.

    Args:
        name: As the user gave it.
        values: Maps output and labels to tensors that hold each sample's part at its place in a
            dimension of samples.
        sums: Maps output and labels to the objectives summed over samples, of shape (objectives,).
        reads_labels: Whether labels are needed.
    """

    name: str
    values: Callable[[Any, Tensor | None], list[Tensor]]
    sums: Callable[[Any, Tensor | None], Tensor]
    reads_labels: bool = False


def resolve(objective: str | Callable[[Any], Tensor]) -> Objective:
    """Find an objective by name, or make one of a user's function.

    Args:
        objective: "squared_l2", "vector", "log_likelihood", "local", or a function from the output
            to one scalar a sample, of shape (N,).

    Returns:
        The objective.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor callable.

    Example:
        >>> resolve("squared_l2").sums(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), None)
        tensor([26.])
        >>> resolve("vector").sums(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), None)
        tensor([3., 5.])
        >>> resolve("log_likelihood").sums(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor([-2.7726])
    """
    if isinstance(objective, str):
        if objective not in _NAMED:
            raise ValueError(
                f"Expected `objective` to be one of {', '.join(map(repr, _NAMED))} or a callable, "
                f"got {objective!r}."
            )
        return _NAMED[objective]
    if not callable(objective):
        raise TypeError(
            f"Expected `objective` to be a name or a callable, got {type(objective).__name__}."
        )

    def values(output: Any, labels: Tensor | None) -> list[Tensor]:
        del labels
        scalars = objective(output)
        if not isinstance(scalars, Tensor) or scalars.dim() != 1:
            got = tuple(scalars.shape) if isinstance(scalars, Tensor) else type(scalars).__name__
            raise ValueError(
                "Expected `objective` to return one scalar a sample, a tensor of shape (N,), got "
                f"{got}. Sum over the outputs of a sample, never over samples."
            )
        return [scalars]

    def sums(output: Any, labels: Tensor | None) -> Tensor:
        return values(output, labels)[0].sum().reshape(1)

    return Objective(getattr(objective, "__name__", "callable"), values, sums)


def floating_tensors(output: Any) -> list[Tensor]:
    """List the floating-point tensors of a nested output.

    Args:
        output: A tensor, or tuples, lists and mappings of them.

    Returns:
        The tensors in order, half precision widened to float32.

    Raises:
        TypeError: If there is none.
    """
    found = [
        part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
        for part in _walk(output)
    ]
    if not found:
        raise TypeError(
            "Expected `model` to return tensors, or tuples, lists or dictionaries of them, got "
            f"{type(output).__name__}."
        )
    return found


def masked_units(output: Any) -> list[int]:
    """List the outputs that hold nothing but the constant with which unused units are filled.

    Args:
        output: As for the objective "vector".

    Returns:
        Their positions among the objectives.
    """
    rows = _rows(output)
    fill = (rows == torch.finfo(rows.dtype).min) | torch.isinf(rows)
    for value in _MASKS:
        fill |= rows == value
    return [int(i) for i in fill.all(0).nonzero().flatten()]


def _walk(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _walk(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _walk(value)


def _outputs(output: Any, labels: Tensor | None) -> list[Tensor]:
    del labels
    return floating_tensors(output)


def _squared_l2(output: Any, labels: Tensor | None) -> Tensor:
    del labels
    first, *others = [part.square().sum().reshape(1) for part in floating_tensors(output)]
    return sum(others, start=first)


def _rows(output: Any) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in floating_tensors(output)], dim=1)


def _vector(output: Any, labels: Tensor | None) -> Tensor:
    del labels
    return _rows(output).sum(0)


def _log_probabilities(output: Any, labels: Tensor | None) -> list[Tensor]:
    if labels is None:
        raise ValueError(
            "Expected `data` to hold labels as the second item of each mini-batch, got none. "
            'The objective "log_likelihood" reads them.'
        )
    logits = floating_tensors(output)[0]
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "Expected `model` to give one row of logits a sample, got an output of shape "
            f"{tuple(logits.shape)} for labels of shape {tuple(labels.shape)}."
        )
    chosen = labels.to(logits.device).unsqueeze(1)
    return [torch.log_softmax(logits, dim=1).gather(1, chosen).squeeze(1)]


def _log_likelihood(output: Any, labels: Tensor | None) -> Tensor:
    return _log_probabilities(output, labels)[0].sum().reshape(1)


_NAMED: dict[str, Objective] = {
    "squared_l2": Objective("squared_l2", _outputs, _squared_l2),
    "vector": Objective("vector", _outputs, _vector),
    "local": Objective("local", _outputs, _squared_l2),
    "log_likelihood": Objective(
        "log_likelihood", _log_probabilities, _log_likelihood, reads_labels=True
    ),
}
