"""Interleaved timing: every candidate once a round, so that a drifting machine favours none."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch

__all__ = ["interleaved", "peak_bytes"]


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, reference: str, rounds: int, warmup: int = 1
) -> dict[str, dict[str, object]]:
    """Time functions against each other in one run.

    Args:
        candidates: Functions without arguments, by name.
        reference: The candidate that ratios are relative to.
        rounds: Counted rounds; each calls every candidate once, in turn.
        warmup: Rounds before these that are not counted.

    Returns:
        For each candidate its median ``seconds``, its median ``ratio`` to the reference (taken
        round by round), the ``ratio_range`` (least and greatest) and the number of ``rounds``.

    Raises:
        ValueError: If ``reference`` is not among the candidates or ``rounds`` is below 1.
    """
    if reference not in candidates:
        raise ValueError(
            f"Expected `reference` to be one of {sorted(candidates)}, got {reference!r}."
        )
    if rounds < 1:
        raise ValueError(f"Expected `rounds` to be at least 1, got {rounds}.")
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, function in candidates.items():
            took = _seconds(function)
            if turn >= warmup:
                seconds[name].append(took)
    result: dict[str, dict[str, object]] = {}
    for name, times in seconds.items():
        ratios = [t / r for t, r in zip(times, seconds[reference], strict=True)]
        result[name] = {
            "seconds": median(times),
            "ratio": median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "rounds": rounds,
        }
    return result


def peak_bytes(action: Callable[[], object]) -> int | None:
    """Measure how far this process's memory rises above where it stands.

    Args:
        action: A function without arguments.

    Returns:
        The rise of the resident set at its highest, in bytes; None where the system does not let
        the high-water mark be reset (Linux does).
    """
    mark = Path("/proc/self/clear_refs")
    if not mark.exists():
        return None
    mark.write_text("5")
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"Expected /proc/self/status to hold {field}, got none.")


def _seconds(function: Callable[[], object]) -> float:
    _synchronize()
    start = time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
