"""How precisely a mean is known so far, from the mini-batches that went into it."""

import math

import torch
from torch import Tensor, distributed

__all__ = ["Precision"]

_MIN_BATCHES = 5  # mini-batches before their spread is trusted


class Precision:
    r"""Standard error of the mean from the spread between mini-batches.

    With :math:`S_b` the sum over mini-batch b of :math:`m_b` samples, the variance of one sample is
    estimated by :math:`(\sum_b \|S_b\|^2 / m_b - \|\sum_b S_b\|^2 / M) / (B - 1)`, so that
    only two numbers are kept. Without replacement the variance of the mean shrinks by 1 - M / N.

    Several processes pool the variances within each of them, and take the norm of the mean from
    :math:`\sum_r \|S_r\|^2 / M_r`, which is the norm times M, and the variance of one sample for
    each process. So they exchange a few numbers after each mini-batch, never the sums themselves.

    Args:
        tolerance: The relative error that is enough.
        totals: Accumulators that mini-batches will be added to.
        length: Samples of the data, where that is known.
        world: Processes that share the data.

    Attributes:
        relative_error: Standard error of the mean relative to its norm; infinite at first.
    """

    def __init__(
        self, tolerance: float, totals: dict[str, Tensor], length: int | None, world: int
    ) -> None:
        self.tolerance = tolerance
        self.before = {n: torch.zeros_like(t) for n, t in totals.items()}
        self.device = next((t.device for t in totals.values()), torch.device("cpu"))
        self.length = length
        self.world = world
        self.within = 0.0
        self.squared = 0.0
        self.batches = 0
        self.samples = 0
        self.relative_error = math.inf

    def reached(self, totals: dict[str, Tensor], count: int) -> bool:
        """Take in a mini-batch.

        Args:
            totals: The accumulators, to which its sums have just been added.
            count: Its samples.

        Returns:
            Whether the relative error is below the tolerance.
        """
        for name, total in totals.items():
            self.within += float((total - self.before[name]).square().sum()) / count
            self.before[name].copy_(total)
        self.batches += 1
        self.samples += count
        self.squared = sum(float(t.square().sum()) for t in totals.values())
        self._agree(busy=True)
        return self.relative_error < self.tolerance

    def wait(self) -> None:
        """After the last mini-batch, go on agreeing with processes that still have some."""
        while self.world > 1 and self._agree(busy=False):
            if self.relative_error < self.tolerance:
                break

    def _agree(self, *, busy: bool) -> bool:
        """Bring the relative error up to date; say whether any process had a mini-batch.

        Every process calls this as often as the others, and all find the same.
        """
        own = self.squared / self.samples if self.samples else 0.0
        free = max(0, self.batches - 1)
        started = float(self.samples > 0)
        values = [self.within - own, own, free, self.batches, self.samples, started, float(busy)]
        if self.world > 1:
            shared = torch.tensor(values, dtype=torch.float64, device=self.device)
            distributed.all_reduce(shared)
            values = shared.tolist()
        excess, pooled, freedom, batches, samples, started, active = values
        spread = max(0.0, excess) / freedom if freedom > 0 else 0.0
        squared = pooled - (started - 1) * spread
        if samples == self.length:
            self.relative_error = 0.0
        elif batches >= _MIN_BATCHES and freedom > 0 and squared > 0:
            left = 1.0 if self.length is None else 1 - samples / self.length
            self.relative_error = math.sqrt(spread * left / squared)
        return active > 0
