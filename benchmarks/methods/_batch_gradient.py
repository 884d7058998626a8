"""Importance from the magnitude of mini-batch gradients, see ``mas_batch_gradient.py``."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import evaluation_mode
from mas_avalanche.consolidation import drop_unreached
from mas_avalanche.plugin import MASPlugin
from mas_avalanche.tensor_batches import batch_source

__all__ = ["BatchGradientMAS", "batch_gradient_importance"]


class BatchGradientMAS(MASPlugin):
    """MASPlugin with another importance.

    Args:
        strength: Strength of the penalty.
        gradient_batch: Samples whose gradients are summed before the magnitude is taken.
    """

    def __init__(self, strength: float, gradient_batch: int) -> None:
        super().__init__(strength, batch_size=gradient_batch)

    def _measure(self, model: nn.Module, data: Any, label: int | None) -> dict[str, Tensor]:
        found = batch_gradient_importance(model, data, self.batch_size, task_label=label)
        return drop_unreached(found)


def batch_gradient_importance(
    model: nn.Module, data: Any, batch_size: int, *, task_label: int | None = None
) -> dict[str, Tensor]:
    """Average the magnitude of mini-batch gradients of the squared norm of the output.

    Args:
        model: Run in evaluation mode; its mode is given back.
        data: What :func:`mas_avalanche.tensor_batches.batch_source` takes.
        batch_size: Samples a mini-batch.
        task_label: Given to the model where it has a head a task.

    Returns:
        For each trainable parameter a non-negative tensor of its shape.
    """
    source = batch_source(data)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    device = next(iter(named.values())).device
    with evaluation_mode(model):
        for chosen in order.split(batch_size):
            x = source.__getitems__(chosen.tolist())[0].to(device)
            output = model(x) if task_label is None else model(x, task_label)
            gradients = torch.autograd.grad(
                output.square().sum(), list(named.values()), allow_unused=True
            )
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.abs()
    return {name: value / len(source) for name, value in total.items()}
