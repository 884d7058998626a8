"""Changes of whole mini-batches: stored samples to model input. All of them can be pickled."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Normalize", "Permute"]


@dataclass(frozen=True)
class Normalize:
    """Scale stored values to about zero mean and unit deviation, channel by channel.

    Args:
        mean: One number a channel, in units of `full`.
        std: One number a channel, in units of `full`.
        full: The stored value that counts as 1.

    Example:
        >>> Normalize((0.5,), (0.5,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[-1.,  1.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    full: float = 255.0

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise a mini-batch of shape (N, channels, height, width).

        Args:
            x: As stored.

        Returns:
            float32 of the same shape.
        """
        shape = (1, -1, 1, 1)
        scale = torch.tensor([1 / (self.full * s) for s in self.std], device=x.device)
        shift = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], device=x.device
        )
        return torch.addcmul(shift.view(shape), x.float(), scale.view(shape))


@dataclass(frozen=True, eq=False)
class Permute:
    """Normalise, then reorder the pixels of every image by one fixed permutation.

    Args:
        index: Shape (pixels,): where each pixel is taken from.
        normalize: Applied first.
    """

    index: Tensor = field(repr=False)
    normalize: Normalize

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise and permute a mini-batch of shape (N, channels, height, width).

        Args:
            x: As stored.

        Returns:
            float32 of the same shape; all channels are permuted alike.
        """
        flat = self.normalize(x).flatten(2)
        return flat[:, :, self.index.to(x.device)].view(x.shape)
