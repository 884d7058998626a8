"""Read inputs, labels and task labels from whatever holds the data.

A source with a length and random access (a tensor, a Dataset) is read in any order wanted; a loader
or an iterable is read as it comes. Under ``torch.distributed`` each process reads its share.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from mas_avalanche.tensor_batches import BatchDataset, batch_source

__all__ = ["Data", "MiniBatch", "Share", "count_samples", "joined", "known_length", "mini_batches"]

Data = Dataset[Any] | Tensor | Iterable[Any]


@dataclass(frozen=True)
class MiniBatch:
    """Samples that go through the model together.

    Args:
        x: Inputs: a tensor, or nested tensors, whose first dimension counts samples.
        y: The second item, where there is one.
        task_label: The one task label of all of them, for multi-task models.
    """

    x: Any
    y: Any
    task_label: int | None

    def __len__(self) -> int:
        return count_samples(self.x)


@dataclass(frozen=True)
class Share:
    """The part of the data that this process reads.

    Args:
        rank: Number of this process.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1


def mini_batches(
    data: Data,
    batch_size: int,
    *,
    task_label: int | None = None,
    multitask: bool = False,
    max_samples: int | None = None,
    shuffle: bool = False,
    share: Share | None = None,
    device: torch.device | str | None = None,
) -> Iterator[MiniBatch]:
    """Yield mini-batches of one task label each.

    Args:
        data: Samples, or mini-batches: tensors, or tuples and lists whose first item is the input.
        batch_size: Samples a mini-batch, where the data do not come in mini-batches.
        task_label: Label for all samples.
        multitask: Whether the last item of a mini-batch is its task labels.
        max_samples: Stop after that many samples of all processes together.
        shuffle: Read data with random access in a fixed random order.
        share: The part to read.
        device: Where a :class:`BatchDataset`, also one inside an ``AvalancheDataset``, transforms
            its inputs; None: where they are stored.

    Yields:
        Mini-batches that are not empty.

    Raises:
        TypeError: If the data are of a kind that cannot be read.
        ValueError: If a multi-task model's data have no task labels.
    """
    for batch in _raw(data, batch_size, max_samples, shuffle, share or Share(), device):
        items = list(batch) if isinstance(batch, list | tuple) else [batch]
        x, y = items[0], items[1] if len(items) > 1 else None
        if count_samples(x) == 0:
            continue
        if multitask and task_label is None:
            yield from _by_task(x, y, items)
        else:
            yield MiniBatch(x, y, task_label)


def joined(batches: Iterable[MiniBatch], room: Callable[[MiniBatch], int]) -> Iterator[MiniBatch]:
    """Put small mini-batches of one kind together.

    Args:
        batches: Mini-batches that stay as they are while the next ones are read.
        room: How many samples like these may go together.

    Yields:
        The samples in their order; inputs that are not one tensor as they came.
    """
    held: list[MiniBatch] = []
    count, kind = 0, None
    for batch in batches:
        before, kind = kind, _kind(batch)
        alike = kind is not None and kind == before
        if held and not (alike and count + len(batch) <= room(batch)):
            yield _concatenated(held)
            held, count = [], 0
        held.append(batch)
        count += len(batch)
        if count + len(batch) > room(batch):
            yield _concatenated(held)
            held, count = [], 0
    if held:
        yield _concatenated(held)


def _kind(batch: MiniBatch) -> Any:
    """Say what mini-batches that can be put together have in common; None where nothing can."""
    tensors = [batch.x] if batch.y is None else [batch.x, batch.y]
    if not all(isinstance(t, Tensor) and t.dim() > 0 for t in tensors):
        return None
    return batch.task_label, [(t.shape[1:], t.dtype, t.device) for t in tensors]


def _concatenated(held: Sequence[MiniBatch]) -> MiniBatch:
    if len(held) == 1:
        return held[0]
    x = torch.cat([batch.x for batch in held])
    y = None if held[0].y is None else torch.cat([batch.y for batch in held])
    return MiniBatch(x, y, held[0].task_label)


def count_samples(x: Any) -> int:
    """Count the samples of an input.

    Args:
        x: A tensor or nested tensors.

    Returns:
        The length of their first dimension.

    Raises:
        TypeError: If there is no tensor in it.
        ValueError: If tensors disagree about the number.
    """
    if isinstance(x, Tensor):
        return x.shape[0] if x.dim() else 0
    sizes = {len(t) if t.dim() else 0 for t in tree_leaves(x) if isinstance(t, Tensor)}
    if not sizes:
        raise TypeError(
            "Expected each mini-batch of `data` to be a tensor, or a tuple or list whose first "
            f"item is one, got {type(x).__name__}."
        )
    if len(sizes) > 1:
        raise ValueError(
            "Expected all tensors of an input to hold as many samples, got "
            f"{', '.join(map(str, sorted(sizes)))}."
        )
    return sizes.pop()


def known_length(data: Data) -> int | None:
    """Count the samples of data with random access; None for loaders and iterables."""
    return len(data) if _has_random_access(data) and isinstance(data, Sized) else None


def _has_random_access(data: Any) -> bool:
    if isinstance(data, Tensor):
        return True
    if isinstance(data, DataLoader | IterableDataset | list | tuple):
        return False
    readable = isinstance(data, Dataset) or hasattr(data, "batch") or hasattr(data, "collate_fn")
    return readable and hasattr(data, "__len__")


def _raw(
    data: Any,
    batch_size: int,
    max_samples: int | None,
    shuffle: bool,
    share: Share,
    device: torch.device | str | None,
) -> Iterator[Any]:
    if _has_random_access(data):
        length = len(data)
        if shuffle:
            order = torch.randperm(length, generator=torch.Generator().manual_seed(0))
        else:
            order = torch.arange(length)
        own = order[:max_samples][share.rank :: share.world]
        yield from _fetch(data, own, batch_size, device)
    elif isinstance(data, IterableDataset):
        yield from _stream(DataLoader(data, batch_size), max_samples, share)
    elif isinstance(data, DataLoader) and isinstance(data.sampler, DistributedSampler):
        limit = None if max_samples is None else -(-max_samples // share.world)
        yield from _stream(data, limit, Share())
    elif isinstance(data, Iterable):
        yield from _stream(data, max_samples, share)
    else:
        raise TypeError(
            "Expected `data` to be a Dataset, a DataLoader, a tensor or an iterable of "
            f"mini-batches, got {type(data).__name__}."
        )


def _fetch(
    data: Any, order: Tensor, batch_size: int, device: torch.device | str | None
) -> Iterator[Any]:
    cut = _cutter(data, device)
    if cut is not None:
        for start in range(0, len(order), batch_size):
            yield cut(order[start : start + batch_size])
        return
    collate = getattr(data, "collate_fn", None)
    yield from DataLoader(data, batch_size, sampler=order.tolist(), collate_fn=collate)


def _cutter(data: Any, device: torch.device | str | None) -> Callable[[Tensor], Any] | None:
    """Find a way to cut a whole mini-batch at once."""
    if isinstance(data, Tensor):
        return lambda index: data[index.to(data.device)]
    if isinstance(data, BatchDataset):
        return lambda index: data.batch(index, device=device)
    if hasattr(data, "batch"):
        return lambda index: data.batch(index)
    if isinstance(data, AvalancheDataset) and len(data) > 0:
        try:
            source = batch_source(data).on(device)
        except ValueError:  # put together sample by sample then
            return None
        return lambda index: source.__getitems__(index.tolist())
    return None


def _stream(batches: Iterable[Any], max_samples: int | None, share: Share) -> Iterator[Any]:
    """Deal mini-batches out to the processes, which all see the same ones."""
    seen = 0
    for number, batch in enumerate(batches):
        items = list(batch) if isinstance(batch, list | tuple) else [batch]
        count = count_samples(items[0])
        if max_samples is not None and seen + count > max_samples:
            keep = max_samples - seen
            items = [_first(item, keep) for item in items]
            count = keep
        seen += count
        if number % share.world == share.rank:
            yield items
        if max_samples is not None and seen >= max_samples:
            return


def _first(item: Any, keep: int) -> Any:
    return tree_map(lambda t: t[:keep] if isinstance(t, Tensor) and t.dim() else t, item)


def _by_task(x: Any, y: Any, items: list[Any]) -> Iterator[MiniBatch]:
    count = count_samples(x)
    labels = items[-1] if len(items) > 2 else None
    if isinstance(labels, int):
        labels = torch.tensor(labels)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() > 1:
        raise ValueError(
            "Expected `task_label` to be given, or to be the last of three or more items of each "
            f"mini-batch, as `model` is a multi-task model; got neither, and {len(items)} items."
        )
    labels = labels.reshape(-1).expand(count)
    distinct = sorted(set(labels.tolist()))
    if len(distinct) == 1:
        yield MiniBatch(x, y, distinct[0])
        return
    for label in distinct:
        index = (labels == label).nonzero().flatten()

        def pick(tensor: Any, index: Tensor = index) -> Any:
            return tensor[index.to(tensor.device)] if isinstance(tensor, Tensor) else tensor

        yield MiniBatch(tree_map(pick, x), tree_map(pick, y), label)
