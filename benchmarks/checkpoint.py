"""The state of an unfinished run: what it takes to go on as if nothing had happened.

A state is kept after a task, and inside a task once enough work would be lost. It holds the
weights, the optimizer, what the method's plugins know, all random states and the position in the
data, as plain tensors, numbers and strings: it loads without running code. Taken up, the run
computes the very numbers that it would have computed, to the bit on the same hardware.
"""

import io
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.exits import STOPPED

__all__ = [
    "Keeper",
    "Place",
    "Positioned",
    "load_optimizer_state",
    "load_random_state",
    "optimizer_state",
    "random_state",
]

AFTER_TASK = 2.0
"""Seconds of work that are cheaper to repeat than to keep."""


class Place(Protocol):
    """Where the state of one run lies; each write is whole or not at all."""

    def read(self) -> bytes | None:
        """Return what was written last, None where nothing was."""

    def write(self, content: bytes) -> None:
        """Put new content in place of the old."""


class Keeper:
    """Keeps the state of one run, and says when.

    Args:
        place: Where the state lies.
        id: The run; a state of another one is not taken.
        every: Seconds of work inside a task after which its state is kept. After a task it is kept
            where at least 2 seconds of work, or ``every`` if that is less, would be lost.
        stopping: Asked after every mini-batch and every task: whether the run is to keep its state
            and end.
    """

    def __init__(
        self, place: Place, id: str, every: float, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.place = place
        self.id = id
        self.every = every
        self.stopping = stopping
        self.last = time.monotonic()

    def keep(self, state: Callable[[], Mapping[str, Any] | None], *, inside: bool) -> None:
        """Keep the state if it is time to.

        Args:
            state: Makes it; None where a method's plugins cannot give theirs.
            inside: Whether the run is inside a task.

        Raises:
            StoreError: If it cannot be written; the one before is as it was.
            SystemExit: If the run was asked to stop; its state has been kept.
        """
        stopping = self.stopping()
        least = self.every if inside else min(AFTER_TASK, self.every)
        if not stopping and time.monotonic() - self.last < least:
            return
        made = state()
        if made is not None:
            content = io.BytesIO()
            torch.save({"id": self.id, **made}, content)
            self.place.write(content.getvalue())
            self.last = time.monotonic()
        if stopping:
            raise SystemExit(STOPPED)

    def take(self, device: torch.device | str) -> Mapping[str, Any] | None:
        """Return the state that was kept; None where there is none that can be used.

        Args:
            device: Where its tensors are wanted.
        """
        content = self.place.read()
        if content is None:
            return None
        try:
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            print(f"{self.place} cannot be read ({reason}); the run starts anew.", file=sys.stderr)
            return None
        usable = isinstance(state, dict) and state.get("id") == self.id
        return state if usable else None


class Positioned:
    """Mini-batches whose position within an epoch can be kept and taken up.

    Args:
        loader: Mini-batches; their order and augmentation depend on ``generator`` alone.
        generator: Source of the order and the augmentation.
    """

    def __init__(self, loader: Any, generator: torch.Generator) -> None:
        self.loader = loader
        self.generator = generator
        self._start = generator.get_state()
        self._resume: tuple[Mapping[str, Any], Callable[[], None]] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self._resume is None:
            self._start = self.generator.get_state()
            yield from self.loader
            return
        (position, then), self._resume = self._resume, None
        self._start = position["start"].cpu()
        self.generator.set_state(self._start)
        batches = iter(self.loader)
        for _ in range(position["batches"]):
            next(batches)
        self.generator.set_state(position["now"].cpu())
        then()
        yield from batches

    def position(self, batches: int) -> dict[str, Any]:
        """Return where the present epoch stands.

        Args:
            batches: How many mini-batches of it have been used.
        """
        return {"start": self._start, "now": self.generator.get_state(), "batches": batches}

    def resume(self, position: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Have the next epoch be the rest of one that was interrupted.

        Args:
            position: From :meth:`position`.
            then: Called once the position is reached, as getting there may draw random numbers.
        """
        self._resume = position, then


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return what an optimizer holds, by the names of the parameters.

    Args:
        optimizer: Of parameters of ``model``.
        model: Names them.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        "groups": [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ],
        "state": {names[id(p)]: dict(state) for p, state in optimizer.state.items() if state},
    }


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, kept: Mapping[str, Any]) -> None:
    """Give an optimizer what :func:`optimizer_state` returned.

    Args:
        optimizer: Of parameters of ``model``, in as many groups; their order may be another.
        model: Names them.
        kept: From :func:`optimizer_state`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = optimizer.state_dict()
    for group, values in zip(state["param_groups"], kept["groups"], strict=True):
        group.update(values)
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    found = {i: kept["state"].get(names[id(p)]) for i, p in enumerate(ordered)}
    state["state"] = {i: value for i, value in found.items() if value is not None}
    optimizer.load_state_dict(state)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the process's random states: Python's, numpy's, torch's.

    Args:
        device: The state of an accelerator's own generator is taken with them.
    """
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def load_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the process's random states back.

    Args:
        state: From :func:`random_state`.
        device: As given to it.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, _as_keys(keys), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _as_keys(keys: Tensor) -> Any:
    return keys.cpu().numpy().astype(np.uint32)
