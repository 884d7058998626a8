"""Checks of what a plugin's ``load_state_dict`` is given: it may come from a damaged file."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

__all__ = ["check_state", "check_weighted"]


def check_state(state: Mapping[str, Any], keys: Collection[str], format: int) -> None:
    """Refuse a state that is not what ``state_dict`` returns.

    Args:
        state: What was given.
        keys: Its keys beside ``format``.
        format: The version of its layout.

    Raises:
        ValueError: If it has other keys or another format.

    Example:
        >>> check_state({"format": 1, "importance": {}}, {"importance"}, 1)
    """
    expected = {"format", *keys}
    if set(state) != expected or state["format"] != format:
        raise ValueError(
            f"Expected `state` to have the keys {sorted(expected)} and format {format}, got "
            f"{sorted(state)} and {state.get('format')}. Pass what `state_dict()` returned."
        )


def check_weighted(importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
    """Refuse an importance that has no anchor of its name and shape.

    Args:
        importance: By parameter name.
        anchor: By parameter name; may have more.

    Raises:
        ValueError: If they do not fit together.
    """
    for name, value in importance.items():
        if name not in anchor or anchor[name].shape != value.shape:
            raise ValueError(
                f"Expected `state` to have an anchor of each importance's name and shape, got none "
                f"for `{name}`. The state is damaged or from two plugins."
            )
