"""AlexNet with a head a task, as in the object-recognition experiments of the paper.

The trunk is torchvision's (Krizhevsky, 2014, "One weird trick"): five convolutions and two wide
linear layers with dropout. Its last layer is replaced by a head a task (Aljundi et al., 2018).
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights

from mas_avalanche.heads import MultiHeadModel

__all__ = ["MultiHeadAlexNet"]

_SMALL = 128  # below this many pixels the first convolution of the original leaves too little


class MultiHeadAlexNet(MultiHeadModel):
    """torchvision's AlexNet trunk with a head a task.

    Args:
        num_classes: The width of the heads, see :class:`mas_avalanche.heads.MultiHead`; None takes
            it from the experiences.
        weights: None for random ones; ``"IMAGENET1K_V1"`` for torchvision's ImageNet weights (a
            download of 233 MB from download.pytorch.org into torch's hub folder, once, checked by
            its hash); or the path of a file that holds such a state dict, loaded with
            ``weights_only=True``.
        dropout: Probability of dropping an input of the two wide layers in training.
        freeze_trunk: Train the heads alone.
        image_size: Pixels a side. 128 and more give torchvision's trunk, which takes any image of
            63 pixels and more. Less gives a small-image variant: its first convolution has a
            kernel of 5 and a stride of ``max(1, image_size // 32)``.
        width: Factor on the number of channels and features of the trunk.

    Raises:
        ValueError: If the weights cannot be had or do not fit, or the image is too small.

    Example:
        >>> model = MultiHeadAlexNet(num_classes=[10, 26], image_size=32, width=0.125)
        >>> model(torch.zeros(2, 3, 32, 32), 1).shape
        torch.Size([2, 26])
    """

    def __init__(
        self,
        num_classes: int | Sequence[int] | Mapping[int, int] | None = None,
        weights: str | Path | None = None,
        *,
        dropout: float = 0.5,
        freeze_trunk: bool = False,
        image_size: int = 224,
        width: float = 1.0,
    ) -> None:
        if weights is not None and (image_size < _SMALL or width != 1.0):
            raise ValueError(
                f"Expected `weights` to be None for a trunk that is not torchvision's, got "
                f"{str(weights)!r} with image_size={image_size} and width={width}. Use "
                "image_size=224 and width=1.0, and resize the images."
            )
        state = None if weights is None else _read(weights)
        trunk = _Trunk(dropout, image_size, width)
        super().__init__(trunk, trunk.num_features, num_classes)
        if state is not None:
            _load(trunk, state)
        if freeze_trunk:
            trunk.requires_grad_(False)


class _Trunk(nn.Module):
    """All of AlexNet but its last layer, under torchvision's parameter names."""

    def __init__(self, dropout: float, image_size: int, width: float) -> None:
        super().__init__()
        channels = [max(1, round(width * number)) for number in (64, 192, 384, 256, 256)]
        self.num_features = max(1, round(width * 4096))
        small = image_size < _SMALL
        kernel, stride, padding = (5, max(1, image_size // 32), 2) if small else (11, 4, 2)
        self.minimum = 14 * stride + 1 if small else 63
        if image_size < self.minimum:
            raise ValueError(
                f"Expected `image_size` to be at least {self.minimum}, got {image_size}. "
                "Resize the images."
            )
        self.features = nn.Sequential(
            nn.Conv2d(3, channels[0], kernel, stride, padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(channels[0], channels[1], 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(channels[1], channels[2], 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels[2], channels[3], 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels[3], channels[4], 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        side = 3 if small else 6
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels[4] * side * side, self.num_features),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(self.num_features, self.num_features),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.minimum:
            raise ValueError(
                f"Expected images of at least {self.minimum} x {self.minimum} pixels, got "
                f"{x.shape[-2]} x {x.shape[-1]}. Resize them, or build the model with "
                f"image_size={min(x.shape[-2:])}."
            )
        features: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return features


def _read(weights: str | Path) -> Mapping[str, Tensor]:
    if weights in AlexNet_Weights.__members__:
        named = AlexNet_Weights[str(weights)]
        return dict(named.get_state_dict(progress=True, check_hash=True))
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"Expected `weights` to be None, one of {sorted(AlexNet_Weights.__members__)} or a "
            f"file, got {str(weights)!r}. Check the path."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"Expected `weights` to be a file of tensors alone, got {str(path)!r}, which does not "
            "load with weights_only=True. Save `model.state_dict()`, not the model."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"Expected `weights` to hold a state dict, got something else in {str(path)!r}. "
            "Save `model.state_dict()`."
        )
    return state


def _load(trunk: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, parameter in trunk.named_parameters():
        found = tuple(state[name].shape) if name in state else "nothing"
        if found != tuple(parameter.shape):
            raise ValueError(
                f"Expected `weights` to hold `{name}` of shape {tuple(parameter.shape)}, got "
                f"{found}. Give the state dict of torchvision's AlexNet."
            )
    trunk.load_state_dict({name: state[name] for name, _ in trunk.named_parameters()})
