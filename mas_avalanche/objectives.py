r"""What is differentiated: the scalar that each sample's output is reduced to.

Memory Aware Synapses measures how far the learned function moves, so its objective is the squared
:math:`\ell_2` norm of the output (Aljundi et al., 2018, section 4.1). The log-likelihood of the
labels, its gradient squared, gives the empirical Fisher information of EWC instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Objective", "log_likelihood", "resolve", "squared_l2"]

Objective = Callable[[Any, Tensor | None], Tensor]


def squared_l2(output: Any, labels: Tensor | None = None) -> Tensor:
    """Sum the squares of everything a model put out, which MAS differentiates.

    Args:
        output: A tensor, or tuples, lists and dictionaries of tensors; logits, not probabilities.
        labels: Never read.

    Returns:
        The sum over samples of the squared norm.

    Example:
        >>> squared_l2(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor(26.)
    """
    del labels
    parts = [_accumulating(part).square().sum() for part in floating_tensors(output)]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def log_likelihood(output: Any, labels: Tensor | None = None) -> Tensor:
    """Sum the log-probability of each sample's label under the softmax of its output.

    Args:
        output: Logits of shape (N, classes).
        labels: Class numbers of shape (N,).

    Returns:
        The sum over samples.

    Raises:
        ValueError: If there are no labels, or the output is not one row of logits a sample.

    Example:
        >>> log_likelihood(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(-2.7726)
    """
    if labels is None:
        raise ValueError(
            "Expected `data` to hold labels as the second item of each mini-batch, got none. "
            'The objective "log_likelihood" reads them.'
        )
    (logits,) = floating_tensors(output)
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "Expected `model` to give one row of logits a sample, got an output of shape "
            f"{tuple(logits.shape)} for labels of shape {tuple(labels.shape)}."
        )
    log_probabilities = torch.log_softmax(_accumulating(logits), dim=1)
    return log_probabilities.gather(1, labels.to(logits.device).unsqueeze(1)).sum()


def resolve(objective: str | Callable[[Any], Tensor]) -> Objective:
    """Turn the name of an objective, or a user's function, into one function of output and labels.

    Args:
        objective: "squared_l2", "log_likelihood", or a function from the output to one scalar a
            sample, of shape (N,).

    Returns:
        A function that sums the objective over the samples of a mini-batch.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor callable.
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

    def summed(output: Any, labels: Tensor | None = None) -> Tensor:
        del labels
        values = objective(output)
        if not isinstance(values, Tensor) or values.dim() != 1:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                "Expected `objective` to return one scalar a sample, a tensor of shape (N,), got "
                f"{got}. Sum over the outputs of a sample, never over samples."
            )
        return values.sum()

    return summed


def floating_tensors(output: Any) -> list[Tensor]:
    """List the floating-point tensors of a nested output.

    Args:
        output: A tensor, or tuples, lists, dictionaries and dataclass-like mappings of them.

    Returns:
        The tensors in order.

    Raises:
        TypeError: If there is none.
    """
    found = list(_walk(output))
    if not found:
        raise TypeError(
            "Expected `model` to return tensors, or tuples, lists or dictionaries of them, got "
            f"{type(output).__name__}."
        )
    return found


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


def _accumulating(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


_NAMED: dict[str, Objective] = {"squared_l2": squared_l2, "log_likelihood": log_likelihood}
