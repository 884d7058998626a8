r"""How the importance of a new experience joins that of the old ones.

Aljundi et al. (2018) add the importance of each task to that of the tasks before; Avalanche and
FACIL take a moving average instead, in which the first of T tasks keeps a weight of
:math:`\alpha^{T-1}`. Both are pure functions here, of dictionaries from parameter names to
tensors, which tolerate heads that appear, grow in their first dimension or vanish.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = [
    "Normalization",
    "drop_unreached",
    "grow_rows",
    "merge_importance",
    "move_to_model",
    "normalize_importance",
    "take_anchor",
]

Normalization = Literal["mean", "max"]


def grow_rows(old: Tensor, shape: torch.Size, name: str) -> Tensor:
    """Append rows of zeros to a tensor whose parameter has grown in its first dimension.

    Args:
        old: The tensor as it was measured.
        shape: The shape that the parameter has now.
        name: The parameter's name, for the error.

    Returns:
        ``old`` itself where the shape has not changed.

    Raises:
        ValueError: If the shapes differ otherwise than by more rows.

    Example:
        >>> grow_rows(torch.ones(1, 2), torch.Size([2, 2]), "weight")
        tensor([[1., 1.],
                [0., 0.]])
    """
    if old.shape == shape:
        return old
    if old.ndim != len(shape) or old.ndim == 0 or old.shape[1:] != shape[1:] or len(old) > shape[0]:
        raise ValueError(
            f"Expected `{name}` to keep its shape or to grow in its first dimension, got "
            f"{tuple(shape)} where its importance has {tuple(old.shape)}. "
            "Forget the importance of a layer that was replaced."
        )
    return torch.cat([old, old.new_zeros(shape[0] - len(old), *shape[1:])])


def drop_unreached(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the parameters that no sample has reached: other tasks' heads, dead layers.

    Args:
        importance: Non-negative importance by parameter name.

    Returns:
        The entries that are not zero throughout.

    Example:
        >>> sorted(drop_unreached({"used": torch.tensor([0.0, 1.0]), "unused": torch.zeros(2)}))
        ['used']
    """
    return {name: value for name, value in importance.items() if bool(value.any())}


def normalize_importance(
    importance: Mapping[str, Tensor], how: Normalization | None
) -> dict[str, Tensor]:
    r"""Divide the importance of one experience by one number, so that strengths can be compared.

    With ``"mean"`` the penalty weighs as much as plain :math:`\lambda \lVert \theta - \theta^*
    \rVert^2` would, spread over the parameters by importance; the scale of the output cancels.
    With ``"max"`` the gradient form of the penalty of one experience is stable under plain SGD for
    every :math:`\lambda` below one over the learning rate; but the largest of millions of
    heavy-tailed numbers is a noisy scale.

    Args:
        importance: Non-negative importance by parameter name.
        how: ``"mean"``, ``"max"``, or None to leave the numbers as they are.

    Returns:
        New tensors, or the given ones where nothing is to be done.

    Raises:
        ValueError: If ``how`` is unknown.

    Example:
        >>> normalize_importance({"weight": torch.tensor([1.0, 3.0])}, "mean")
        {'weight': tensor([0.5000, 1.5000])}
    """
    if how is None or not importance:
        return dict(importance)
    if how == "mean":
        total = sum(float(value.sum(dtype=torch.float64)) for value in importance.values())
        scale = total / sum(value.numel() for value in importance.values())
    elif how == "max":
        scale = max(float(value.max()) for value in importance.values())
    else:
        raise ValueError(
            f"Expected `normalization` to be None or one of {get_args(Normalization)}, got "
            f"{how!r}. None keeps the importance as the paper defines it."
        )
    return {name: value / scale if scale > 0 else value for name, value in importance.items()}


def merge_importance(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float | None = None
) -> dict[str, Tensor]:
    r"""Join the importance of a new experience with that of the old ones.

    Args:
        old: Importance so far, by parameter name; empty before the first experience.
        new: Importance of the new experience; it may lack names of ``old`` (heads of other tasks,
            which then keep theirs), have new ones, and be larger in the first dimension.
        alpha: None for the sum (the paper's rule), or the weight in [0, 1] of the old in the
            moving average :math:`\alpha\,\Omega_{old} + (1 - \alpha)\,\Omega_{new}`. The first
            importance of a parameter enters in full.

    Returns:
        The merged importance, of the larger shapes.

    Raises:
        ValueError: If ``alpha`` is outside [0, 1] or a shape has changed otherwise than by growth.

    Example:
        >>> old, new = {"weight": torch.tensor([2.0])}, {"weight": torch.tensor([1.0, 1.0])}
        >>> merge_importance(old, new)
        {'weight': tensor([3., 1.])}
        >>> merge_importance(old, new, alpha=0.5)
        {'weight': tensor([1.5000, 0.5000])}
    """
    if alpha is not None and not (math.isfinite(alpha) and 0 <= alpha <= 1):
        raise ValueError(
            f"Expected `alpha` to be None or in [0, 1], got {alpha}. "
            "None sums the importance over experiences, as the paper does."
        )
    merged = dict(old)
    for name, value in new.items():
        if name not in old:
            merged[name] = value
            continue
        before = grow_rows(old[name], value.shape, name)
        merged[name] = before + value if alpha is None else alpha * before + (1 - alpha) * value
    return merged


def take_anchor(model: nn.Module, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the parameters that have an importance.

    Args:
        model: The network as it is to be remembered.
        importance: Importance by parameter name.

    Returns:
        Detached copies, cut to the rows that the importance knows.

    Raises:
        ValueError: If a parameter's shape has changed otherwise than by growth.
    """
    parameters = dict(model.named_parameters())
    anchor = {}
    for name, value in importance.items():
        parameter = parameters[name].detach()
        grow_rows(value, parameter.shape, name)
        rows = parameter if value.shape == parameter.shape else parameter[: len(value)]
        anchor[name] = rows.clone()
    return anchor


def move_to_model(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Follow a model to its device, and forget the parameters that it no longer has.

    Args:
        tensors: Importance or anchor by parameter name.
        model: The network, possibly moved or changed since.

    Returns:
        The entries whose parameter still exists, on its device.
    """
    parameters = dict(model.named_parameters())
    return {
        name: value.to(parameters[name].device)
        for name, value in tensors.items()
        if name in parameters
    }
