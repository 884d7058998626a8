"""Find out how a model uses its trainable parameters, by running it on two tiny mini-batches.

The trace of a model is the sequence of its calls into torch. A call that reads a trainable
parameter is one of three kinds:

- a *derivation* makes a tensor of parameters alone (a slice, a transpose, a normalised weight);
- a *use* joins parameters with tensors that depend on the samples: a rule or a replay gives the
  per-sample gradients;
- anything else (written in place, samples in no regular layout) leaves its parameters to the
  generic path.

Parameters used once get their sums at once; those used several times, or through derivations that
do more than pick entries, are *joined*: their per-sample gradients are added before the magnitude.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from mas_avalanche.per_sample.decompose import DECOMPOSED, is_packed
from mas_avalanche.per_sample.gradients import Gradient, Replay
from mas_avalanche.per_sample.layout import FIRST, SECOND, Layout, agree, find_layout
from mas_avalanche.per_sample.rules import REPEATING, Bound, bind, find_rule, repeated

__all__ = [
    "Decomposition",
    "Derivation",
    "Operand",
    "Plan",
    "Source",
    "Step",
    "Use",
    "make_plan",
    "writes_in_place",
]

Source = str | tuple[int, int]
"""A parameter's name, or the call and the output from which a derived tensor came."""

_TYPE_ONLY = (torch.Tensor.type_as, torch.Tensor.to, torch.Tensor.expand_as)
_READING = (
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
    torch.Tensor.__contains__,
)
_PICKING = {
    torch.Tensor.chunk,
    torch.chunk,
    torch.Tensor.split,
    torch.split,
    torch.Tensor.unbind,
    torch.unbind,
    torch.Tensor.t,
    torch.t,
    torch.Tensor.transpose,
    torch.transpose,
    torch.Tensor.permute,
    torch.permute,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.reshape,
    torch.Tensor.flatten,
    torch.flatten,
    torch.Tensor.unflatten,
    torch.Tensor.squeeze,
    torch.squeeze,
    torch.Tensor.unsqueeze,
    torch.unsqueeze,
    torch.Tensor.narrow,
    torch.Tensor.select,
    torch.Tensor.__getitem__,
    torch.Tensor.T.__get__,  # type: ignore[attr-defined]
    torch.Tensor.mT.__get__,  # type: ignore[attr-defined]
}


@dataclass(frozen=True)
class Operand:
    """A parameter, or a tensor derived from parameters, in one use.

    Args:
        place: Its position among the call's arguments.
        source: Where it came from.
        gradient: How its per-sample gradients follow.
    """

    place: int
    source: Source
    gradient: Gradient


@dataclass(frozen=True)
class Use:
    """A call that joins parameters with samples.

    Args:
        operands: The parameters it reads.
        saved: Positions of the arguments to keep for the backward pass, with their layouts.
        outputs: Positions of the outputs to tap, with their layouts.
        flat: Whether the arguments are all positional and not nested.
    """

    operands: tuple[Operand, ...]
    saved: tuple[tuple[int, Layout], ...]
    outputs: tuple[tuple[int, Layout], ...]
    flat: bool = False


@dataclass(frozen=True)
class Derivation:
    """A call that makes tensors of parameters alone."""

    sources: dict[int, Source]


@dataclass(frozen=True)
class Decomposition:
    """A composite call that is run in pieces."""


@dataclass(frozen=True)
class Step:
    """One call of the sequence, and what to do about it; None leaves it alone."""

    func: Any
    action: Use | Derivation | Decomposition | None = None


@dataclass
class Plan:
    """What to do at each call of a model, and how each parameter's sums come about.

    Args:
        steps: The calls in order; None where no sequence could be established.
        views: For each source whose sums are added at once, how its part of an accumulator is cut.
        joined: Sources whose per-sample gradients are to be added first, by group: their roots.
        generic: Names of the parameters left to the generic path.
        skipped: Objectives that no parameter reaches.
        graph: Whether passes build autograd's graph over the samples.
    """

    steps: list[Step] | None
    views: dict[Source, tuple[str, list[Callable[[Tensor], Tensor]]]] = field(default_factory=dict)
    joined: dict[Source, int] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)
    generic: set[str] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    graph: bool = True


@dataclass
class _Seen:
    """A call as it was met while tracing."""

    func: Any
    decomposed: bool = False
    sources: dict[int, Source] = field(default_factory=dict)
    leaves: list[Any] = field(default_factory=list)
    spec: TreeSpec | None = None
    outputs: list[Any] = field(default_factory=list)
    single: bool = True
    dependent: bool = False
    in_place: bool = False
    graded: bool = False
    flat: bool = False


def make_plan(
    run: Callable[[int], None],
    parameters: dict[str, Tensor],
    inputs: Callable[[int], Iterable[Tensor]],
    generic: Iterable[str] = (),
) -> Plan:
    """Run a model twice and plan the passes to come.

    Args:
        run: Runs the model on the first (0) and on the second (1) mini-batch of probes.
        parameters: The trainable parameters by name.
        inputs: Gives the input tensors of either mini-batch.
        generic: Names of parameters known to be beyond the plan.

    Returns:
        The plan. Where the two runs take different ways, or read values of samples back into
        Python, on which their way may depend, everything is left to the generic path.
    """
    seen = []
    escaped = False
    for which in (0, 1):
        mode = _Trace(parameters, inputs(which))
        with torch.enable_grad(), mode:
            run(which)
        seen.append(mode.calls)
        escaped |= mode.escaped
    same = (
        not escaped
        and len(seen[0]) == len(seen[1])
        and all(a.func == b.func and a.sources == b.sources for a, b in zip(*seen, strict=True))
    )
    if not same:
        return Plan(None, generic=set(parameters))
    return _Planner(parameters, seen[0], seen[1], generic).plan()


@dataclass(frozen=True)
class _Place:
    """Stands for the argument at one position."""

    index: int


class _Trace(TorchFunctionMode):
    """Record every call, and copies of the tensors in those that read trainable parameters."""

    def __init__(self, parameters: dict[str, Tensor], inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[_Seen] = []
        self.sources: dict[int, Source] = {id(p): n for n, p in parameters.items()}
        self.dependent: set[int] = set()
        self.alive: list[Any] = []
        self.escaped = False
        self._mark(inputs)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        tensors = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        sources = {i: self.sources[id(t)] for i, t in tensors.items() if id(t) in self.sources}
        if sources and func in DECOMPOSED and not is_packed(func, args):
            self.calls.append(_Seen(func, decomposed=True))
            with self:
                return DECOMPOSED[func](*args, **kwargs)
        call = _Seen(func, sources=sources)
        self.calls.append(call)
        call.dependent = func not in _TYPE_ONLY and any(
            id(t) in self.dependent for t in tensors.values()
        )
        self.escaped |= call.dependent and func in _READING
        call.flat = not kwargs and not any(isinstance(a, list | tuple | dict) for a in args)
        call.in_place = writes_in_place(func, kwargs)
        if sources:
            call.leaves = [
                leaf.detach().clone() if isinstance(leaf, Tensor) and i not in sources else leaf
                for i, leaf in enumerate(leaves)
            ]
            call.spec = spec
        result = func(*args, **kwargs)
        self._follow(call, tensors, result)
        return result

    def _follow(self, call: _Seen, tensors: dict[int, Tensor], result: Any) -> None:
        outputs = tree_leaves(result)
        touched = [o for o in outputs if isinstance(o, Tensor)]
        if call.sources:
            call.single = isinstance(result, Tensor)
            call.graded = any(t.requires_grad for t in touched)
            call.outputs = [
                o.detach().clone() if isinstance(o, Tensor) and o.requires_grad else None
                for o in outputs
            ]
        if call.dependent:
            self._mark(touched)
            if call.in_place and tensors:
                self._mark([tensors[min(tensors)]])
        elif call.sources and not call.in_place:
            for index, output in enumerate(outputs):
                if isinstance(output, Tensor) and output.requires_grad:
                    self.sources.setdefault(id(output), (len(self.calls) - 1, index))
                    self.alive.append(output)

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self.sources:
                self.dependent.add(id(tensor))
                self.alive.append(tensor)


def writes_in_place(func: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether a call changes one of its arguments."""
    name = getattr(func, "__name__", "")
    dunder = name.startswith("__") and name.endswith("__")
    in_place = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}
    return name in in_place or (name.endswith("_") and not dunder) or "out" in kwargs


class _Planner:
    """Compare two traces call by call."""

    def __init__(
        self,
        parameters: dict[str, Tensor],
        first: list[_Seen],
        second: list[_Seen],
        generic: Iterable[str],
    ) -> None:
        self.parameters = parameters
        self.first = first
        self.second = second
        self.dropped: set[Source] = set()
        self.steps: list[Step] = []
        self.generic = set(generic)

    def plan(self) -> Plan:
        for index, (a, b) in enumerate(zip(self.first, self.second, strict=True)):
            self.steps.append(Step(a.func, self._action(index, a, b)))
        self._forget_generic()
        plan = Plan(self.steps, generic=self.generic)
        self._assign(plan)
        return plan

    def _action(self, index: int, a: _Seen, b: _Seen) -> Use | Derivation | Decomposition | None:
        if a.decomposed:
            return Decomposition()
        if not a.sources or not a.graded:
            return None
        sources = {i: s for i, s in a.sources.items() if s not in self.dropped}
        if len(sources) < len(a.sources) or a.dependent:
            self._drop(index, a)
        if not sources:
            return None
        action: Use | Derivation | None
        if a.in_place:
            action = None
        elif not self._outputs_vary(a, b):
            self._keep(index, a)
            return Derivation(sources)
        else:
            self._drop(index, a)
            action = self._repetition(sources, a, b) or self._use(sources, a, b)
        if action is None:
            for source in sources.values():
                self.generic |= self._roots(source)
        return action

    def _drop(self, index: int, call: _Seen) -> None:
        self.dropped |= {(index, i) for i in range(len(call.outputs))}

    def _keep(self, index: int, call: _Seen) -> None:
        self.dropped -= {(index, i) for i in range(len(call.outputs))}

    def _outputs_vary(self, a: _Seen, b: _Seen) -> bool:
        pairs = zip(a.outputs, b.outputs, strict=True)
        return any(x is not None and (y is None or not agree(x, y)) for x, y in pairs)

    def _roots(self, source: Source) -> set[str]:
        if isinstance(source, str):
            return {source}
        return set().union(*map(self._roots, self.first[source[0]].sources.values()))

    def _repetition(self, sources: dict[int, Source], a: _Seen, b: _Seen) -> Use | None:
        """Rule for a parameter that is given a sample dimension (expand, repeat)."""
        if a.func not in REPEATING or a.dependent or list(sources) != [0]:
            return None
        x, y, shape = a.outputs[0], b.outputs[0], a.leaves[0].shape
        changed = [d for d in range(x.dim()) if x.shape[d] != y.shape[d]]
        if len(changed) != 1:
            return None
        (dim,) = changed
        own = dim - (x.dim() - len(shape))
        entries = shape[own] if own >= 0 else 1
        if x.shape[dim] != FIRST * entries or y.shape[dim] != SECOND * entries:
            return None
        operand = Operand(0, sources[0], repeated(shape))
        return Use((operand,), (), ((0, Layout(dim, entries)),))

    def _use(self, sources: dict[int, Source], a: _Seen, b: _Seen) -> Use | None:
        layouts: dict[int, Layout] = {}
        for i, (x, y) in enumerate(zip(a.leaves, b.leaves, strict=True)):
            if i in sources:
                continue
            if isinstance(x, Tensor) and isinstance(y, Tensor):
                if agree(x, y):
                    continue
                layout = find_layout(x, y)
                if layout is None:
                    return None
                layouts[i] = layout
            elif x != y:
                return None
        return self._by_rule(sources, layouts, a) or self._by_replay(sources, layouts, a, b)

    def _by_rule(
        self, sources: dict[int, Source], layouts: dict[int, Layout], a: _Seen
    ) -> Use | None:
        if a.spec is None or not a.single:
            return None
        marks = [_Place(i) for i in range(len(a.leaves))]
        marked = bind(a.func, *tree_unflatten(marks, a.spec))
        values = bind(a.func, *tree_unflatten(a.leaves, a.spec))
        if marked is None or values is None:
            return None
        places = {n: mark.index for n, mark in marked.items() if isinstance(mark, _Place)}
        by_place = {index: n for n, index in places.items()}
        bound = Bound(
            values,
            frozenset(by_place[i] for i in sources if i in by_place),
            {by_place[i]: layout for i, layout in layouts.items() if i in by_place},
        )
        if len(bound.parameters) != len(sources) or len(bound.layouts) != len(layouts):
            return None
        ruling = find_rule(a.func, bound)
        if ruling is None or not bound.parameters <= ruling.gradients.keys():
            return None
        operands = tuple(Operand(i, s, ruling.gradients[by_place[i]]) for i, s in sources.items())
        saved = tuple((places[n], bound.layouts[n]) for n in ruling.saved)
        return Use(operands, saved, ((0, ruling.output),), a.flat)

    def _by_replay(
        self, sources: dict[int, Source], layouts: dict[int, Layout], a: _Seen, b: _Seen
    ) -> Use | None:
        outputs = []
        for i, (x, y) in enumerate(zip(a.outputs, b.outputs, strict=True)):
            if x is None:
                continue
            layout = find_layout(x, y)
            if layout is None:
                return None
            outputs.append((i, layout))
        if not layouts or a.spec is None:
            return None
        places = tuple(layouts)
        leaves = tuple(v.detach() if isinstance(v, Tensor) else v for v in a.leaves)
        tapped = tuple(i for i, _ in outputs)
        operands = tuple(
            Operand(i, s, Replay(a.func, a.spec, leaves, i, places, tapped))
            for i, s in sources.items()
        )
        return Use(operands, tuple(layouts.items()), tuple(outputs))

    def _forget_generic(self) -> None:
        """Leave calls alone that only read parameters of the generic path."""
        for index, step in enumerate(self.steps):
            if not isinstance(step.action, Use):
                continue
            use = step.action
            kept = tuple(o for o in use.operands if not self._roots(o.source) <= self.generic)
            action = replace(use, operands=kept) if kept else None
            self.steps[index] = Step(step.func, action)

    def _assign(self, plan: Plan) -> None:
        """Decide for each source whether sums are added at once or gradients joined first."""
        uses: dict[Source, int] = {}
        for step in self.steps:
            for operand in step.action.operands if isinstance(step.action, Use) else ():
                uses[operand.source] = uses.get(operand.source, 0) + 1
        by_root: dict[str, list[Source]] = {}
        for source in uses:
            for root in self._roots(source) - self.generic:
                by_root.setdefault(root, []).append(source)
        together: list[tuple[set[str], set[Source]]] = []
        for root, sources in by_root.items():
            views = (
                self._disjoint_views(root, sources) if all(uses[s] == 1 for s in sources) else None
            )
            if views is not None:
                plan.views |= views
            else:
                together.append(({root}, set(sources)))
        for roots, members in _connected(together):
            for source in members:
                plan.joined[source] = len(plan.groups)
                plan.views.pop(source, None)
            plan.groups.append(sorted(roots))

    def _disjoint_views(
        self, root: str, sources: Sequence[Source]
    ) -> dict[Source, tuple[str, list[Callable[[Tensor], Tensor]]]] | None:
        """Say how each source is cut from its parameter, if all are parts that do not overlap."""
        if list(sources) == [root]:
            return {root: (root, [])}
        parameter = self.parameters[root]
        count = torch.zeros(parameter.shape, dtype=torch.int8, device=parameter.device)
        views: dict[Source, tuple[str, list[Callable[[Tensor], Tensor]]]] = {}
        for source in sources:
            cuts = self._cuts(source)
            if cuts is None:
                return None
            part = count
            for cut in cuts:
                part = cut(part)
            if part.untyped_storage().data_ptr() != count.untyped_storage().data_ptr():
                return None
            part += 1
            views[source] = (root, cuts)
        return views if int(count.max()) <= 1 else None

    def _cuts(self, source: Source) -> list[Callable[[Tensor], Tensor]] | None:
        """List the view operations that lead from a parameter to a source."""
        if isinstance(source, str):
            return []
        index, output = source
        call = self.first[index]
        if call.func not in _PICKING or len(call.sources) != 1 or call.spec is None:
            return None
        ((place, parent),) = call.sources.items()
        before = self._cuts(parent)
        others = [v for i, v in enumerate(call.leaves) if i != place]
        if before is None or any(isinstance(v, Tensor) for v in others):
            return None
        spec = call.spec

        def cut(tensor: Tensor) -> Tensor:
            leaves = list(call.leaves)
            leaves[place] = tensor
            args, kwargs = tree_unflatten(leaves, spec)
            part: Tensor = tree_leaves(call.func(*args, **kwargs))[output]
            return part

        return [*before, cut]


def _connected(
    parts: list[tuple[set[str], set[Source]]],
) -> Iterator[tuple[set[str], set[Source]]]:
    """Unite parts that share a source."""
    while parts:
        roots, sources = parts.pop()
        while True:
            touching = [p for p in parts if p[1] & sources]
            if not touching:
                break
            parts = [p for p in parts if not p[1] & sources]
            for other_roots, other_sources in touching:
                roots, sources = roots | other_roots, sources | other_sources
        yield roots, sources
