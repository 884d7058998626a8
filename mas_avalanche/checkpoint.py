"""Checkpoints of whole strategies that work with torch's own optimizers.

Avalanche pickles the strategy with dill. torch removes the modules of its optimizers from
``torch.optim`` once their classes are there, so dill does not find a class like ``SGD`` where the
class says it lives, tries to pickle it by value and fails. :func:`picklable_optimizers` puts the
modules back for as long as it takes; :func:`save_checkpoint` does so around Avalanche's function,
and replaces the old file only once the new one is whole.

A checkpoint is a pickle, as Avalanche makes it: load only files that you wrote yourself. What a
plugin knows can be kept apart and loaded safely, see ``MASPlugin.state_dict``.
"""

import os
import secrets
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from avalanche.checkpointing import maybe_load_checkpoint
from avalanche.checkpointing import save_checkpoint as _avalanche_save

__all__ = ["maybe_load_checkpoint", "picklable_optimizers", "save_checkpoint"]


@contextmanager
def picklable_optimizers() -> Iterator[None]:
    """Let dill find torch's optimizers by name, around Avalanche's own ``save_checkpoint``.

    Yields:
        Nothing; ``torch.optim`` is as it was afterwards.

    Example:
        >>> import dill
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> with picklable_optimizers():
        ...     size = len(dill.dumps(optimizer))
    """
    added = []
    for name, module in list(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if parent == "torch.optim" and not hasattr(torch.optim, child):
            setattr(torch.optim, child, module)
            added.append(child)
    try:
        yield
    finally:
        for child in added:
            delattr(torch.optim, child)


def save_checkpoint(
    strategy: Any, path: str | os.PathLike[str], exclude: Collection[str] | None = None
) -> None:
    """Write a strategy to a file, whole or not at all.

    To be called between two calls of ``strategy.train``. Read it with
    :func:`maybe_load_checkpoint`, Avalanche's own, which replaces the strategy's model, optimizer
    and plugins: take them from the strategy afterwards, not from the variables that built it.

    Args:
        strategy: Any Avalanche strategy; classes defined in a script are stored by value.
        path: The file, replaced where it exists.
        exclude: Attributes of the strategy to leave out.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            with picklable_optimizers():
                _avalanche_save(strategy, file, exclude)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
