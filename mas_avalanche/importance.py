r"""Importance of each parameter for the function that a network has learned.

Memory Aware Synapses ranks a parameter by how much the squared :math:`\ell_2` norm of the network's
output moves when the parameter does, averaged over inputs,

.. math::
    \Omega_i = \frac{1}{N} \sum_{n=1}^N
    \left| \frac{\partial \lVert F(x_n; \theta) \rVert_2^2}{\partial \theta_i} \right|

(Aljundi et al., 2018, Eq. 2, with the squared norm of section 4.1). The magnitude is taken sample
by sample: in the gradient of a mini-batch samples of opposite sign cancel.
"""

import inspect
import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from avalanche.models import MultiTaskModule
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mas_avalanche import local
from mas_avalanche.guard import DivergenceError
from mas_avalanche.mini_batches import (
    Data,
    MiniBatch,
    Share,
    count_samples,
    joined,
    known_length,
    mini_batches,
)
from mas_avalanche.objectives import Objective, masked_units, resolve
from mas_avalanche.per_sample.generic import add_generic
from mas_avalanche.per_sample.gradients import Settings
from mas_avalanche.per_sample.layout import FIRST, SECOND, Layout, agree, find_layout
from mas_avalanche.per_sample.tap import DeviationError, Tap
from mas_avalanche.per_sample.trace import Plan, make_plan
from mas_avalanche.precision import Precision

__all__ = ["Importance", "estimate_importance"]

_LOG = logging.getLogger("mas_avalanche")

_JOIN_BYTES = 4 * 2**20
"""Small mini-batches share a pass while what its rules read stays in a cache."""
_JOIN_SAMPLES = 512


class Importance(dict[str, Tensor]):
    """Importance by parameter name, and how it was come by.

    Attributes:
        num_samples: Samples it was averaged over.
        relative_error: Standard error relative to the norm, where ``tolerance`` was given.
        generic: Names of the parameters that no rule covered.
    """

    num_samples: int = 0
    relative_error: float | None = None
    generic: tuple[str, ...] = ()


def estimate_importance(
    model: nn.Module,
    data: Data,
    *,
    objective: str | Callable[[Any], Tensor] = "squared_l2",
    power: Literal[1, 2] = 1,
    task_label: int | None = None,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    max_samples: int | None = None,
    tolerance: float | None = None,
    check: bool = True,
    progress: bool = False,
    memory_budget: int = 128 * 2**20,
) -> Importance:
    """Average the magnitude of each sample's gradient over a data set.

    The result depends on the samples alone, not on their order nor on how they are split into
    mini-batches. The model is left as it was: mode, ``.grad``, buffers, hooks, and the random
    states of Python, NumPy and torch.

    Args:
        model: Treats samples independently in evaluation mode, in which it is run.
        data: A data set, a data loader, a tensor of inputs, or an iterable of mini-batches; a
            mini-batch is a tensor, or a tuple or list whose first item is the input. It is read as
            it is: switch training transforms off first (``AvalancheDataset.eval()``). Under
            ``torch.distributed`` every process gives the same data and takes its share, and all
            end with the same result.
        objective: What is differentiated: "squared_l2" (MAS), "vector" (each output by itself, the
            magnitudes added), "local" (l-MAS, see :mod:`mas_avalanche.local`), "log_likelihood" of
            the labels that are the second item of a mini-batch, or a function from the output to
            one scalar a sample, of shape (N,).
        power: 1 sums absolute values, 2 squares (with "log_likelihood" EWC's empirical Fisher).
        task_label: Label given to a multi-task model; without it, the last of three or more items
            of each mini-batch.
        batch_size: Samples a mini-batch, where ``data`` does not come in mini-batches.
        device: Where mini-batches are moved; the parameters' own device by default.
        max_samples: Stop after that many samples.
        tolerance: Stop once the standard error, relative to the norm of the result, is below this
            number. Data with random access are then read in a fixed random order.
        check: Refuse a model in which samples influence each other.
        progress: Show a progress bar that counts samples.
        memory_budget: Bytes that temporaries may take beside the importance.

    Returns:
        For each trainable parameter, named as in ``model.named_parameters()``, a non-negative
        tensor of its shape, device and type; with the number of samples as ``.num_samples``.

    Raises:
        ValueError: If an argument is out of range, ``data`` is empty or ``model`` mixes samples.
        DivergenceError: If the importance is not finite.
        TypeError: If ``data`` or ``objective`` is of a kind that cannot be used.
        NotImplementedError: If "local" meets a parameter without a rule.

    Example:
        >>> line = nn.Linear(1, 1)
        >>> with torch.no_grad():
        ...     _ = line.weight.fill_(1.0), line.bias.fill_(0.0)
        >>> estimate_importance(line, torch.tensor([[1.0], [-1.0]]))
        {'weight': tensor([[2.]]), 'bias': tensor([2.])}
    """
    _check_arguments(power, batch_size, max_samples, tolerance, memory_budget)
    prefix, inner = _unwrap(model)
    share = _own_share()
    multitask = _takes_task_labels(inner)
    engine = _Engine(inner, resolve(objective), Settings(power, memory_budget), multitask, check)
    device = device or next((p.device for p in inner.parameters()), torch.device("cpu"))
    precision = None
    if tolerance is not None:
        precision = Precision(tolerance, engine.totals, known_length(data), share.world)
    with _guarded(inner, data), _bar(data, max_samples, progress) as bar:
        batches = mini_batches(
            data,
            batch_size,
            task_label=task_label,
            multitask=multitask,
            max_samples=max_samples,
            shuffle=tolerance is not None,
            share=share,
            device=device,
        )
        if precision is None and _outlive_the_next(data):
            batches = joined(batches, engine.room)
        for batch in batches:
            engine.add(_moved(batch, device, engine.objective.reads_labels))
            bar.update(len(batch))
            if precision is not None and precision.reached(engine.totals, len(batch)):
                break
        else:
            if precision is not None:
                precision.wait()
    num_samples = _reduce(engine, share)
    result = engine.result(num_samples, prefix)
    _check_finite(result)
    if precision is not None:
        result.relative_error = precision.relative_error
        _LOG.info(
            "Importance from %d samples, relative standard error %.3g.",
            num_samples,
            result.relative_error,
        )
    return result


def _check_arguments(
    power: int,
    batch_size: int,
    max_samples: int | None,
    tolerance: float | None,
    memory_budget: int,
) -> None:
    if power not in (1, 2):
        raise ValueError(f"Expected `power` to be 1 or 2, got {power!r}.")
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be at least 1, got {batch_size!r}.")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"Expected `max_samples` to be at least 1, got {max_samples!r}.")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"Expected `tolerance` to be positive and finite, got {tolerance!r}.")
    if memory_budget < 1:
        raise ValueError(f"Expected `memory_budget` to be at least 1, got {memory_budget!r}.")


def _check_finite(importance: Importance) -> None:
    for name, value in importance.items():
        # A sum costs one walk and no memory; only a suspicion is looked into.
        if not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
            raise DivergenceError(
                f"Expected the importance of `{name}` to be finite, got NaN or infinity. Either "
                "the inputs hold such numbers, or the weights grew too large in a training."
            )


def _unwrap(model: nn.Module) -> tuple[str, nn.Module]:
    """Go past a wrapper that would wait for gradients of every parameter."""
    if isinstance(model, DistributedDataParallel):
        return "module.", model.module
    return "", model


def _own_share() -> Share:
    if distributed.is_available() and distributed.is_initialized():
        return Share(distributed.get_rank(), distributed.get_world_size())
    return Share()


def _takes_task_labels(model: nn.Module) -> bool:
    if isinstance(model, MultiTaskModule):
        return True
    return "task_labels" in inspect.signature(model.forward).parameters


def _outlive_the_next(data: Data) -> bool:
    """Say whether mini-batches can be held: who writes an iterator may fill one buffer anew."""
    return known_length(data) is not None or isinstance(data, DataLoader | list | tuple)


def _moved(batch: MiniBatch, device: torch.device | str, reads_labels: bool) -> MiniBatch:
    def move(tensor: Any) -> Any:
        return tensor.to(device, non_blocking=True) if isinstance(tensor, Tensor) else tensor

    x = move(batch.x) if isinstance(batch.x, Tensor) else tree_map(move, batch.x)
    return MiniBatch(x, tree_map(move, batch.y) if reads_labels else None, batch.task_label)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bar(data: Data, max_samples: int | None, progress: bool) -> Any:
    length = known_length(data)
    total = max_samples if length is None else min(length, max_samples or length)
    return tqdm(desc="importance", unit=" samples", total=total, disable=not progress)


def _reduce(engine: "_Engine", share: Share) -> int:
    """Add up what all processes have found."""
    if share.world == 1:
        return engine.num_samples
    device = next((t.device for t in engine.totals.values()), torch.device("cpu"))
    count = torch.tensor(engine.num_samples, dtype=torch.int64, device=device)
    distributed.all_reduce(count)
    for total in engine.totals.values():
        distributed.all_reduce(total)
    return int(count)


@contextmanager
def _guarded(model: nn.Module, data: Data) -> Iterator[None]:
    """Run in evaluation mode, and put back whatever the passes may change."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(module, name, b, b.clone()) for module, name, b in _buffers(model)]
    renormed = [
        (p, p.detach().clone())
        for module in model.modules()
        if getattr(module, "max_norm", None) is not None
        for p in module.parameters(recurse=False)
    ]
    python, numpy = random.getstate(), np.random.get_state()
    generators = [(g, g.get_state()) for g in _generators(data)]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.inference_mode(False))
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for generator, state in generators:
            generator.set_state(state)
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
            for parameter, value in renormed:
                parameter.copy_(value)


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module, name, buffer


def _generators(data: Any) -> list[torch.Generator]:
    if not isinstance(data, DataLoader):
        return []
    own = (data.generator, getattr(data.sampler, "generator", None))
    return [g for g in own if isinstance(g, torch.Generator)]


@dataclass
class _Planned:
    """A plan, and from how many samples it was made."""

    plan: Plan
    distinct: int
    available: int
    bytes_a_sample: float = math.inf


class _Engine:
    """Add up per-sample magnitudes of mini-batches: state is (sums, count)."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        settings: Settings,
        multitask: bool,
        check: bool,
    ) -> None:
        self.model = model
        self.objective = objective
        self.settings = settings
        self.multitask = multitask
        self.check = check
        self.parameters: dict[str, Tensor] = {
            n: p for n, p in model.named_parameters() if p.requires_grad
        }
        self.totals = {
            n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for n, p in self.parameters.items()
        }
        self.num_samples = 0
        self.plans: dict[Any, _Planned] = {}
        self.announced: set[str] = set()

    def add(self, batch: MiniBatch) -> None:
        """Add a mini-batch's magnitudes to the sums."""
        if self.parameters:
            self._add(batch)
        self.num_samples += len(batch)

    def room(self, batch: MiniBatch) -> int:
        """Say how many samples like these may share a pass, and its fixed time with it."""
        known = self.plans.get(_kind(batch))
        if known is None:
            return len(batch)
        return int(min(_JOIN_SAMPLES, _JOIN_BYTES / known.bytes_a_sample))

    def result(self, num_samples: int, prefix: str) -> Importance:
        """Average the sums.

        Args:
            num_samples: Samples of all processes.
            prefix: Prefix of the parameters' names.

        Returns:
            The importance in the parameters' own types.

        Raises:
            ValueError: If there were no samples.
        """
        if num_samples == 0:
            raise ValueError("Expected `data` to hold at least one sample, got none.")
        result = Importance(
            {
                prefix + n: total.div_(num_samples).to(self.parameters[n].dtype)
                for n, total in self.totals.items()
            }
        )
        result.num_samples = num_samples
        result.generic = tuple(prefix + n for n in self.parameters if n in self.announced)
        return result

    def _add(self, batch: MiniBatch) -> None:
        planned = self._plan(batch)
        plan = planned.plan
        generic = set(self.parameters)
        if plan.steps is not None:
            tap = self._tap(plan, self.totals)
            try:
                tap.run(
                    lambda: self._output(self.model, batch.x, batch.task_label),
                    lambda output: self.objective.sums(output, batch.y),
                )
                generic = plan.generic
                if not generic:
                    planned.bytes_a_sample = max(1, tap.read_bytes) / len(batch)
            except DeviationError as error:
                _LOG.debug("A mini-batch is left to the generic path: %s", error)
        if not generic:
            return
        if self.objective.name == "local":
            raise NotImplementedError(
                "Expected every trainable parameter to be read by operations with a local rule, "
                f"got {', '.join(sorted(generic))}. Freeze them, or take another objective."
            )
        self._announce(generic)

        def evaluate(run: Callable[..., Any], x: Any, y: Tensor | None) -> Tensor:
            return self._evaluate(run, x, y, batch.task_label)

        names = [n for n in self.parameters if n in generic]
        add_generic(self.model, names, evaluate, batch.x, batch.y, self.totals, self.settings)

    def _tap(self, plan: Plan, totals: dict[str, Tensor] | None) -> Tap:
        kind = local.LocalTap if self.objective.name == "local" else Tap
        return kind(plan, self.parameters, totals, self.settings)

    def _evaluate(
        self, run: Callable[..., Any], x: Any, y: Tensor | None, label: int | None
    ) -> Tensor:
        return self.objective.sums(self._output(run, x, label), y)

    def _output(self, run: Callable[..., Any], x: Any, label: int | None) -> Any:
        return run(x, label) if self.multitask else run(x)

    def _announce(self, names: set[str]) -> None:
        new = names - self.announced
        if new:
            _LOG.warning(
                "No rule covers %s: computed exactly, but slower, sample by sample.",
                ", ".join(sorted(new)),
            )
        self.announced |= new

    def _plan(self, batch: MiniBatch) -> _Planned:
        """Find the plan for mini-batches of this kind, or make it."""
        kind = _kind(batch)
        known = self.plans.get(kind)
        if known is not None and (known.distinct == FIRST or known.available >= len(batch)):
            return known
        chosen, distinct = _distinct_samples(_tensors(batch.x), count_samples(batch.x))
        made = _Planned(self._new_plan(batch, chosen), distinct, len(batch))
        self.plans[kind] = made
        return made

    def _new_plan(self, batch: MiniBatch, chosen: list[int]) -> Plan:
        indices = (chosen, [chosen[1], chosen[0]])

        def part(tree: Any, which: int) -> Any:
            return tree_map(lambda t: t[indices[which]] if isinstance(t, Tensor) else t, tree)

        xs = [part(batch.x, which) for which in (0, 1)]
        ys = [part(batch.y, which) for which in (0, 1)]
        outputs: list[Any] = [None, None]

        def run(which: int) -> None:
            outputs[which] = self._output(self.model, xs[which], batch.task_label)

        def inputs(which: int) -> list[Tensor]:
            return _tensors(xs[which])

        plan = make_plan(run, self.parameters, inputs)
        values = [self.objective.values(o, y) for o, y in zip(outputs, ys, strict=True)]
        if self.check:
            self._check_independence(*values)
        if plan.steps is None:
            return plan

        def forward() -> Any:
            return self._output(self.model, xs[0], batch.task_label)

        def reduce(output: Any) -> Tensor:
            return self.objective.sums(output, ys[0])

        try:
            past = self._rehearse(plan, forward, reduce)
            if past:
                plan = make_plan(run, self.parameters, inputs, past)
                self._rehearse(plan, forward, reduce)
        except RuntimeError as error:
            _LOG.debug("The model is left to the generic path: %s", error)
            return Plan(None, generic=set(self.parameters))
        if self.objective.name == "vector":
            masked = masked_units(outputs[0])
            tap = self._tap(plan, None)
            if masked:
                tap.run(forward, lambda output: reduce(output)[masked].sum(0, keepdim=True))
            # Only units that no parameter reaches may be skipped.
            plan.skipped = set() if tap.reached else set(masked)
        return plan

    def _rehearse(
        self, plan: Plan, forward: Callable[[], Any], reduce: Callable[[Any], Tensor]
    ) -> frozenset[str]:
        """Take the passes without adding anything; name the parameters that get past the plan."""
        tap = Tap(plan, self.parameters, None, self.settings)
        try:
            if self.objective.name == "local":
                tap.follow(forward, reduce)
                self._rehearse_local(plan, forward, reduce)
            else:
                tap.run(forward, lambda output: reduce(output).sum(0, keepdim=True))
        except DeviationError as error:
            if not error.past:
                raise
            return error.past
        return frozenset()

    def _rehearse_local(
        self, plan: Plan, forward: Callable[[], Any], reduce: Callable[[Any], Tensor]
    ) -> None:
        """Find out whether the model follows the plan where no tensor needs a gradient."""
        plan.graph = False
        try:
            self._tap(plan, None).run(forward, reduce)
        except DeviationError:
            plan.graph = True
            self._tap(plan, None).run(forward, reduce)

    def _check_independence(self, first: list[Tensor], second: list[Tensor]) -> None:
        for a, b in zip(first, second, strict=True):
            if _independent(a, b):
                continue
            culprits = [
                name
                for name, module in self.model.named_modules()
                if isinstance(module, nn.modules.batchnorm._NormBase)
                and module.running_mean is None
            ]
            found = f" `{'`, `'.join(culprits)}` has none." if culprits else ""
            raise ValueError(
                "Expected `model` to treat samples independently, got an output that depends on "
                "the other samples of the mini-batch, or has no dimension of samples. Batch "
                "statistics do this: give BatchNorm running statistics "
                f"(`track_running_stats=True`) or replace it, for instance by GroupNorm.{found} "
                "With `check=False` each sample counts as if it were alone."
            )


def _kind(batch: MiniBatch) -> Any:
    return batch.task_label, tuple((t.shape[1:], t.dtype) for t in _tensors(batch.x))


def _independent(first: Tensor, second: Tensor) -> bool:
    """Say whether samples (a, b) of one mini-batch reappear in the other, which holds (b, a)."""
    if first.dim() == 0 or first.dim() != second.dim():
        return False
    if find_layout(first.detach(), second.detach()) is not None:
        return True
    for dim, (m, n) in enumerate(zip(first.shape, second.shape, strict=True)):
        if m * SECOND == n * FIRST and m > 0:
            layouts = [Layout(dim, m // FIRST, order) for order in (True, False)]
            return any(agree(lo.samples(first)[[1, 0]], lo.samples(second)) for lo in layouts)
    return False


def _distinct_samples(leaves: list[Tensor], count: int) -> tuple[list[int], int]:
    """Choose samples to probe with that differ from each other, as far as there are any."""
    few = min(count, 16)
    chosen = [0]
    for index in range(1, few):
        if len(chosen) == FIRST:
            break
        if all(any(not torch.equal(t[index], t[i]) for t in leaves) for i in chosen):
            chosen.append(index)
    distinct = len(chosen)
    return (chosen * FIRST)[:FIRST], distinct
