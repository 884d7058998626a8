"""Two processes of torch.distributed, each with a part of the work."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

MARKS = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods() or not distributed.is_available(),
        reason="needs fork and torch.distributed",
    ),
]


def in_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Give what ``work(rank)`` returns in each of two processes of one group."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_run, args=(work, rank, folder)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        if worker.is_alive():
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _run(work: Callable[[int], Any], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.save(work(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()
