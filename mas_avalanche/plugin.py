"""Memory Aware Synapses as an Avalanche plugin: hooks only, no arithmetic.

The importance comes from :mod:`mas_avalanche.importance`, joins that of the old experiences in
:mod:`mas_avalanche.consolidation`, and acts through :mod:`mas_avalanche.penalty`.

References:
    Aljundi et al. (2018), Memory Aware Synapses: Learning what (not) to forget, ECCV.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, get_args

from avalanche.benchmarks import OnlineCLExperience
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from torch import Tensor, nn

from mas_avalanche.consolidation import (
    Normalization,
    drop_unreached,
    merge_importance,
    move_to_model,
    normalize_importance,
    take_anchor,
)
from mas_avalanche.guard import LossGuard, WeightGuard, check_weights
from mas_avalanche.importance import estimate_importance
from mas_avalanche.objectives import resolve
from mas_avalanche.penalty import PenaltyMode, QuadraticPenalty

__all__ = ["MASPlugin"]

_FORMAT = 1


class MASPlugin(SupervisedPlugin):  # type: ignore[misc]
    r"""Keep a model near what it has learned, weight by weight, as far as each matters.

    After each experience the importance of every parameter is measured on the experience's data,
    without labels and without training transforms; during the next ones the penalty
    :math:`\lambda \sum_i \Omega_i (\theta_i - \theta_i^*)^2` holds the parameters at their values
    of then (Aljundi et al., 2018, Eq. 3). The first experience is not penalised, and neither are
    parameters that no data has reached: new heads, new units of a growing head. Heads that take
    no part in an experience keep their weights to the bit, with any optimizer.

    ``strategy.loss`` never holds the penalty: see :mod:`mas_avalanche.metrics` for both numbers.

    Args:
        lambda_reg: Strength of the penalty, finite and at least 0. With 0 the training is that of
            the naive strategy to the bit.
        alpha: None sums the importance over experiences, as the paper does; a number in [0, 1] is
            the weight of the old importance in Avalanche's and FACIL's moving average.
        verbose: Show a progress bar while the importance is measured.
        objective: What is differentiated, see :func:`mas_avalanche.estimate_importance`.
        mode: ``"gradient"`` is the paper's form; ``"proximal"`` takes an implicit step after the
            optimizer's and is stable for every strength, see :mod:`mas_avalanche.penalty`.
        normalization: Divide the importance of each experience by its ``"mean"`` or ``"max"``
            over all parameters reached, so that the scale of the output cancels and strengths of
            different nets and data compare. None leaves it as the paper defines it.
        importance_data: Unlabelled data to measure importance on in place of the experience's:
            anything that ``estimate_importance`` takes, or a callable that is given the experience
            and returns such data.
        task_label: The head to use for ``importance_data``. None takes the experience's label.
        batch_size: Mini-batch size while importance is measured. It does not change the result.
        max_samples: Measure on at most so many samples. None takes all.
        tolerance: Stop measuring once the importance is known to this relative error. None takes
            all samples.
        check_finite: Raise at the first non-finite loss or weight.

    Attributes:
        importance: Omega by parameter name, as ``model.named_parameters()`` names it. Parameters
            that no data has reached have no entry.
        anchor: The values to stay near, same names and shapes as ``importance``.
        importance_seconds: How long each importance pass took, in seconds, in order.
        penalty: Applies the penalty; ``penalty.value`` is its last value where it is tracked.

    Raises:
        ValueError: If an option is out of range.
        TypeError: If ``objective`` is neither a name nor callable.

    Note:
        Avalanche's own plugin takes the magnitude of the mini-batch gradient, in training mode,
        and averages with alpha = 0.5. To compare with it, give ``alpha=0.5``.

    Example:
        >>> plugin = MASPlugin(lambda_reg=0.5)
        >>> plugin.importance
        {}
    """

    def __init__(
        self,
        lambda_reg: float = 1.0,
        alpha: float | None = None,
        verbose: bool = False,
        *,
        objective: Any = "squared_l2",
        mode: PenaltyMode = "gradient",
        normalization: Normalization | None = None,
        importance_data: Any = None,
        task_label: int | None = None,
        batch_size: int = 128,
        max_samples: int | None = None,
        tolerance: float | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        _check_strength(lambda_reg)
        merge_importance({}, {}, alpha)
        if normalization is not None and normalization not in get_args(Normalization):
            normalize_importance({"": Tensor()}, normalization)
        resolve(objective)
        _check_amounts(batch_size, max_samples, tolerance)
        self.penalty = QuadraticPenalty(lambda_reg, mode)
        self.alpha = alpha
        self.verbose = verbose
        self.objective = objective
        self.normalization = normalization
        self.importance_data = importance_data
        self.task_label = task_label
        self.batch_size = batch_size
        self.max_samples = max_samples
        self.tolerance = tolerance
        self.check_finite = check_finite
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.importance_seconds: list[float] = []
        self._num_parts = 0  # of the present task of an online stream
        self._loss_guard = LossGuard()
        self._weight_guard = WeightGuard(self.penalty.walk)

    @property
    def lambda_reg(self) -> float:
        """Strength of the penalty; may be changed between iterations."""
        return self.penalty.strength

    @lambda_reg.setter
    def lambda_reg(self, value: float) -> None:
        _check_strength(value)
        self.penalty.strength = value

    def update_importance(
        self,
        model: nn.Module,
        data: Any,
        *,
        task_label: int | None = None,
        how: Literal["replace", "add"] = "replace",
    ) -> None:
        """Weigh the parameters anew from unlabelled data met in use (Aljundi et al., 2018, sec. 5).

        The model's present parameters become the anchor.

        Args:
            model: The deployed model; left as it is.
            data: Anything that :func:`mas_avalanche.estimate_importance` takes.
            task_label: The head to use, for a multi-head model.
            how: ``"replace"`` forgets the importance measured so far, ``"add"`` adds to it.

        Raises:
            ValueError: If ``how`` is unknown, or the data is empty.
        """
        if how not in ("replace", "add"):
            raise ValueError(
                f"Expected `how` to be 'replace' or 'add', got {how!r}. "
                "'replace' protects only what the new data uses."
            )
        importance = self._measure(model, data, task_label)
        old = {} if how == "replace" else move_to_model(self.importance, model)
        self.importance = merge_importance(old, importance)
        self.anchor = take_anchor(model, self.importance)

    def num_stored(self) -> int:
        """Count the numbers kept beside the model between experiences."""
        return sum(t.numel() for t in (*self.importance.values(), *self.anchor.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned about importance, as plain tensors, numbers and strings.

        Returns:
            A dictionary that ``torch.load(..., weights_only=True)`` reads back.
        """
        return {
            "format": _FORMAT,
            "importance": dict(self.importance),
            "anchor": dict(self.anchor),
            "importance_seconds": list(self.importance_seconds),
            "num_parts": self._num_parts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the constructor's options stay.

        Args:
            state: A dictionary from :meth:`state_dict`.

        Raises:
            ValueError: If it is not one, or its importance and anchor do not fit together.
        """
        expected = {"format", "importance", "anchor", "importance_seconds", "num_parts"}
        if set(state) != expected or state["format"] != _FORMAT:
            raise ValueError(
                f"Expected `state` to have the keys {sorted(expected)} and format {_FORMAT}, got "
                f"{sorted(state)} and {state.get('format')}. Pass what `state_dict()` returned."
            )
        importance, anchor = dict(state["importance"]), dict(state["anchor"])
        shapes = {name: tuple(value.shape) for name, value in importance.items()}
        if shapes != {name: tuple(value.shape) for name, value in anchor.items()}:
            raise ValueError(
                "Expected `state` to have an anchor of each importance's name and shape, got "
                "others. The state is damaged or from two plugins."
            )
        self.importance, self.anchor = importance, anchor
        self.importance_seconds = list(state["importance_seconds"])
        self._num_parts = int(state["num_parts"])

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Follow the model to its device, forget what it no longer has."""
        _check_boundaries(strategy.experience, self.alpha)
        if getattr(strategy.experience, "is_first_subexp", False):
            self._num_parts = 0
        self.importance = move_to_model(self.importance, strategy.model)
        self.anchor = move_to_model(self.anchor, strategy.model)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Have the penalty warn before it diverges."""
        self.penalty.warn_if_unstable(strategy, self.importance)

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Check the loss and arm the penalty."""
        if self.check_finite:
            self._loss_guard.watch(strategy.loss)
        self.penalty.before_backward(strategy, self.importance, self.anchor)

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Disarm the penalty."""
        self.penalty.after_backward(strategy)

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Take the proximal step, in that mode, and check the weights."""
        self.penalty.after_update(strategy, self.importance, self.anchor)
        if self.check_finite:
            self._weight_guard.watch(strategy.model)

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Check losses not yet read and all weights."""
        if self.check_finite:
            self._loss_guard.read()
            self._weight_guard.read(strategy.model)
            check_weights(strategy.model)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Measure the importance of what was learned and let it join that of before."""
        self._num_parts += 1
        experience = _closing_experience(strategy.experience, self._num_parts)
        if experience is None:
            return
        if self.check_finite:
            self._loss_guard.read()
            check_weights(strategy.model)
        data = self.importance_data
        if data is None:
            data = experience.dataset.eval()
        elif callable(data):
            data = data(experience)
        label = self.task_label
        if label is None:
            label = _single_label(strategy.model, experience)
        importance = self._measure(strategy.model, data, label)
        old = move_to_model(self.importance, strategy.model)
        self.importance = merge_importance(old, importance, self.alpha)
        self.anchor = take_anchor(strategy.model, self.importance)

    def _measure(self, model: nn.Module, data: Any, label: int | None) -> dict[str, Tensor]:
        start = time.perf_counter()
        measured = estimate_importance(
            model,
            data,
            objective=self.objective,
            task_label=label,
            batch_size=self.batch_size,
            max_samples=self.max_samples,
            tolerance=self.tolerance,
            progress=self.verbose,
        )
        importance = normalize_importance(drop_unreached(measured), self.normalization)
        self.importance_seconds.append(time.perf_counter() - start)
        return importance


def _check_strength(value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"Expected `lambda_reg` to be finite and at least 0, got {value}. "
            "0 trains as the naive strategy does."
        )


def _check_amounts(batch_size: int, max_samples: int | None, tolerance: float | None) -> None:
    for name, value in (("batch_size", batch_size), ("max_samples", max_samples)):
        if value is not None and value < 1:
            raise ValueError(
                f"Expected `{name}` to be at least 1, got {value}. Importance needs a sample."
            )
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(
            f"Expected `tolerance` to be positive and finite, got {tolerance}. "
            "None measures on all samples."
        )


def _single_label(model: nn.Module, experience: Any) -> int | None:
    """Find the head that an experience uses, where it uses one."""
    if not any(isinstance(module, MultiTaskModule) for module in model.modules()):
        return None
    labels = set(getattr(experience, "task_labels", ()))
    return int(labels.pop()) if len(labels) == 1 else None


def _check_boundaries(experience: Any, alpha: float | None) -> None:
    if (
        isinstance(experience, OnlineCLExperience)
        and not experience.access_task_boundaries
        and alpha is None
    ):
        raise ValueError(
            "Expected the online stream to give access to its task boundaries, got one that does "
            "not. A sum over its many small parts would grow without end: build it with "
            "access_task_boundaries=True, or give `alpha` for a moving average over the parts."
        )


def _closing_experience(experience: Any, num_parts: int) -> Any:
    """Find the experience that ends here: of an online stream, the whole one, at its last part."""
    if not isinstance(experience, OnlineCLExperience) or not experience.access_task_boundaries:
        return experience
    # Avalanche's splitter does not mark the last part where its size divides the whole.
    if experience.is_last_subexp or num_parts == experience.sub_stream_length:
        return experience.origin_experience
    return None
