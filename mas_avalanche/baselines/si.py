r"""Synaptic Intelligence: importance from the path that training took.

While a task is learned, each parameter gathers what its moves did to the task's loss,

.. math::
    \omega_i = -\sum_t g_i(t) \, \Delta\theta_i(t),

with g the gradient of the task's loss and Δθ(t) the step that the optimizer made. At the end of the
task the importance grows by (Zenke et al., 2017, Eq. 5)

.. math::
    \Omega_i \leftarrow \max\!\left(0,\; \Omega_i +
        \frac{\omega_i}{(\theta_i^\text{end} - \theta_i^\text{start})^2 + \xi}\right)

and the next ones are learned with the surrogate loss (Eq. 4; no factor ½)

.. math::
    L(\theta) = L_\text{new}(\theta) + c \sum_i \Omega_i (\theta_i - \theta^*_i)^2 .

What the paper leaves open, and what is done here:

- *Which gradient*: the gradient of the loss before the penalty, as in the authors' code. Where the
  loss is scaled (mixed precision) or a step follows several backward passes, it is the mean
  gradient of the unscaled loss over these passes.
- *Which step*: the optimizer's whole step, momentum and penalty included.
- *Negative importance*: the running sum over tasks is cut at 0 after each task, as in the authors'
  code; without it the penalty can be unbounded below. There is no upper limit.
- *Optimizer state between tasks*: left to the strategy.
- *Parameters that a step does not train* (another task's head) gather nothing in it, and the
  penalty does not touch them.

References:
    Zenke, Poole and Ganguli (2017), Continual Learning Through Synaptic Intelligence, ICML.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mas_avalanche.consolidation import grow_rows, move_to_model
from mas_avalanche.guard import check_weights
from mas_avalanche.penalty import QuadraticPenalty
from mas_avalanche.state import check_state, check_weighted

__all__ = ["SIPlugin"]

_FORMAT = 1
_KEYS = frozenset({"importance", "anchor", "path", "gradient", "num_passes"})


class SIPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Synaptic Intelligence (Zenke et al., 2017).

    Args:
        si_lambda: Weight c of the penalty. 0 is the naive strategy.
        xi: Damping ξ in the denominator; 0.1 in the paper's MNIST experiments.

    Raises:
        ValueError: If ``si_lambda`` is negative or not finite, or ``xi`` is not positive and
            finite.
        RuntimeError: During training, if weights are no longer finite at the end of an epoch.

    Attributes:
        importance: Ω by parameter name, from the end of the first experience.
        anchor: θ* by parameter name: the values at the end of the last experience, or at the
            start of this one for what is new in it.
        penalty: The penalty on the mini-batch at hand.
    """

    def __init__(self, si_lambda: float = 1.0, xi: float = 0.1) -> None:
        super().__init__()
        self.penalty = QuadraticPenalty(0.0)
        self.penalty.on_task_gradient = self._note_gradient
        self.si_lambda = si_lambda
        if not (math.isfinite(xi) and xi > 0):
            raise ValueError(f"Expected `xi` to be finite and positive, got {xi}.")
        self.xi = xi
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self._path: dict[str, Tensor] = {}
        self._earlier: dict[str, Tensor] = {}
        self._latest: dict[str, Tensor] = {}
        self._gradient: dict[str, Tensor] = {}
        self._num_passes = 0
        self._before: dict[str, Tensor] = {}
        self._has_stepped = False
        self._step_hook: RemovableHandle | None = None

    @property
    def si_lambda(self) -> float:
        """Weight c of the penalty; may be changed between iterations."""
        return self.penalty.strength

    @si_lambda.setter
    def si_lambda(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"Expected `si_lambda` to be finite and not negative, got {value}.")
        self.penalty.strength = value

    def num_stored(self) -> int:
        """Count the numbers kept beside the model between experiences.

        While an experience is trained there are three more a parameter: the path integral, the
        task's gradient and the values before the step.
        """
        return sum(t.numel() for t in (*self.importance.values(), *self.anchor.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return importance, anchor and the path integral so far, as plain tensors and numbers.

        Returns:
            A dictionary that ``torch.load(..., weights_only=True)`` reads back, valid between any
            two iterations. In the middle of an experience it shares memory with the plugin: save
            or copy it before the next iteration.
        """
        return {
            "format": _FORMAT,
            "importance": dict(self.importance),
            "anchor": dict(self.anchor),
            "path": dict(self._path),
            "gradient": dict(self._gradient),
            "num_passes": self._num_passes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the constructor's options stay.

        Args:
            state: A dictionary from :meth:`state_dict`. One from the middle of an experience is
                loaded after ``before_training_exp``, which starts a new path integral.

        Raises:
            ValueError: If it is not one, or its importance and anchor do not fit together.
        """
        check_state(state, _KEYS, _FORMAT)
        check_weighted(state["importance"], state["anchor"])
        self.importance, self.anchor = dict(state["importance"]), dict(state["anchor"])
        self._path = {name: value.clone() for name, value in state["path"].items()}
        self._gradient = {name: value.clone() for name, value in state["gradient"].items()}
        self._num_passes = int(state["num_passes"])

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Start a path integral, and note where new parameters and new rows start."""
        self._path = {}
        self.importance = move_to_model(self.importance, strategy.model)
        self.anchor = move_to_model(self.anchor, strategy.model)
        for name, parameter in strategy.model.named_parameters():
            if not parameter.requires_grad:
                continue
            self._path[name] = torch.zeros_like(parameter)
            self.anchor[name] = _with_new_rows(self.anchor.get(name), parameter.detach(), name)
            if name in self.importance:
                self.importance[name] = grow_rows(self.importance[name], parameter.shape, name)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Warn before the penalty diverges at the present learning rate."""
        self.penalty.warn_if_unstable(strategy, self.importance)

    @torch.no_grad()
    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Let the penalty join the backward pass, and note what gradients already hold."""
        self._earlier = {
            name: p.grad.clone()
            for name, p in self.penalty.walk(strategy.model)
            if name in self._path and p.grad is not None
        }
        if not self._earlier:
            self._gradient, self._num_passes = {}, 0
        self.penalty.before_backward(strategy, self.importance, self.anchor)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add this pass's task gradient to that of the step to come."""
        self.penalty.after_backward(strategy)
        for name, gradient in self._latest.items():
            gradient /= self.penalty.scale
            if name in self._gradient:
                self._gradient[name] += gradient
            else:
                self._gradient[name] = gradient
        self._num_passes += 1
        self._earlier, self._latest = {}, {}

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Note the values before the optimizer's step."""
        parameters = dict(self.penalty.walk(strategy.model))
        self._before = {name: parameters[name].detach().clone() for name in self._gradient}
        self._has_stepped = False
        self._unhook()
        self._step_hook = strategy.optimizer.register_step_post_hook(self._note_step)

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Add the step's part to the path integral, if the optimizer made one."""
        self._unhook()
        if self._has_stepped:
            parameters = dict(self.penalty.walk(strategy.model))
            for name, before in self._before.items():
                step = parameters[name] - before
                self._path[name].addcmul_(self._gradient[name], step, value=-1 / self._num_passes)
            self._gradient, self._num_passes = {}, 0
        self._before = {}

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse to go on with weights that are not finite."""
        check_weights(strategy.model)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the path integral into importance, and move the anchor."""
        parameters = dict(strategy.model.named_parameters())
        for name, path in self._path.items():
            moved = parameters[name] - self.anchor[name]
            gained = path / (moved**2 + self.xi)
            old = self.importance.get(name)
            self.importance[name] = (gained if old is None else old + gained).clamp_(min=0)
            self.anchor[name] = parameters[name].detach().clone()
        self._path = {}

    def _note_gradient(self, name: str, parameter: nn.Parameter) -> None:
        if name not in self._path or parameter.grad is None:
            return
        earlier = self._earlier.get(name)
        gradient = parameter.grad
        self._latest[name] = gradient.clone() if earlier is None else gradient - earlier

    def _note_step(self, optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
        del optimizer, arguments, keywords
        self._has_stepped = True

    def _unhook(self) -> None:
        if self._step_hook is not None:
            self._step_hook.remove()
            self._step_hook = None


def _with_new_rows(anchor: Tensor | None, parameter: Tensor, name: str) -> Tensor:
    """Let an anchor follow a parameter that is new or has new rows."""
    if anchor is None:
        return parameter.clone()
    grow_rows(anchor, parameter.shape, name)
    if anchor.shape == parameter.shape:
        return anchor
    return torch.cat([anchor, parameter[len(anchor) :]])
