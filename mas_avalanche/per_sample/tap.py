"""Run a mini-batch once, forward and backward, and sum per-sample magnitudes on the way.

The forward pass runs under a function mode that follows the plan. Where a call uses trainable
parameters they are detached, so autograd computes no gradient of the mini-batch for them, and the
output is tapped: when its gradient arrives, the rule adds the sum over samples to an accumulator.
After the forward pass the graph is searched for trainable parameters: one that is found got past
the plan, and the mini-batch is left to the generic path.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from mas_avalanche.per_sample.decompose import DECOMPOSED
from mas_avalanche.per_sample.gradients import (
    Convolution,
    Gradient,
    LookUp,
    Product,
    Settings,
    add_magnitudes,
    is_outer,
    quiet_vmap,
)
from mas_avalanche.per_sample.trace import Decomposition, Derivation, Plan, Source, Use

__all__ = ["DeviationError", "Tap"]

_NOTHING = nullcontext()


class DeviationError(RuntimeError):
    """The model took another way through its operations than the plan foresees.

    Args:
        message: What happened.
        past: Names of parameters that reached the output past every planned use.
    """

    def __init__(self, message: str, past: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.past = past


class _Attach(torch.autograd.Function):
    """Identity on the outputs of a call that hands their gradients on."""

    @staticmethod
    def forward(
        ctx: Any, finish: Any, num_outputs: int, anchor: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        del anchor  # makes the outputs require a gradient
        outputs, saved = tensors[:num_outputs], tensors[num_outputs:]
        ctx.mark_dirty(*outputs)
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        ctx.finish = finish
        ctx.num_saved = len(saved)
        return outputs

    @staticmethod
    def backward(ctx: Any, *deltas: Any) -> Any:
        ctx.finish(ctx.saved_tensors, deltas)
        return None, None, None, *deltas, *(None,) * ctx.num_saved


class Tap(TorchFunctionMode):
    """Follow a plan through one mini-batch.

    Args:
        plan: How the model uses its parameters.
        parameters: The trainable parameters by name.
        totals: Accumulators by name; None runs the passes without adding anything.
        settings: How magnitudes are taken.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: dict[str, Tensor],
        totals: dict[str, Tensor] | None,
        settings: Settings,
    ) -> None:
        super().__init__()
        if plan.steps is None:
            raise DeviationError("Expected a plan with a sequence of operations, got none.")
        self.plan = plan
        self.steps = plan.steps
        self.parameters = parameters
        self.totals = totals or {}
        self.dry = totals is None
        self.reached = False
        self.read_bytes = 0
        self.settings = settings
        self.known: dict[Source, Tensor] = {}
        self.known.update(parameters)
        self.position = 0
        self.anchor = torch.zeros((), requires_grad=True)
        self.waiting: list[list[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]]]
        self.waiting = [[] for _ in plan.groups]
        self.several = False
        self.outer: dict[Source, _Outer] = {}

    def run(self, forward: Callable[[], Any], reduce: Callable[[Any], Tensor]) -> None:
        """Add the magnitudes of one mini-batch to the accumulators.

        Args:
            forward: Runs the model.
            reduce: Gives the objectives of its output, each summed over the samples, of shape
                (objectives,).

        Raises:
            DeviationError: If the model did not follow the plan; nothing has been added then.
        """
        values = self.follow(forward, reduce)
        if not values.requires_grad:
            return
        kind = values.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else _NOTHING:
            self._backward(values)

    def _backward(self, values: Tensor) -> None:
        if values.numel() == 1:
            torch.autograd.grad(values, self.anchor, allow_unused=True)
            self._join()
            return
        wanted = [i for i in range(values.numel()) if i not in self.plan.skipped]
        self.several = len(wanted) > 1
        for index in wanted:
            more = index != wanted[-1]
            torch.autograd.grad(values[index], self.anchor, retain_graph=more, allow_unused=True)
            self._join()
        for entry in self.outer.values():
            entry.add(self.settings)

    def follow(self, forward: Callable[[], Any], reduce: Callable[[Any], Tensor]) -> Tensor:
        """Take the forward pass alone.

        Args:
            forward: Runs the model.
            reduce: As for :meth:`run`.

        Returns:
            The objectives.

        Raises:
            DeviationError: If the model did not follow the plan.
        """
        with torch.enable_grad():
            with self:
                output = forward()
            values = reduce(output)
        if self.position != len(self.steps):
            raise DeviationError("The model made fewer calls, or other ones, than planned.")
        if values.requires_grad:
            reaching = leaves_in_graph(values)
            past = {n for n, p in self.parameters.items() if id(p) in reaching} - self.plan.generic
            if past:
                message = "Parameters reached the output past the plan."
                raise DeviationError(message, frozenset(past))
        return values

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.position >= len(self.steps):
            raise DeviationError(f"The model made an unplanned call to {func}.")
        index = self.position
        self.position += 1
        step = self.steps[index]
        if step.func is not func and step.func != func:
            self.position = len(self.steps) + 1
            raise DeviationError(f"The model called {func} where {step.func} was planned.")
        kwargs = kwargs or {}
        action = step.action
        if action is None:
            return func(*args, **kwargs)
        if isinstance(action, Decomposition):
            with self:
                return DECOMPOSED[func](*args, **kwargs)
        if isinstance(action, Derivation):
            result = func(*args, **kwargs)
            for output, tensor in enumerate(tree_leaves(result)):
                self.known[index, output] = tensor
            return result
        return self._use(action, func, args, kwargs)

    def _use(self, use: Use, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        flat = use.flat and not kwargs
        leaves, spec = (list(args), None) if flat else tree_flatten((args, kwargs))
        saved = [leaves[place].detach() for place, _ in use.saved]
        self.read_bytes += sum(tensor.nbytes for tensor in saved)
        for operand in use.operands:
            if leaves[operand.place] is not self.known.get(operand.source):
                self.position = len(self.steps) + 1
                raise DeviationError(f"The model gave {func} another parameter than planned.")
            leaves[operand.place] = leaves[operand.place].detach()
        if spec is None:
            result = func(*leaves)
        else:
            args, kwargs = tree_unflatten(leaves, spec)
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._attach(use, [result.clone() if result._is_view() else result], saved)[0]
        outputs, spec = tree_flatten(result)

        tapped = [outputs[place] for place, _ in use.outputs]
        # A view cannot be rewired in place.
        tapped = [t.clone() if t._is_view() else t for t in tapped]
        for (place, _), tensor in zip(use.outputs, self._attach(use, tapped, saved), strict=True):
            outputs[place] = tensor
        return tree_unflatten(outputs, spec)

    def _attach(self, use: Use, outputs: list[Tensor], saved: list[Tensor]) -> Sequence[Tensor]:
        """Have the gradients of a use's outputs handed to :meth:`_finish`."""

        def finish(saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> None:
            self._finish(use, saved, deltas)

        attached: Sequence[Tensor] = _Attach.apply(
            finish, len(outputs), self.anchor, *outputs, *saved
        )
        return attached

    def _finish(self, use: Use, saved: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> None:
        if self.dry:
            self.reached |= any(d is not None and bool(d.any()) for d in deltas)
            return
        if all(d is None for d in deltas):
            return
        inputs = [layout.samples(s) for s, (_, layout) in zip(saved, use.saved, strict=True)]
        arrived = [
            None if d is None else layout.samples(d)
            for d, (_, layout) in zip(deltas, use.outputs, strict=True)
        ]
        for operand in use.operands:
            view = self.plan.views.get(operand.source)
            if view is not None:
                name, cuts = view
                total = self.totals[name]
                for cut in cuts:
                    total = cut(total)
                if self.several and is_outer(operand.gradient, inputs):
                    entry = _Outer(total, operand.gradient, inputs)
                    self.outer.setdefault(operand.source, entry).take(arrived, self.settings)
                else:
                    operand.gradient.add(total, inputs, arrived, self.settings)
            else:
                group = self.plan.joined[operand.source]
                self.waiting[group].append((operand.source, operand.gradient, inputs, arrived))

    def _join(self) -> None:
        """Add the gradients of parameters used several times, then take their magnitude."""
        for roots, entries in zip(self.plan.groups, self.waiting, strict=True):
            if not entries:
                continue
            merged = _merge(entries)
            if len(merged) == 1 and roots == [merged[0][0]]:
                _, gradient, saved, deltas = merged[0]
                gradient.add(self.totals[roots[0]], saved, deltas, self.settings)
            else:
                self._join_group(roots, merged)
            entries.clear()

    def _join_group(
        self,
        roots: Sequence[str],
        entries: Sequence[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]],
    ) -> None:
        count = next(len(d) for _, _, _, deltas in entries for d in deltas if d is not None)
        numel = 2 * sum(self.known[source].numel() for source, *_ in entries)
        numel += sum(self.parameters[root].numel() for root in roots)
        step = self.settings.samples(numel, self.totals[roots[0]])
        for start in range(0, count, step):
            part = slice(start, start + step)
            gradients: dict[Source, Tensor] = {}
            for source, gradient, saved, deltas in entries:
                new = gradient.gradients(
                    [s[part] for s in saved], [None if d is None else d[part] for d in deltas]
                )
                gradients[source] = gradients[source] + new if source in gradients else new
            for root, joined in self._pull(roots, gradients).items():
                add_magnitudes(self.totals[root], joined, self.settings.power)

    def _pull(self, roots: Sequence[str], gradients: dict[Source, Tensor]) -> dict[str, Tensor]:
        """Carry per-sample gradients of derived tensors back to the parameters."""
        result = {root: gradients[root] for root in roots if root in gradients}
        derived = {s: g for s, g in gradients.items() if not isinstance(s, str)}
        if not derived:
            return result
        tensors = [self.known[source] for source in derived]
        leaves = [self.parameters[root] for root in roots]
        given = [
            g.reshape(len(g), *t.shape).to(t.dtype)
            for g, t in zip(derived.values(), tensors, strict=True)
        ]

        def pull(grads: Sequence[Tensor], batched: bool) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(
                tensors,
                leaves,
                grads,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )

        try:
            with quiet_vmap():
                pulled = pull(given, True)
        except RuntimeError:  # vmap has no rule for a derivation
            each = [pull([g[n] for g in given], False) for n in range(len(given[0]))]
            pulled = tuple(
                None if column[0] is None else torch.stack(list(column))
                for column in zip(*each, strict=True)
            )
        for root, gradient in zip(roots, pulled, strict=True):
            if gradient is not None:
                result[root] = result[root] + gradient if root in result else gradient
        return result


@dataclass
class _Outer:
    r"""A use whose gradients are outer products, over the passes of several objectives.

    As :math:`\sum_k |\delta_k a|^p = (\sum_k |\delta_k|^p)\, |a|^p`, one product serves them all.

    Args:
        total: Accumulator.
        gradient: The rule.
        saved: Inputs of the use.
        powers: The sum over objectives of the powers of their gradients' magnitudes.
    """

    total: Tensor
    gradient: Gradient
    saved: list[Tensor]
    powers: Tensor | None = None

    def take(self, deltas: Sequence[Tensor | None], settings: Settings) -> None:
        """Take in what arrived for one objective."""
        (delta,) = deltas
        if delta is None:
            return
        delta = delta.to(self.total.dtype)
        if self.powers is None:
            self.powers = delta.abs() if settings.power == 1 else delta.square()
        elif settings.power == 1:
            self.powers += delta.abs()
        else:
            self.powers.addcmul_(delta, delta)

    def add(self, settings: Settings) -> None:
        """Add the magnitudes of all objectives to the accumulator."""
        if self.powers is not None:
            norm = self.powers if settings.power == 1 else self.powers.sqrt()
            self.gradient.add(self.total, self.saved, [norm], settings)


def _merge(
    entries: Sequence[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]],
) -> list[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]]:
    """Turn several uses of one weight by the same rule into one use at more positions."""
    groups: dict[Any, list[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]]] = {}
    for number, entry in enumerate(entries):
        source, gradient, saved, deltas = entry
        key: Any = number
        if isinstance(gradient, Product | LookUp) and deltas[0] is not None:
            key = (source, gradient)
        elif isinstance(gradient, Convolution) and deltas[0] is not None:
            key = (source, gradient, saved[0].shape[2:], deltas[0].shape[2:])
        groups.setdefault(key, []).append(entry)
    return [_merged(group) for group in groups.values()]


def _merged(
    group: Sequence[tuple[Source, Gradient, list[Tensor], list[Tensor | None]]],
) -> tuple[Source, Gradient, list[Tensor], list[Tensor | None]]:
    source, gradient, saved, deltas = group[0]
    if len(group) == 1:
        return source, gradient, saved, deltas
    xs = [s[0] for _, _, s, _ in group]
    ds = [d[0] for _, _, _, d in group if d[0] is not None]
    if isinstance(gradient, Product):
        xs = [x.flatten(1, -2) for x in xs]
        ds = [d.flatten(1, -2) for d in ds]
    elif isinstance(gradient, LookUp):
        xs = [x.flatten(1) for x in xs]
        ds = [d.flatten(1, -2) for d in ds]
    return source, gradient, [torch.cat(xs, dim=1)], [torch.cat(ds, dim=1)]


def leaves_in_graph(values: Tensor) -> set[int]:
    """Collect the ids of the leaf tensors that a result's gradient would reach."""
    found: set[int] = set()
    stack = [] if values.grad_fn is None else [values.grad_fn]
    seen = set(stack)
    while stack:
        node = stack.pop()
        parents = node.next_functions
        if not parents and hasattr(node, "variable"):
            found.add(id(node.variable))
        for parent, _ in parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return found
