r"""Elastic Weight Consolidation: a quadratic penalty weighed by the Fisher information.

After each task k the diagonal of the empirical Fisher information is measured,

.. math::
    F_{k,i} = \frac{1}{N} \sum_{n=1}^N
        \left( \frac{\partial \log p(y_n \mid x_n; \theta)}{\partial \theta_i} \right)^2,

and the tasks to come are learned with (Kirkpatrick et al., 2017, Eq. 3, a term a task)

.. math::
    L(\theta) = L_\text{new}(\theta)
        + \frac{\lambda}{2} \sum_k \sum_i F_{k,i} (\theta_i - \theta^*_{k,i})^2 .

The terms of all tasks are one quadratic function: with F = Σ_k F_k and a = Σ_k F_k θ*_k / F they
sum to F (θ - a)² and a constant. So one importance and one anchor stand for any number of tasks,
exactly, and memory and time do not grow. The *online* form (Schwarz et al., 2018) keeps
F ← γ F + F_new and the latest θ* as its anchor.

What the papers leave open, and what is done here:

- *Which Fisher*: the empirical one, with the true labels; the gradient is squared sample by sample,
  so that the result does not depend on the size of mini-batches.
- *Model and data*: evaluation mode (no dropout, batch normalisation fixed), all samples of the
  experience, without training transforms.
- *Several tasks*: a term a task by default (the paper's text), online on request.
- *Normalisation*: none; the Fisher information of a task is a mean over its samples.
- *Heads*: a head has no Fisher information on the tasks of others, and the penalty does not touch a
  head that the task at hand does not train.
- *Factor ½*: as in the paper, so λ here is twice the λ of implementations without it.

References:
    Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks, PNAS.
    Schwarz et al. (2018), Progress & Compress: A scalable framework for continual learning, ICML.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from mas_avalanche.consolidation import (
    drop_unreached,
    grow_rows,
    merge_importance,
    move_to_model,
    take_anchor,
)
from mas_avalanche.guard import check_weights
from mas_avalanche.importance import estimate_importance
from mas_avalanche.penalty import QuadraticPenalty
from mas_avalanche.state import check_state, check_weighted

__all__ = ["EWCPlugin", "add_task_term"]

Mode = Literal["separate", "online"]

_FORMAT = 1


def add_task_term(
    importance: Tensor, anchor: Tensor, fisher: Tensor, parameter: Tensor
) -> tuple[Tensor, Tensor]:
    """Add one task's quadratic term to the sum of the earlier ones.

    Args:
        importance: Importance of the sum so far.
        anchor: Where the sum so far has its minimum.
        fisher: Fisher information of the new task.
        parameter: Values at the end of the new task; all four have its shape.

    Returns:
        Importance and anchor of the new sum. Where no task has any importance the anchor is the
        parameter itself.

    Example:
        >>> one, two = torch.tensor([1.0]), torch.tensor([3.0])
        >>> add_task_term(one, torch.tensor([0.0]), two, torch.tensor([4.0]))
        (tensor([4.]), tensor([3.]))
    """
    total = importance + fisher
    share = torch.where(total > 0, fisher / total, torch.ones_like(total))
    return total, torch.lerp(anchor, parameter, share)


class EWCPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Elastic Weight Consolidation with the exact empirical Fisher information.

    Args:
        ewc_lambda: Weight λ of the penalty, which carries the paper's factor ½. 0 is the naive
            strategy.
        mode: "separate" keeps a term a task (Kirkpatrick et al., 2017), merged without loss into
            one; "online" lets old importance decay and anchors at the latest parameters (Schwarz
            et al., 2018).
        decay_factor: Factor γ in [0, 1] on the old importance at each new task; "online" only.
        batch_size: Mini-batches in which the Fisher information is measured. It changes memory and
            time, not the result.
        max_samples: How many samples to measure on; None: all.

    Raises:
        ValueError: If ``ewc_lambda`` is negative or not finite, ``mode`` is unknown, or
            ``decay_factor`` is outside [0, 1] or given without "online".
        RuntimeError: During training, if weights are no longer finite at the end of an epoch.

    Attributes:
        importance: Merged Fisher information by parameter name.
        anchor: Where the penalty is 0, by parameter name.
        penalty: The penalty on the mini-batch at hand; ``penalty.value`` leaves out the constant
            of the merged terms.
    """

    def __init__(
        self,
        ewc_lambda: float = 1.0,
        mode: Mode = "separate",
        decay_factor: float = 1.0,
        *,
        batch_size: int = 128,
        max_samples: int | None = None,
    ) -> None:
        super().__init__()
        self.penalty = QuadraticPenalty(0.0)
        self.ewc_lambda = ewc_lambda
        if mode not in get_args(Mode):
            raise ValueError(f"Expected `mode` to be one of {get_args(Mode)}, got {mode!r}.")
        if not 0 <= decay_factor <= 1:
            raise ValueError(f"Expected `decay_factor` to lie in [0, 1], got {decay_factor}.")
        if mode == "separate" and decay_factor != 1:
            raise ValueError(
                f'Expected `decay_factor` to be 1 with mode "separate", got {decay_factor}. '
                f'Give mode="online" to let old importance decay.'
            )
        self.mode: Mode = mode
        self.decay_factor = decay_factor
        self.batch_size = batch_size
        self.max_samples = max_samples
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    @property
    def ewc_lambda(self) -> float:
        """Weight λ of the penalty; may be changed between iterations."""
        return 2 * self.penalty.strength

    @ewc_lambda.setter
    def ewc_lambda(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"Expected `ewc_lambda` to be finite and not negative, got {value}.")
        self.penalty.strength = value / 2

    def num_stored(self) -> int:
        """Count the numbers kept beside the model between experiences."""
        return sum(t.numel() for t in (*self.importance.values(), *self.anchor.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned about importance, as plain tensors, numbers and strings.

        Returns:
            A dictionary that ``torch.load(..., weights_only=True)`` reads back, valid between any
            two iterations.
        """
        return {
            "format": _FORMAT,
            "importance": dict(self.importance),
            "anchor": dict(self.anchor),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the constructor's options stay.

        Args:
            state: A dictionary from :meth:`state_dict`.

        Raises:
            ValueError: If it is not one, or its importance and anchor do not fit together.
        """
        check_state(state, {"importance", "anchor"}, _FORMAT)
        check_weighted(state["importance"], state["anchor"])
        self.importance, self.anchor = dict(state["importance"]), dict(state["anchor"])

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Follow the model to its device, forget what it no longer has."""
        self.importance = move_to_model(self.importance, strategy.model)
        self.anchor = move_to_model(self.anchor, strategy.model)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Warn before the penalty diverges at the present learning rate."""
        self.penalty.warn_if_unstable(strategy, self.importance)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Let the penalty join the backward pass."""
        self.penalty.before_backward(strategy, self.importance, self.anchor)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Let the penalty clean up."""
        self.penalty.after_backward(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse to go on with weights that are not finite."""
        check_weights(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Measure the Fisher information of the experience and merge it."""
        fisher = estimate_importance(
            strategy.model,
            strategy.experience.dataset.eval(),
            objective="log_likelihood",
            power=2,
            batch_size=self.batch_size,
            device=strategy.device,
            max_samples=self.max_samples,
        )
        if self.mode == "online":
            self._merge_online(fisher, strategy.model)
        else:
            self._merge_separate(fisher, strategy.model)

    def _merge_online(self, fisher: Mapping[str, Tensor], model: nn.Module) -> None:
        kept = {name: self.decay_factor * old for name, old in self.importance.items()}
        self.importance = merge_importance(kept, drop_unreached(fisher))
        self.anchor = take_anchor(model, self.importance)

    @torch.no_grad()
    def _merge_separate(self, fisher: Mapping[str, Tensor], model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, new in drop_unreached(fisher).items():
            zeros = torch.zeros_like(new)
            old = grow_rows(self.importance.get(name, zeros), new.shape, name)
            anchor = grow_rows(self.anchor.get(name, zeros), new.shape, name)
            self.importance[name], self.anchor[name] = add_task_term(
                old, anchor, new, parameters[name].detach()
            )
