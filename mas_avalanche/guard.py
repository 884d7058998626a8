"""Stop a run at its first non-finite loss or weight.

A diverged run goes on silently: its accuracy is that of chance, and its importance is NaN for
every experience to come.
"""

import torch
from torch import Tensor, nn

__all__ = ["LossGuard", "check_weights"]

# Reading a number waits for an accelerator, so its losses are read this many at a time.
_READ_EVERY = 16


def check_weights(model: nn.Module) -> None:
    """Check that every parameter is finite.

    Args:
        model: The network in training.

    Raises:
        RuntimeError: If a parameter holds NaN or infinity; the message names it.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise RuntimeError(
                f"Expected `{name}` to be finite, got NaN or infinity. The training has diverged: "
                "lower the learning rate or the strength, or use mode='proximal'."
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
            RuntimeError: If this loss, or one of the few not yet read, is not finite.
        """
        self._pending.append(loss.detach().reshape(-1)[:1].clone())
        if loss.device.type == "cpu" or len(self._pending) >= _READ_EVERY:
            self.read()

    def read(self) -> None:
        """Read the losses noted since the last reading.

        Raises:
            RuntimeError: If one of them is not finite; the message says which iteration's.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = torch.cat(pending).tolist()
        for value in values:
            self._seen += 1
            if value - value != 0:
                raise RuntimeError(
                    f"Expected the loss to be finite, got {value} in training iteration "
                    f"{self._seen}. The training has diverged: lower the learning rate or the "
                    "strength, or use mode='proximal'."
                )
