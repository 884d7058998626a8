"""Stop a run at its first non-finite loss or weight.

A diverged run goes on silently: its accuracy is that of chance, and its importance is NaN for
every experience to come.
"""

import torch
from torch import Tensor, nn

from mas_avalanche.walk import ParameterWalk

__all__ = ["DivergenceError", "LossGuard", "WeightGuard", "check_weights"]

# Reading a number waits for an accelerator, so its numbers are read this many at a time.
_READ_EVERY = 16
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_REMEDY = (
    "The training has diverged: lower the learning rate or the strength, or use mode='proximal'."
)


class DivergenceError(RuntimeError):
    """A loss, a weight or an importance left the finite numbers; the message says which."""


def check_weights(model: nn.Module, when: str = "") -> None:
    """Check that every parameter is finite.

    Args:
        model: The network in training.
        when: Added to the message, with a space before it.

    Raises:
        DivergenceError: If a parameter holds NaN or infinity; the message names it.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise DivergenceError(
                f"Expected `{name}` to be finite, got NaN or infinity{when}. {_REMEDY}"
            )


class LossGuard:
    """Watch the loss of every iteration; on an accelerator, without waiting for each.

    Picklable; holds a few scalars at most.
    """

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._seen = 0

    def watch(self, loss: Tensor) -> None:
        """Take note of one iteration's loss.

        Args:
            loss: Of one element.

        Raises:
            DivergenceError: If this loss, or one of the few not yet read, is not finite.
        """
        if loss.device.type == "cpu":
            self._check(loss.item())
            return
        self._pending.append(loss.detach().reshape(-1)[:1].clone())
        if len(self._pending) >= _READ_EVERY:
            self.read()

    def read(self) -> None:
        """Read the losses noted since the last reading.

        Raises:
            DivergenceError: If one of them is not finite; the message says which iteration's.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        for value in torch.cat(pending).tolist():
            self._check(value)

    def _check(self, value: float) -> None:
        self._seen += 1
        if value - value != 0:
            raise DivergenceError(
                f"Expected the loss to be finite, got {value} in training iteration "
                f"{self._seen}. {_REMEDY}"
            )


class WeightGuard:
    """Watch the weights after every update; on an accelerator, without waiting for each.

    A sum is not finite if one of its terms is not, and costs one walk over the numbers. Finite
    weights may have an infinite sum, so a suspicion is looked into before anything is raised.

    Picklable; holds a few scalars at most.

    Args:
        walk: Lists the parameters; whoever shares it renews it. None: one of its own, for a model
            whose modules stay the same.
    """

    def __init__(self, walk: ParameterWalk | None = None) -> None:
        self._pending: list[Tensor] = []
        self._seen = 0
        self._walk = walk or ParameterWalk()

    def watch(self, model: nn.Module) -> None:
        """Take note of the weights after an iteration's update.

        Args:
            model: The network in training; parameters without a gradient have not moved and are
                not looked at.

        Raises:
            DivergenceError: If a weight is not finite now, or was not in one of the few iterations
                not yet read; the message names the parameter and the iteration.
        """
        with torch.no_grad():
            sums = [
                parameter.sum(dtype=_WIDER.get(parameter.dtype))
                for _, parameter in self._walk(model)
                if parameter.grad is not None
            ]
        if all(part.device.type == "cpu" for part in sums):
            self._check(sum(part.item() for part in sums), model)
            return
        self._pending.append(sum(sums, start=torch.zeros(())))
        if len(self._pending) >= _READ_EVERY:
            self.read(model)

    def read(self, model: nn.Module) -> None:
        """Read the sums noted since the last reading.

        Args:
            model: The network in training.

        Raises:
            DivergenceError: If a weight is not finite; the message says since which iteration.
        """
        pending, self._pending = self._pending, []
        for value in map(float, pending):
            self._check(value, model)

    def _check(self, value: float, model: nn.Module) -> None:
        self._seen += 1
        if value - value != 0:
            check_weights(model, f" after training iteration {self._seen}")
