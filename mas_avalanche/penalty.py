r"""The quadratic penalty of regularisation methods, applied in closed form.

Aljundi et al. (2018, Eq. 3) add to the loss of the current task

.. math::
    R(\theta) = \lambda \sum_i \Omega_i (\theta_i - \theta_i^*)^2

with no factor one half. Its gradient :math:`2 \lambda \Omega_i (\theta_i - \theta_i^*)` is known,
so autograd need not build it. Two forms are offered:

- ``"gradient"``, the paper's: the gradient is added to that of the task, before clipping and
  before the optimizer. Plain gradient descent diverges once
  :math:`2 \eta \lambda \max_i \Omega_i` exceeds 2 (:math:`\eta`: learning rate).
- ``"proximal"``: the optimizer steps on the task's gradient alone, then the penalty is minimised
  implicitly, :math:`\theta \leftarrow (\theta + s \theta^*) / (1 + s)` with
  :math:`s = 2 \eta \lambda \Omega`. It is stable for every :math:`\lambda`.

References:
    Aljundi et al. (2018), Memory Aware Synapses: Learning what (not) to forget, ECCV.
    Parikh and Boyd (2014), Proximal Algorithms (the implicit step).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from mas_avalanche.per_sample import kernel
from mas_avalanche.walk import ParameterWalk

__all__ = ["PenaltyMode", "QuadraticPenalty", "StabilityWarning", "penalty_value", "proximal_step"]

PenaltyMode = Literal["gradient", "proximal"]

# Elements that are walked at a time: on a processor a temporary of this many stays in its cache,
# on other devices it bounds their memory.
_CHUNK = 1 << 18
_CHUNK_ELSEWHERE = 1 << 24

_NOTHING = torch.zeros(())


class StabilityWarning(RuntimeWarning):
    """The penalty's gradient form is about to diverge at this learning rate and strength."""


class _Strategy(Protocol):
    model: nn.Module
    optimizer: Optimizer
    loss: Tensor


def penalty_value(
    model: nn.Module,
    importance: Mapping[str, Tensor],
    anchor: Mapping[str, Tensor],
    strength: float = 1.0,
) -> Tensor:
    """Evaluate the penalty (Aljundi et al., 2018, Eq. 3, second term).

    Args:
        model: The network that is kept near its anchor.
        importance: Weight of each entry, by parameter name; missing names are free. A parameter
            that has grown in its first dimension is free in its new rows.
        anchor: The parameters to stay near, same names and shapes as ``importance``.
        strength: The factor lambda.

    Returns:
        A scalar without gradient, zero where nothing is penalised.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 3.0)
        >>> penalty_value(model, {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)}, 0.5)
        tensor(4.5000)
    """
    total = torch.zeros(())
    for name, parameter in model.named_parameters():
        if name in importance:
            weight = importance[name]
            rows = _covered(name, parameter.detach(), weight)
            total = total.to(weight) + (weight * (rows - anchor[name]).square()).sum()
    return strength * total


@torch.no_grad()
def proximal_step(parameter: Tensor, importance: Tensor, anchor: Tensor, step: float) -> None:
    r"""Move a parameter towards its anchor by an implicit step, in place.

    The result minimises :math:`\frac12 (x - \theta)^2 + \frac{s}{2} (x - \theta^*)^2` with
    :math:`s` the product of ``step`` and the importance, whatever its size: entries of huge
    importance land on the anchor, entries of none stay as they are to the bit.

    Args:
        parameter: Changed in place; rows beyond those of ``importance`` are free.
        importance: Non-negative, of the parameter's shape or with fewer rows.
        anchor: The values to stay near, of the importance's shape.
        step: Twice the learning rate times the strength of the penalty.

    Example:
        >>> weight = torch.tensor([4.0, 4.0])
        >>> proximal_step(weight, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), step=1.0)
        >>> weight
        tensor([2., 4.])
    """
    if step == 0:
        return
    # s / (1 + s) as 1 / (1 + 1 / s): exact in the limits of no and of infinite importance.
    limits = torch.finfo(importance.dtype)
    inverse = min(max(1 / step, limits.tiny), limits.max)
    one = importance.new_ones(())
    for theta, omega, star in _pieces(parameter, importance, anchor):
        weight = torch.reciprocal(omega)
        torch.add(one, weight, alpha=inverse, out=weight)
        theta.lerp_(star.to(theta.dtype), weight.reciprocal_().to(theta.dtype))


class _Weighted(NamedTuple):
    """A parameter whose gradient is waited for; without importance it is not penalised."""

    name: str
    parameter: nn.Parameter
    importance: Tensor | None
    anchor: Tensor | None


@dataclass
class _Iteration:
    """What lives from ``before_backward`` to ``after_update`` of one iteration."""

    loss_handle: RemovableHandle | None = None
    optimizer_handle: RemovableHandle | None = None
    awaited: Sequence[_Weighted] = ()
    before: "_Gradients" = ()
    opened: bool = False
    reached: Sequence[_Weighted] = ()
    stepped: set[str] | None = None


_Gradients = Sequence[tuple[Tensor | None, int]]
"""Gradients as they were, and how often each had been written."""


class QuadraticPenalty:
    r"""Apply a quadratic penalty to a strategy's weights, at the cost of one walk over them.

    A plugin calls :meth:`before_backward`, :meth:`after_backward` and :meth:`after_update` from
    its hooks of the same names. Only parameters that receive a gradient from ``strategy.loss`` in
    this very iteration are touched, so the head of a task that takes no part keeps its weights to
    the bit, also under momentum, weight decay and Adam. In ``"gradient"`` mode the addition is
    scaled as the loss is (a ``GradScaler``, the 1/k of gradient accumulation), so whatever follows
    (unscaling, clipping, any optimizer) sees the gradient of loss plus penalty. In ``"proximal"``
    mode the implicit step follows each true step of the optimizer: none where a scaler skips it or
    an accumulating strategy postpones it. ``strategy.loss`` itself never holds the penalty.

    Args:
        strength: The factor of the penalty, finite and not negative; 0 switches it off.
        mode: ``"gradient"`` or ``"proximal"``, see the module.

    Attributes:
        value: The penalty at the last backward pass over the parameters that took part, 0 where
            there was none. It is computed only where ``track_value`` is set.
        track_value: Set by whoever reads ``value`` (the metrics do).
        on_task_gradient: Where set, called as ``on_task_gradient(name, parameter)`` for every
            trainable parameter that the backward pass has reached, once ``parameter.grad`` holds
            the task's gradient and before the penalty's is added, in both modes and also where
            nothing is penalised.
        scale: The factor by which the loss was scaled in the last backward pass, a scalar.
        walk: Lists the parameters of the model in each iteration; :meth:`warn_if_unstable` renews
            it, as a model may have changed before an epoch.

    Raises:
        ValueError: If ``strength`` is negative or not finite, or ``mode`` is unknown.
    """

    def __init__(self, strength: float, mode: PenaltyMode = "gradient") -> None:
        if mode not in get_args(PenaltyMode):
            raise ValueError(
                f"Expected `mode` to be one of {get_args(PenaltyMode)}, got {mode!r}. "
                "Use 'proximal' where the gradient form diverges."
            )
        self.mode: PenaltyMode = mode
        self.strength = strength
        self.value = _NOTHING
        self.track_value = False
        self.on_task_gradient: Callable[[str, nn.Parameter], None] | None = None
        self.scale = torch.ones(())
        self._warned = False
        self._largest: dict[str, float] = {}
        self._iteration = _Iteration()
        self.walk = ParameterWalk()

    @property
    def strength(self) -> float:
        """The factor of the penalty; may be changed between iterations."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"Expected `strength` to be finite and at least 0, got {value}. "
                "0 switches the penalty off."
            )
        self._strength = float(value)

    def before_backward(
        self, strategy: _Strategy, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]
    ) -> None:
        """Prepare this iteration's backward pass.

        Args:
            strategy: The strategy whose ``loss`` is about to be differentiated.
            importance: Weight of each entry, by parameter name; missing names are free.
            anchor: The parameters to stay near, same names and shapes as ``importance``.

        Raises:
            ValueError: If a parameter has neither the shape of its importance nor more rows.
        """
        self._release()
        self.value = _NOTHING
        if self.strength == 0:
            importance = {}
        if not strategy.loss.requires_grad or not (importance or self.on_task_gradient):
            return
        iteration = self._iteration
        pulled = self.mode == "gradient" or self.track_value
        awaited = []
        for name, parameter in self.walk(strategy.model):
            weight = importance.get(name)
            if weight is not None:
                _covered(name, parameter, weight)
            if parameter.requires_grad and (
                self.on_task_gradient or (pulled and weight is not None)
            ):
                awaited.append(_Weighted(name, parameter, weight, anchor.get(name)))
        if awaited:
            iteration.awaited, iteration.before = awaited, _gradients(awaited)
            iteration.loss_handle = strategy.loss.register_hook(partial(self._on_loss, iteration))
        if self.mode == "proximal" and importance:
            iteration.optimizer_handle = strategy.optimizer.register_step_post_hook(
                partial(self._note_step, iteration, strategy.model, importance)
            )

    def after_backward(self, strategy: _Strategy) -> None:
        """Remove the hook of this iteration's backward pass.

        Args:
            strategy: The strategy whose ``loss`` was differentiated.

        Raises:
            RuntimeError: If gradients came, but not from ``strategy.loss``.

        Warns:
            StabilityWarning: See :meth:`warn_if_unstable`.
        """
        iteration = self._iteration
        if iteration.loss_handle is not None:
            iteration.loss_handle.remove()
        if not iteration.opened:
            strays = _changed(iteration.awaited, iteration.before)
            if strays:
                raise RuntimeError(
                    "Expected `strategy.loss` to be differentiated, got a gradient of "
                    f"`{strays[0].name}` from elsewhere and no penalty. Let the strategy's "
                    "`backward` differentiate `self.loss`, scaled as it likes."
                )
        reached = iteration.reached
        iteration.awaited = iteration.before = iteration.reached = ()
        if self._largest:
            self._check_stability(strategy, reached)

    def after_update(
        self, strategy: _Strategy, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]
    ) -> None:
        """Take the proximal step where the optimizer has stepped; nothing in gradient mode.

        Args:
            strategy: The strategy that has just called its ``optimizer_step``.
            importance: As given to :meth:`before_backward`.
            anchor: As given to :meth:`before_backward`.
        """
        stepped = self._iteration.stepped
        self._release()
        if not stepped:
            return
        rates = {
            id(parameter): float(group["lr"])
            for group in strategy.optimizer.param_groups
            for parameter in group["params"]
        }
        for name, parameter in self.walk(strategy.model):
            if name in stepped and id(parameter) in rates:
                step = 2 * rates[id(parameter)] * self.strength
                proximal_step(parameter, importance[name], anchor[name], step)

    def warn_if_unstable(self, strategy: _Strategy, importance: Mapping[str, Tensor]) -> None:
        r"""Have the next iterations warn, once, where the gradient form must diverge with SGD.

        An entry of curvature :math:`2 \lambda \Omega` oscillates with growing amplitude once
        :math:`2 \eta \lambda \Omega` exceeds 2, or :math:`2 (1 + \beta)` with heavy-ball momentum
        :math:`\beta` (:math:`2 (1 + \beta) / (1 + 2 \beta)` with Nesterov's). Adaptive optimizers
        normalise their step and have no such bound. Each iteration compares the learning rates of
        that moment over the parameters that take part, before its update; the warning is a
        :class:`StabilityWarning` with the number, the bound, the parameter and the remedies.

        Args:
            strategy: The strategy about to train.
            importance: Weight of each entry, by parameter name, as it will be given to
                :meth:`before_backward`.
        """
        self.walk.renew(strategy.model)
        self._largest = {}
        if not self._warned and self.mode == "gradient" and isinstance(strategy.optimizer, SGD):
            self._largest = {name: float(value.max()) for name, value in importance.items()}

    def _check_stability(self, strategy: _Strategy, reached: Sequence[_Weighted]) -> None:
        largest = max(self._largest.values())
        if all(
            2 * float(group["lr"]) * self.strength * largest <= _bound(group)
            for group in strategy.optimizer.param_groups
        ):
            return  # as in almost every iteration: a walk over the parameters is spared
        groups = {
            id(parameter): group
            for group in strategy.optimizer.param_groups
            for parameter in group["params"]
        }
        worst, worst_name, worst_bound = 0.0, "", 2.0
        for name, parameter, *_ in reached:
            if name in self._largest and id(parameter) in groups:
                group = groups[id(parameter)]
                bound = _bound(group)
                size = 2 * float(group["lr"]) * self.strength * self._largest[name]
                if size / bound > worst / worst_bound:
                    worst, worst_name, worst_bound = size, name, bound
        if worst > worst_bound:
            self._warned, self._largest = True, {}
            warnings.warn(
                f"The penalty will diverge: 2 * learning rate * strength * max importance = "
                f"{worst:.3g} exceeds {worst_bound:.3g} in `{worst_name}`. Use mode='proximal', "
                f"or divide the strength ({self.strength:g}) or the learning rate by more than "
                f"{worst / worst_bound:.3g}.",
                StabilityWarning,
                stacklevel=3,
            )

    @torch.no_grad()
    def _on_loss(self, iteration: _Iteration, gradient: Tensor) -> None:
        """Note by what the loss is scaled, and wait for the end of its backward pass.

        That end comes before ``backward`` returns, so before whatever a strategy or another plugin
        does to gradients. One walk over all of them takes a fraction of the calls that a hook of
        each parameter would take, which on a small network is what a penalty costs.
        """
        iteration.opened = True
        self.scale = gradient.reshape(-1)[0]
        before = _gradients(iteration.awaited)
        # Queued once more at the end: DistributedDataParallel, which queues its own in between,
        # has then averaged the task's gradients.
        queue = Variable._execution_engine.queue_callback
        queue(lambda: queue(partial(self._on_gradients, iteration, before)))

    @torch.no_grad()
    def _on_gradients(self, iteration: _Iteration, before: _Gradients) -> None:
        iteration.reached = _changed(iteration.awaited, before)
        if self.on_task_gradient is not None:
            for reached in iteration.reached:
                self.on_task_gradient(reached.name, reached.parameter)
        if self.track_value:
            for _, parameter, importance, anchor in iteration.reached:
                if importance is not None and anchor is not None:
                    value = _value(parameter, importance, anchor)
                    self.value = self.value.to(value) + self.strength * value
        if self.mode == "gradient":
            _add_gradients(iteration.reached, 2 * self.strength, self.scale)

    def _note_step(
        self,
        iteration: _Iteration,
        model: nn.Module,
        importance: Mapping[str, Tensor],
        optimizer: Optimizer,
        args: Any,
        kwargs: Any,
    ) -> None:
        """Note which penalised parameters a true step of the optimizer has moved."""
        del optimizer, args, kwargs
        iteration.stepped = {
            name
            for name, parameter in self.walk(model)
            if name in importance and parameter.grad is not None
        }

    def _release(self) -> None:
        iteration = self._iteration
        for handle in (iteration.loss_handle, iteration.optimizer_handle):
            if handle is not None:
                handle.remove()
        self._iteration = _Iteration()


def _gradients(awaited: Sequence[_Weighted]) -> _Gradients:
    gradients = [weighted.parameter.grad for weighted in awaited]
    return [(grad, 0 if grad is None else grad._version) for grad in gradients]


def _changed(awaited: Sequence[_Weighted], before: _Gradients) -> Sequence[_Weighted]:
    """Find the parameters that have received a gradient since."""
    return [
        weighted
        for weighted, now, old in zip(awaited, _gradients(awaited), before, strict=True)
        if now[0] is not None and (now[0] is not old[0] or now[1] != old[1])
    ]


def _covered(name: str, parameter: Tensor, importance: Tensor) -> Tensor:
    """Cut a parameter down to the rows that its importance knows."""
    if importance.shape == parameter.shape:
        return parameter
    if (
        importance.ndim == parameter.ndim > 0
        and importance.shape[1:] == parameter.shape[1:]
        and len(importance) < len(parameter)
    ):
        return parameter[: len(importance)]
    raise ValueError(
        f"Expected `{name}` to keep its shape or to grow in its first dimension, got "
        f"{tuple(parameter.shape)} where its importance has {tuple(importance.shape)}. "
        "Forget the importance of a layer that was replaced."
    )


def _pieces(parameter: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Walk tensors of equal shape together, in pieces that stay in a processor's cache.

    The first tensor may have more rows than the others; on other devices, where a piece would
    cost a kernel launch, and for small or strided tensors there is one piece.
    """
    if parameter.shape != others[0].shape:
        parameter = parameter[: len(others[0])]
    tensors = (parameter, *others)
    one_piece = parameter.device.type != "cpu" or parameter.numel() <= _CHUNK
    if one_piece or not all(tensor.is_contiguous() for tensor in tensors):
        yield tensors
        return
    yield from zip(*(torch.split(tensor.view(-1), _CHUNK) for tensor in tensors), strict=True)


def _value(parameter: Tensor, importance: Tensor, anchor: Tensor) -> Tensor:
    total = importance.new_zeros(())
    for theta, omega, star in _pieces(parameter, importance, anchor):
        total += (theta - star).square_().mul(omega).sum()
    return total


def _add_gradients(penalised: Iterable[_Weighted], factor: float, scale: Tensor) -> None:
    """Add the penalty's gradients to the task's, many small tensors at a time."""
    if scale.device.type == "cpu":
        factor *= float(scale)
    compiled = scale.device.type == "cpu" and kernel.load() is not None
    whole: dict[torch.dtype, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
    pieces: list[tuple[Tensor, ...]] = []
    size = 0
    for name, parameter, importance, anchor in penalised:
        gradient = parameter.grad
        if importance is None or anchor is None or gradient is None:
            continue
        if gradient.is_sparse:
            raise NotImplementedError(
                f"Expected `{name}` to have a dense gradient, got a sparse one. "
                "Use mode='proximal', or build the embedding with sparse=False."
            )
        rows = _covered(name, gradient, importance)
        walked = (_covered(name, parameter, importance), importance, anchor, rows)
        if compiled and kernel.alike(*walked):
            whole.setdefault(rows.dtype, []).append(walked)
            continue
        for piece in _pieces(*walked):
            pieces.append(piece)
            size += piece[0].numel()
            if size >= (_CHUNK if gradient.device.type == "cpu" else _CHUNK_ELSEWHERE):
                _pull(pieces, factor, scale)
                pieces, size = [], 0
    if pieces:
        _pull(pieces, factor, scale)
    for together in whole.values():
        kernel.add_pulls(together, factor)


def _pull(pieces: Sequence[tuple[Tensor, ...]], factor: float, scale: Tensor) -> None:
    thetas, omegas, stars, gradients = zip(*pieces, strict=True)
    pulls = torch._foreach_sub(thetas, stars)
    if scale.device.type != "cpu":  # reading it would wait for the accelerator
        torch._foreach_mul_(pulls, scale)
    if len({tensor.dtype for tensor in (*pulls, *omegas, *gradients)}) == 1:
        torch._foreach_addcmul_(gradients, omegas, pulls, value=factor)
    else:
        torch._foreach_add_(gradients, torch._foreach_mul(omegas, pulls), alpha=factor)


def _bound(group: Mapping[str, Any]) -> float:
    """Find the largest stable product of learning rate and curvature of SGD."""
    momentum = float(group.get("momentum", 0.0))
    if group.get("nesterov", False):
        return 2 * (1 + momentum) / (1 + 2 * momentum)
    damping = 1 - float(group.get("dampening", 0.0)) if momentum else 1.0
    return 2 * (1 + momentum) / damping
