r"""Importance of each parameter for the function that a network has learned.

Memory Aware Synapses ranks a parameter by how much the squared :math:`\ell_2` norm of the network's
output moves when the parameter does, averaged over inputs,

.. math::
    \Omega_i = \frac{1}{N} \sum_{n=1}^N
    \left| \frac{\partial \lVert F(x_n; \theta) \rVert_2^2}{\partial \theta_i} \right|

(Aljundi et al., 2018, Eq. 2, with the squared norm of section 4.1). The magnitude is taken sample
by sample: in the gradient of a mini-batch samples of opposite sign cancel.
"""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from mas_avalanche import objectives
from mas_avalanche.per_sample.generic import sum_generic
from mas_avalanche.per_sample.tap import sum_by_rules

__all__ = ["estimate_importance"]

Data = Dataset[Any] | Tensor | Iterable[Any]


def estimate_importance(
    model: nn.Module,
    data: Data,
    *,
    objective: str | Callable[[Any], Tensor] = "squared_l2",
    power: Literal[1, 2] = 1,
    task_label: int | None = None,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    max_samples: int | None = None,
    check: bool = True,
    progress: bool = False,
    memory_budget: int = 128 * 2**20,
) -> dict[str, Tensor]:
    """Average the magnitude of each sample's gradient over a data set.

    The result depends on the samples alone, not on their order nor on how they are split into
    mini-batches. The model is left as it was: mode, ``.grad``, buffers, hooks, and the random
    states of Python, NumPy and torch.

    Args:
        model: Treats samples independently in evaluation mode, in which it is run.
        data: A data set, a data loader, a tensor of inputs, or an iterable of mini-batches; a
            mini-batch is a tensor, or a tuple or list whose first item is the input.
        objective: What is differentiated: "squared_l2" (MAS), "log_likelihood" of the labels that
            are the second item of a mini-batch, or a function from the output to one scalar a
            sample, of shape (N,).
        power: 1 sums absolute values, 2 squares (with "log_likelihood" EWC's empirical Fisher).
        task_label: Label given to a multi-task model; without it, the last item of each
            mini-batch.
        batch_size: Samples a mini-batch, where ``data`` does not come in mini-batches.
        device: Where mini-batches are moved; the parameters' own device by default.
        max_samples: Stop after that many samples.
        check: Refuse a model in which samples influence each other.
        progress: Show a progress bar that counts samples.
        memory_budget: Bytes that temporaries may take beside the importance.

    Returns:
        For each trainable parameter, named as in ``model.named_parameters()``, a non-negative
        tensor of its shape, device and type.

    Raises:
        ValueError: If an argument is out of range, ``data`` is empty or ``model`` mixes samples.
        TypeError: If ``data`` or ``objective`` is of a kind that cannot be used.

    Example:
        >>> line = nn.Linear(1, 1)
        >>> with torch.no_grad():
        ...     _ = line.weight.fill_(1.0), line.bias.fill_(0.0)
        >>> estimate_importance(line, torch.tensor([[1.0], [-1.0]]))
        {'weight': tensor([[2.]]), 'bias': tensor([2.])}
    """
    _check_arguments(power, batch_size, max_samples)
    total = objectives.resolve(objective)
    reads_labels = objective == "log_likelihood"
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    multitask = _takes_task_labels(model)
    sums = {n: torch.zeros_like(p, dtype=_accumulator(p)) for n, p in parameters.items()}
    num_samples = 0
    bar = tqdm(desc="importance", unit=" samples", disable=not progress)
    with _guarded(model), bar:
        for x, y, label in _samples(data, batch_size, task_label, multitask, max_samples):
            x = x.to(device)
            y = y.to(device) if reads_labels and y is not None else None
            extra = (label,) if multitask else ()

            def value(run: Any, x: Tensor, y: Tensor | None, extra: Any = extra) -> Tensor:
                return total(run(x, *extra), y)

            if check and num_samples == 0:
                _check_independence(model, x, extra)
            budget = memory_budget // 8
            found, left = sum_by_rules(model, value, x, y, power, budget)
            if left:
                found |= sum_generic(model, left, value, x, y, power, budget)
            for name, part in found.items():
                sums[name] += part
            num_samples += len(x)
            bar.update(len(x))
    if num_samples == 0:
        raise ValueError("Expected `data` to hold at least one sample, got none.")
    return {n: (s / num_samples).to(parameters[n].dtype) for n, s in sums.items()}


def _check_arguments(power: int, batch_size: int, max_samples: int | None) -> None:
    if power not in (1, 2):
        raise ValueError(f"Expected `power` to be 1 or 2, got {power!r}.")
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be at least 1, got {batch_size!r}.")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"Expected `max_samples` to be at least 1, got {max_samples!r}.")


def _accumulator(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _takes_task_labels(model: nn.Module) -> bool:
    if isinstance(model, MultiTaskModule):
        return True
    return "task_labels" in inspect.signature(model.forward).parameters


@contextmanager
def _guarded(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode and put modes, ``.grad``, buffers and random states back."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _samples(
    data: Data,
    batch_size: int,
    task_label: int | None,
    multitask: bool,
    max_samples: int | None,
) -> Iterator[tuple[Tensor, Tensor | None, int | None]]:
    """Yield inputs, labels and one task label for all of them, until ``max_samples``."""
    seen = 0
    for batch in _mini_batches(data, batch_size):
        items = list(batch) if isinstance(batch, list | tuple) else [batch]
        x, y = items[0], items[1] if len(items) > 1 else None
        if not isinstance(x, Tensor):
            raise TypeError(
                "Expected each mini-batch of `data` to be a tensor, or a tuple or list whose first "
                f"item is one, got {type(x).__name__}."
            )
        if max_samples is not None and seen + len(x) > max_samples:
            keep = max_samples - seen
            items = [item[:keep] if isinstance(item, Tensor) else item for item in items]
            x, y = items[0], items[1] if len(items) > 1 else None
        seen += len(x)
        if len(x) == 0:
            continue
        if not multitask or task_label is not None:
            yield x, y, task_label
        else:
            yield from _by_task(x, y, items)
        if max_samples is not None and seen >= max_samples:
            return


def _by_task(
    x: Tensor, y: Tensor | None, items: list[Any]
) -> Iterator[tuple[Tensor, Tensor | None, int]]:
    labels = torch.as_tensor(items[-1]) if len(items) > 1 else None
    if labels is None or labels.is_floating_point() or labels.numel() not in (1, len(x)):
        raise ValueError(
            "Expected `task_label` to be given, or to be the last item of each mini-batch, as "
            "`model` is a multi-task model; got neither."
        )
    labels = labels.reshape(-1).expand(len(x))
    distinct = sorted(set(labels.tolist()))
    if len(distinct) == 1:
        yield x, y, distinct[0]
        return
    for label in distinct:
        mask = labels == label
        yield x[mask.to(x.device)], None if y is None else y[mask.to(y.device)], label


def _mini_batches(data: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(data, Tensor):
        for start in range(0, len(data), batch_size):
            yield data[start : start + batch_size]
    elif isinstance(data, DataLoader):
        yield from data
    elif hasattr(data, "batch") and hasattr(data, "__len__"):
        for start in range(0, len(data), batch_size):
            yield data.batch(torch.arange(start, min(start + batch_size, len(data))))
    elif isinstance(data, Dataset) or hasattr(data, "collate_fn"):
        yield from DataLoader(data, batch_size, collate_fn=getattr(data, "collate_fn", None))
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise TypeError(
            "Expected `data` to be a Dataset, a DataLoader, a tensor or an iterable of "
            f"mini-batches, got {type(data).__name__}."
        )


def _check_independence(model: nn.Module, x: Tensor, extra: tuple[Any, ...]) -> None:
    """Compare outputs of a few samples run together with those of each beside its own copy."""
    few = x[:3]
    with torch.no_grad():
        together = objectives.floating_tensors(model(few, *extra))
        pairs = [torch.stack([sample, sample]) for sample in few]
        alone = [objectives.floating_tensors(model(pair, *extra)) for pair in pairs]
    for index, output in enumerate(together):
        separate = torch.cat([outputs[index][:1] for outputs in alone])
        if output.shape == separate.shape:
            scale = separate.abs().max()
            if bool((output - separate).abs().max() <= 1e-3 * scale + 1e-6):
                continue
        raise ValueError(
            "Expected `model` to treat samples independently, got outputs that depend on the "
            "other samples of the mini-batch. Batch statistics do this: give BatchNorm running "
            "statistics (`track_running_stats=True`) or replace it, for instance by GroupNorm; "
            "or pass `check=False` if the mixing is meant."
        )
