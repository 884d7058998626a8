"""Networks that the studies train, sized by the stream they are built for.

A stream whose task is known at test time gets a head a task; any other stream gets one linear
layer with an output for every class of the whole stream. All heads are drawn with the rest of the
network, so a head that has not been trained yet can be measured too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.schema import check_known
from benchmarks.streams import Stream

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "alexnet",
    "build",
    "cnn",
    "evaluation_mode",
    "mlp",
    "names",
    "options",
    "zenke_cnn",
]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode for a block, and each of its modules back after it.

    Args:
        model: Any network.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def names() -> tuple[str, ...]:
    """List the models that a study can name."""
    return tuple(sorted(_BUILDERS))


def options(name: str) -> dict[str, Any]:
    """List the options of a model.

    Args:
        name: One of :func:`names`.

    Returns:
        Option name to default value.
    """
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(name: str, stream: Stream, chosen: Mapping[str, Any]) -> nn.Module:
    """Build a model; its weights are drawn from torch's global random state.

    Args:
        name: One of :func:`names`.
        stream: Decides the size of inputs and outputs.
        chosen: Options of this model.

    Raises:
        ValueError: If the name, an option or an option's value is wrong.
    """
    check_known([name], names(), "model", "the configuration")
    check_known(chosen, options(name), "option", f"model `{name}`")
    return _BUILDERS[name](stream, **chosen)


def mlp(stream: Stream, *, hidden: Sequence[int] = (256, 256), dropout: float = 0.0) -> nn.Module:
    """Build a perceptron with ReLU.

    Args:
        stream: Decides the size of inputs and outputs.
        hidden: Width of each hidden layer.
        dropout: Share of activations dropped after each hidden layer while training.
    """
    from torch import nn

    widths = [math.prod(stream.input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU(), *_dropout(dropout)]
    return _with_outputs(layers, widths[-1], stream)


def cnn(
    stream: Stream,
    *,
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a small convolutional network: 3x3 kernels, ReLU, and halving by maximum after each.

    Args:
        stream: Decides the size of inputs and outputs; its inputs are images.
        channels: Channels of each convolution.
        hidden: Width of the hidden layer after the convolutions.
        dropout: Share of activations dropped after the hidden layer while training.

    Raises:
        ValueError: If the inputs are no images, or too small for so many halvings.
    """
    from torch import nn

    depth, height, width = _image_shape(stream, "cnn")
    layers: list[nn.Module] = []
    for inside, outside in pairwise([depth, *channels]):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        height, width = height // 2, width // 2
    if height < 1 or width < 1:
        raise ValueError(
            f"Expected images of at least {2 ** len(channels)} pixels a side for "
            f"{len(channels)} convolutions, got {stream.input_shape}."
        )
    features = (channels[-1] if channels else depth) * height * width
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), *_dropout(dropout)]
    return _with_outputs(layers, hidden, stream)


def zenke_cnn(
    stream: Stream,
    *,
    channels: Sequence[int] = (32, 64),
    hidden: int = 512,
    dropout: Sequence[float] = (0.25, 0.5),
) -> nn.Module:
    """Build the network that Zenke et al. (2017) train on CIFAR, as their published code does.

    For each number of channels two convolutions with 3x3 kernels, the first of which keeps the size
    of the image and the second takes two pixels off, then halving by maximum and dropout; a hidden
    layer and dropout. ReLU throughout. Weights are drawn as torch draws them.

    Args:
        stream: Decides the size of inputs and outputs; its inputs are images.
        channels: Channels of each pair of convolutions.
        hidden: Width of the hidden layer.
        dropout: Share of activations dropped while training: after each halving, and after the
            hidden layer.

    Raises:
        ValueError: If the inputs are no images, or too small, or ``dropout`` is not two shares.

    References:
        Zenke, Poole and Ganguli (2017), Continual learning through synaptic intelligence, ICML;
        github.com/ganguli-lab/pathint, fig_transfer_cifar/train.py.
    """
    from torch import nn

    if len(dropout) != 2:
        raise ValueError(
            "Expected `dropout` to be two shares, after each halving and after the hidden layer, "
            f"got {list(dropout)}."
        )
    depth, height, width = _image_shape(stream, "zenke_cnn")
    layers: list[nn.Module] = []
    for inside, outside in pairwise([depth, *channels]):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(outside, outside, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2), *_dropout(dropout[0])]
        height, width = (height - 2) // 2, (width - 2) // 2
    if height < 1 or width < 1:
        raise ValueError(
            f"Expected larger images for {len(channels)} pairs of convolutions, got "
            f"{stream.input_shape}."
        )
    features = (channels[-1] if channels else depth) * height * width
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), *_dropout(dropout[1])]
    return _with_outputs(layers, hidden, stream)


def alexnet(
    stream: Stream,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    weights: str | None = None,
    initialisation: str = "torch",
) -> nn.Module:
    """Build AlexNet with a head a task.

    Args:
        stream: Decides the number of heads and outputs; a stream with known tasks.
        width: Factor on the number of channels and units.
        dropout: Share of activations dropped in the classifier while training.
        weights: Weights of the trunk, see :class:`mas_avalanche.MultiHeadAlexNet`.
        initialisation: "torch" leaves the layers as torch draws them. "he" draws the trunk as He et
            al. (2015) do, with which a small one learns from few images without normalisation.

    Raises:
        ValueError: If the task is not known at test time, or an option is unknown.
    """
    from mas_avalanche.alexnet import MultiHeadAlexNet

    if initialisation not in ("torch", "he"):
        raise ValueError(
            f"Expected `initialisation` to be 'torch' or 'he', got {initialisation!r}."
        )
    if stream.scenario != "task":
        raise ValueError(
            f"Expected a task-incremental stream for the model `alexnet`, got the "
            f"{stream.scenario}-incremental stream `{stream.name}`."
        )
    model = MultiHeadAlexNet(
        num_classes=[task.num_classes for task in stream.tasks],
        weights=weights,
        width=width,
        dropout=dropout,
        image_size=stream.input_shape[-1],
    )
    if initialisation == "he":
        _draw_he(model.trunk)
    return model


def _draw_he(trunk: nn.Module) -> None:
    from torch import nn

    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _image_shape(stream: Stream, name: str) -> tuple[int, int, int]:
    if len(stream.input_shape) != 3:
        raise ValueError(
            f"Expected images (channels, height, width) for the model `{name}`, got inputs of "
            f"shape {stream.input_shape}."
        )
    depth, height, width = stream.input_shape
    return depth, height, width


def _dropout(share: float) -> list[nn.Module]:
    from torch import nn

    return [nn.Dropout(share)] if share else []


def _with_outputs(layers: list[nn.Module], in_features: int, stream: Stream) -> nn.Module:
    from torch import nn

    from mas_avalanche.heads import MultiHeadModel

    num_classes = [task.num_classes for task in stream.tasks]
    if stream.scenario == "task":
        return MultiHeadModel(nn.Sequential(*layers), in_features, num_classes)
    return nn.Sequential(*layers, nn.Linear(in_features, max(num_classes)))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "zenke_cnn": zenke_cnn,
    "alexnet": alexnet,
}
