"""Feed Avalanche strategies with mini-batches cut from tensors instead of samples put together.

Avalanche fetches a mini-batch sample by sample through its dataset tree, which makes the training
of a small network two to three times as long as a loop over tensors. Where the data are tensors
anyway, a mini-batch is one indexing operation. Two pieces do this:

- :class:`BatchDataset` holds the tensors of a data set, with transforms that work on mini-batches.
- :class:`TensorBatches` is a mixin for strategies. ``class FastNaive(TensorBatches, Naive): pass``
  trains on the same mini-batches, in the same order and to the bit, as ``Naive`` does.

Samples go to the strategy's device as they are stored, a byte a pixel for images, and are augmented
and transformed there.

Data that cannot be cut in this way (a root that is no tensor data set, or a per-sample transform of
the input) take Avalanche's own path, and a warning names the reason once.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader, MultiDatasetSampler
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from avalanche.benchmarks.utils.transforms import TupleTransform
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

__all__ = ["BatchDataset", "BatchSource", "TensorBatches", "batch_source"]

Transform = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


class BatchDataset(Dataset[tuple[Tensor, int]]):
    """Inputs and targets as tensors, with transforms that work on whole mini-batches.

    Args:
        x: Inputs as stored, of shape ``(N, ...)`` and any dtype; may be memory-mapped.
        y: Class labels of shape ``(N,)``.
        transform: Deterministic map from a stored mini-batch ``(B, ...)`` to the model's input
            (decoding, normalisation, a permutation of pixels). None: inputs are used as stored.
        augment: Random map ``augment(x, generator)`` on a stored mini-batch, applied before
            ``transform`` and only by :class:`TensorBatches` while training. ``x`` lies on the
            training device, the generator on the CPU: what is drawn on the CPU and then moved is
            the same for every device.

    Raises:
        TypeError: If ``x`` or ``y`` is not a tensor.
        ValueError: If their lengths differ.

    Example:
        >>> x = torch.arange(6, dtype=torch.uint8).reshape(3, 2)
        >>> data = BatchDataset(x, torch.tensor([0, 1, 0]), transform=lambda b: b / 2)
        >>> data[2]
        (tensor([2.0000, 2.5000]), 0)
        >>> data.batch([0, 2])[1]
        tensor([0, 0])
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        transform: Transform | None = None,
        augment: Augment | None = None,
    ) -> None:
        for name, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"Expected `{name}` to be a tensor, got {type(value).__name__}.")
        if len(x) != len(y):
            raise ValueError(
                f"Expected `x` and `y` to hold as many samples, got {len(x)} and {len(y)}."
            )
        self.x = x
        self.y = y
        self.transform = transform
        self.augment = augment

    @property
    def targets(self) -> list[int]:
        """Class labels as Avalanche reads them."""
        labels: list[int] = self.y.tolist()
        return labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.batch([index])
        return x[0], int(y[0])

    def batch(
        self,
        indices: Sequence[int] | Tensor,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cut one mini-batch.

        Args:
            indices: Positions of the samples, in the order wanted.
            generator: Source of randomness for ``augment``; None leaves inputs unaugmented.
            device: Where inputs are moved before they are augmented and transformed; None: they
                stay where they are stored.

        Returns:
            The transformed inputs ``(B, ...)``, and the labels ``(B,)`` where they are stored.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.x.device)
        x = self.x[chosen]
        if device is not None:
            x = x.to(device)
        if self.augment is not None and generator is not None:
            x = self.augment(x, generator)
        if self.transform is not None:
            x = self.transform(x)
        return x, self.y[chosen.to(self.y.device)]

    def to(self, device: torch.device | str) -> Self:
        """Return the same data set with its tensors on ``device``."""
        return type(self)(
            self.x.to(device), self.y.to(device), transform=self.transform, augment=self.augment
        )


class BatchSource(Dataset[list[Tensor]]):
    """Mini-batches ``[x, y, attribute, ...]`` of a data set, one indexing operation each.

    It is made by :func:`batch_source`. Iterating a ``DataLoader`` over it calls
    ``__getitems__``, whose result is a finished mini-batch.

    Args:
        roots: The tensor data sets in which the samples lie.
        root: For each sample, the position of its data set in ``roots``, of shape ``(N,)``.
        index: For each sample, its position in that data set, of shape ``(N,)``.
        columns: What follows the input in a mini-batch: tensors of shape ``(N,)``.
    """

    def __init__(
        self,
        roots: Sequence[BatchDataset | TensorDataset],
        root: Tensor,
        index: Tensor,
        columns: Sequence[Tensor],
    ) -> None:
        self.roots = list(roots)
        self.root = root
        self.index = index
        self.columns = list(columns)
        self.generator: torch.Generator | None = None
        self.device: torch.device | str | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Cut the mini-batch of these samples."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return [self._inputs(chosen), *(column[chosen] for column in self.columns)]

    def augmented(self, generator: torch.Generator) -> Self:
        """Return the same source with the training augmentation drawn from ``generator``."""
        source = copy(self)
        source.generator = generator
        return source

    def on(self, device: torch.device | str | None) -> Self:
        """Return the same source with inputs moved to ``device`` before they are transformed.

        Args:
            device: The device of the model; None leaves inputs where they are stored.
        """
        source = copy(self)
        source.device = device
        return source

    def _inputs(self, chosen: Tensor) -> Tensor:
        if len(self.roots) == 1:
            return self._cut(self.roots[0], self.index[chosen])
        which = self.root[chosen]
        parts = [(i, (which == i).nonzero().flatten()) for i in set(which.tolist())]
        cut = [self._cut(self.roots[i], self.index[chosen[place]]) for i, place in parts]
        order = torch.cat([place for _, place in parts]).argsort()
        x = torch.cat(cut)
        return x[order.to(x.device)]

    def _cut(self, root: BatchDataset | TensorDataset, index: Tensor) -> Tensor:
        if isinstance(root, BatchDataset):
            return root.batch(index, self.generator, self.device)[0]
        x: Tensor = root.tensors[0]
        x = x[index.to(x.device)]
        return x if self.device is None else x.to(self.device)


def batch_source(data: Dataset[Any]) -> BatchSource:
    """Find the tensors behind a data set.

    Args:
        data: An ``AvalancheDataset`` (subsets, concatenations and attributes included), a
            :class:`BatchDataset` or a ``TensorDataset``.

    Returns:
        A source whose mini-batches equal those that Avalanche's loader puts together.

    Raises:
        ValueError: If the data cannot be cut into mini-batches in this way; the message says why.
    """
    tree: AvalancheDataset[Any] = (
        data if isinstance(data, AvalancheDataset) else AvalancheDataset([data])
    )
    if len(tree) == 0:
        raise ValueError("Expected `data` to hold at least one sample, got none.")
    flat = tree._flat_data
    group = flat._transform_groups.current_group
    leaves: list[tuple[Any, np.ndarray, np.ndarray]] = []
    relabelled = _collect(flat, np.arange(len(flat)), np.arange(len(flat)), group, leaves)
    roots = _unique(leaf for leaf, _, _ in leaves)
    root = torch.empty(len(tree), dtype=torch.int64)
    index = torch.empty(len(tree), dtype=torch.int64)
    for leaf, position, inside in leaves:
        root[torch.from_numpy(position)] = next(i for i, r in enumerate(roots) if r is leaf)
        index[torch.from_numpy(position)] = torch.from_numpy(inside)
    columns = _columns(tree, roots, root, index, relabelled)
    source = BatchSource(roots, root, index, columns)
    _check_equal(source, tree)
    return source


def _unique(items: Any) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if not any(item is other for other in found):
            found.append(item)
    return found


def _collect(
    node: Any,
    position: np.ndarray,
    index: np.ndarray,
    group: str,
    leaves: list[tuple[Any, np.ndarray, np.ndarray]],
) -> bool:
    """Walk Avalanche's tree; say whether some transform changes the targets on the way."""
    if not isinstance(node, FlatData):
        if not isinstance(node, BatchDataset | TensorDataset):
            raise ValueError(
                "Expected the data to rest on a BatchDataset or a TensorDataset, got "
                f"{type(node).__name__}."
            )
        leaves.append((node, position, index))
        return False
    relabelled = _changes_targets_only(node, group)
    if node._indices is not None:
        index = np.asarray(list(node._indices), dtype=np.int64)[index]
    ends = np.cumsum([len(child) for child in node._datasets])
    which = np.searchsorted(ends, index, side="right")
    for i, child in enumerate(node._datasets):
        here = which == i
        if here.any():
            start = ends[i - 1] if i else 0
            relabelled |= _collect(child, position[here], index[here] - start, group, leaves)
    return relabelled


def _changes_targets_only(node: Any, group: str) -> bool:
    relabelled = False
    for groups in (
        getattr(node, "_frozen_transform_groups", None),
        getattr(node, "_transform_groups", None),
    ):
        transform = None if groups is None else groups[group]
        if transform is None:
            continue
        if not isinstance(transform, TupleTransform) or transform.transforms[0] is not None:
            raise ValueError(
                f"Expected no per-sample transform of the input in group {group!r}, got "
                f"{transform}. Give a BatchDataset a `transform` or an `augment` on mini-batches."
            )
        relabelled |= any(t is not None for t in transform.transforms[1:])
    return relabelled


def _columns(
    data: AvalancheDataset[Any],
    roots: Sequence[BatchDataset | TensorDataset],
    root: Tensor,
    index: Tensor,
    relabelled: bool,
) -> list[Tensor]:
    """Gather what follows the input: the root's other tensors, then Avalanche's attributes."""
    per_root = [[r.y] if isinstance(r, BatchDataset) else list(r.tensors[1:]) for r in roots]
    width = len(per_root[0])
    if any(len(tensors) != width for tensors in per_root):
        raise ValueError("Expected all joined data sets to have items of the same length.")
    columns = []
    for j in range(width):
        column = torch.empty((len(index), *per_root[0][j].shape[1:]), dtype=per_root[0][j].dtype)
        for i, tensors in enumerate(per_root):
            here = root == i
            column[here] = tensors[j].cpu()[index[here]]
        columns.append(column)
    if relabelled and columns:
        columns[0] = _values(data.targets.data)
    attributes = data._data_attributes.values()
    return columns + [_values(a.data) for a in attributes if a.use_in_getitem]


def _values(flat: Any, index: np.ndarray | None = None) -> Tensor:
    """Read an attribute's values at once; its own iteration costs microseconds a sample."""
    index = np.arange(len(flat)) if index is None else index
    if isinstance(flat, ConstantSequence):
        return torch.full((len(index),), flat[0])
    if not isinstance(flat, FlatData):
        return torch.as_tensor(np.asarray(flat))[torch.from_numpy(index)]
    if flat._indices is not None:
        index = np.asarray(list(flat._indices), dtype=np.int64)[index]
    ends = np.cumsum([len(child) for child in flat._datasets])
    which = np.searchsorted(ends, index, side="right")
    if len(flat._datasets) == 1:
        return _values(flat._datasets[0], index)
    parts = [
        _values(child, index[which == i] - (ends[i - 1] if i else 0))
        for i, child in enumerate(flat._datasets)
        if (which == i).any()
    ]
    order = np.argsort(which, kind="stable")
    return torch.cat(parts)[torch.from_numpy(np.argsort(order, kind="stable"))]


def _check_equal(source: BatchSource, data: AvalancheDataset[Any]) -> None:
    """Hold a few samples against Avalanche's own."""
    for i in {0, len(data) // 2, len(data) - 1}:
        ours, theirs = source.__getitems__([i]), list(data[i])
        same = len(ours) == len(theirs) and all(
            torch.equal(a[0].cpu(), torch.as_tensor(b).cpu())
            for a, b in zip(ours, theirs, strict=True)
        )
        if not same:
            raise ValueError(f"Expected sample {i} to be the same by both paths, and it is not.")


class TensorBatches:
    """Strategy mixin: mini-batches are cut from tensors where the data allow it.

    Put it before the strategy: ``class FastMAS(TensorBatches, MAS): pass``. The order of the
    samples comes from the same samplers as in Avalanche, so mini-batches are the same to the bit
    for the same random state. They are augmented and transformed on the strategy's device, unless
    worker processes load them (``num_workers``).

    An evaluation plugin without metrics and loggers is left out of ``plugins`` from the start of a
    training or an evaluation to the next one: it copies the experience at each of the callbacks,
    which takes a twentieth of the time of a small network.

    Attributes:
        batch_generator: Source of randomness for the order of the training samples and their
            augmentation. None: the order comes from torch's global state, as in Avalanche, and
            augmentation from a generator seeded by it.
    """

    batch_generator: torch.Generator | None = None
    dataloader: Any
    device: torch.device
    evaluator: EvaluationPlugin
    plugins: list[Any]

    def _before_training(self, **kwargs: Any) -> None:
        self._seat_evaluator()
        super()._before_training(**kwargs)  # type: ignore[misc]

    def _before_eval(self, **kwargs: Any) -> None:
        self._seat_evaluator()
        super()._before_eval(**kwargs)  # type: ignore[misc]

    def _seat_evaluator(self) -> None:
        evaluator = self.evaluator
        idle = type(evaluator) is EvaluationPlugin and not (
            evaluator.metrics or evaluator.loggers or evaluator.strict_checks
        )
        if idle == any(plugin is evaluator for plugin in self.plugins):
            # A new list: a plugin that evaluates is called from a loop over the old one.
            others = [plugin for plugin in self.plugins if plugin is not evaluator]
            self.plugins = others if idle else [*others, evaluator]

    def _obtain_common_dataloader_parameters(self, **kwargs: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._obtain_common_dataloader_parameters(  # type: ignore[misc]
            **kwargs
        )
        if self.batch_generator is not None and kwargs.get("shuffle"):
            arguments["generator"] = self.batch_generator
        return arguments

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Make Avalanche's training loader and let it cut mini-batches from tensors."""
        super().make_train_dataloader(**kwargs)  # type: ignore[misc]
        self._cut_batches(train=True)

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Make Avalanche's evaluation loader and let it cut mini-batches from tensors."""
        super().make_eval_dataloader(**kwargs)  # type: ignore[misc]
        self._cut_batches(train=False)

    def _cut_batches(self, *, train: bool) -> None:
        loader = self.dataloader
        multi = isinstance(loader, MultiDatasetDataLoader)
        try:
            sources = [batch_source(d) for d in (loader.datasets if multi else [loader.dataset])]
        except ValueError as error:
            message = f"Mini-batches are put together sample by sample: {error}"
            warnings.warn(message, stacklevel=2)
            return
        if train and any(
            isinstance(root, BatchDataset) and root.augment is not None
            for source in sources
            for root in source.roots
        ):
            generator = self.batch_generator or _generator_from_global_state()
            sources = [source.augmented(generator) for source in sources]
        # Worker processes must leave an accelerator alone.
        if not (loader.loader_kwargs.get("num_workers") if multi else loader.num_workers):
            sources = [source.on(self.device) for source in sources]
        if multi:
            loader._make_pytorch_loader = partial(_loader, loader.loader_kwargs, sources)
        else:
            self.dataloader = _loader(_arguments(loader), sources, [], loader.batch_sampler)


def _generator_from_global_state() -> torch.Generator:
    state = torch.get_rng_state()
    generator = torch.Generator()
    generator.manual_seed(int(torch.randint(2**62, (1,))))
    torch.set_rng_state(state)
    return generator


class _Joined(Dataset[list[Tensor]]):
    """Several sources one after the other; a mini-batch may take from each."""

    def __init__(self, sources: Sequence[BatchSource]) -> None:
        self.sources = list(sources)
        self.starts = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        position = np.asarray(indices)
        which = np.searchsorted(self.starts, position, side="right") - 1
        order = np.argsort(which, kind="stable")
        parts = [
            source.__getitems__((position[which == i] - self.starts[i]).tolist())
            for i, source in enumerate(self.sources)
            if (which == i).any()
        ]
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        return [torch.cat(column)[back] for column in zip(*parts, strict=True)]


def _arguments(loader: Any) -> dict[str, Any]:
    return {
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "generator": loader.generator,
        "persistent_workers": loader.persistent_workers,
    }


def _loader(
    arguments: dict[str, Any], sources: Sequence[BatchSource], _datasets: Any, batch_sampler: Any
) -> DataLoader[list[Tensor]]:
    kept = {
        key: value
        for key, value in arguments.items()
        if key not in {"batch_size", "shuffle", "sampler", "drop_last", "collate_fn", "ffcv_args"}
    }
    if any(source.device is not None for source in sources):
        # Inputs have been moved already, and only memory of the CPU can be pinned.
        kept["pin_memory"] = False
    alone = len(sources) == 1 and type(batch_sampler) is MultiDatasetSampler
    if alone and not batch_sampler.never_ending:
        # With one data set it hands on what that one's sampler gives.
        (batch_sampler,) = batch_sampler.samplers
    data = sources[0] if len(sources) == 1 else _Joined(sources)
    return _Loader(data, batch_sampler=batch_sampler, collate_fn=_as_it_is, **kept)


class _Loader(DataLoader[list[Tensor]]):
    """A loader that cuts mini-batches itself where no worker processes do.

    For a small network, what torch's own iterator does around a mini-batch takes as long as to cut
    it. The random numbers drawn are the same.
    """

    def __iter__(self) -> Any:
        if self.num_workers:
            return super().__iter__()
        # Torch's iterator draws a seed for worker processes, also where there are none.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return self._cut()

    def _cut(self) -> Iterator[list[Tensor]]:
        for indices in self.batch_sampler:  # type: ignore[union-attr]
            yield self.dataset.__getitems__(indices)  # type: ignore[attr-defined]


def _as_it_is(batch: list[Tensor]) -> list[Tensor]:
    return batch
