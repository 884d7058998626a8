"""Changes of whole mini-batches: stored samples to model input. All of them can be pickled."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CentreCrop", "Normalize", "Permute", "RandomCrop"]


@dataclass(frozen=True)
class Normalize:
    """Scale stored values to about zero mean and unit deviation, channel by channel.

    Args:
        mean: One number a channel, in units of `full`.
        std: One number a channel, in units of `full`.
        full: The stored value that counts as 1.

    Example:
        >>> x = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
        >>> Normalize((0.5,), (0.5,))(x).round()
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
        # Several times as fast as indexing with square brackets, and the same.
        return flat.index_select(2, self.index.to(x.device)).view(x.shape)


@dataclass(frozen=True)
class CentreCrop:
    """Cut out the middle, resize it, then normalise.

    Images that :class:`RandomCrop` has already cut to `crop` pixels are not cut again.

    Args:
        crop: Height and width that is cut out, in stored pixels.
        size: Height and width of the model input.
        normalize: Applied last.
    """

    crop: int
    size: int
    normalize: Normalize

    def __call__(self, x: Tensor) -> Tensor:
        """Make model input of a mini-batch of shape (N, channels, S, S) with S >= `crop`.

        Args:
            x: As stored, or already cut.

        Returns:
            float32 of shape (N, channels, size, size).
        """
        start = (x.shape[-1] - self.crop) // 2
        x = x[..., start : start + self.crop, start : start + self.crop]
        if self.crop == self.size:
            return self.normalize(x)
        resized = F.interpolate(x.float(), (self.size, self.size), mode="bilinear", antialias=True)
        return self.normalize(resized)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a square out of every image at a place of its own, and mirror half of them.

    Args:
        crop: Height and width of the square in stored pixels.
        pad: Zeros added at each edge first.
        flip: Whether to mirror every other image, on average, left to right.
    """

    crop: int
    pad: int = 0
    flip: bool = True

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Cut a mini-batch of shape (N, channels, S, S) with S + 2 `pad` >= `crop`.

        Args:
            x: As stored, on any device.
            rng: A CPU generator; one draw decides the same cuts on every device.

        Returns:
            Shape (N, channels, crop, crop), of the type of `x`.
        """
        if self.pad:
            x = F.pad(x, (self.pad,) * 4)
        n, room = len(x), x.shape[-1] - self.crop
        corner = torch.randint(room + 1, (2, n), generator=rng)
        steps = torch.arange(self.crop)
        rows = corner[0].view(n, 1, 1) + steps.view(1, -1, 1)
        columns = corner[1].view(n, 1, 1) + steps.view(1, 1, -1)
        if self.flip:
            mirrored = torch.rand(n, generator=rng) < 0.5
            columns = torch.where(mirrored.view(n, 1, 1), columns.flip(-1), columns)
        which = torch.arange(n).view(n, 1, 1)
        index = [part.to(x.device) for part in (which, rows, columns)]
        return x.permute(0, 2, 3, 1)[index[0], index[1], index[2]].permute(0, 3, 1, 2)
