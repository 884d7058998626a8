"""Memory Aware Synapses as a ready-made Avalanche strategy."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Optimizer

from mas_avalanche.consolidation import Normalization
from mas_avalanche.penalty import PenaltyMode
from mas_avalanche.plugin import MASPlugin

__all__ = ["MAS"]


class MAS(SupervisedTemplate):  # type: ignore[misc]
    """Train with a :class:`mas_avalanche.MASPlugin`, with the constructor of Avalanche's ``MAS``.

    Args:
        model: The network to train.
        optimizer: Any optimizer that Avalanche accepts.
        criterion: The loss of the task.
        lambda_reg: See :class:`mas_avalanche.MASPlugin`, as for the next two.
        alpha: None sums importance over experiences, a number is the moving average's.
        verbose: Show a progress bar while importance is measured.
        train_mb_size: Mini-batch size in training.
        train_epochs: Epochs an experience.
        eval_mb_size: Mini-batch size in evaluation.
        device: Where the model is trained.
        plugins: Further plugins, called before MAS; the list is not changed.
        evaluator: Metrics and loggers.
        eval_every: How often to evaluate within training, in epochs; -1 never, 0 at the end.
        objective: See :class:`mas_avalanche.MASPlugin`, as for the rest.
        mode: ``"gradient"`` or ``"proximal"``.
        normalization: None, ``"mean"`` or ``"max"``.
        importance_data: Unlabelled data in place of the experience's.
        task_label: The head to use for ``importance_data``.
        batch_size: Mini-batch size while importance is measured.
        max_samples: Measure on at most so many samples.
        tolerance: Stop measuring at this relative error.
        check_finite: Raise at the first non-finite loss or weight.
        **base_kwargs: Passed on to Avalanche's ``SupervisedTemplate``.

    Raises:
        ValueError: If an option of the plugin is out of range.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> strategy = MAS(
        ...     model=model,
        ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        ...     criterion=nn.CrossEntropyLoss(),
        ...     lambda_reg=0.5,
        ...     evaluator=EvaluationPlugin(),
        ... )
        >>> strategy.mas.lambda_reg
        0.5
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Any,
        lambda_reg: float = 1.0,
        alpha: float | None = None,
        verbose: bool = False,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int = 1,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        eval_every: int = -1,
        objective: Any = "squared_l2",
        mode: PenaltyMode = "gradient",
        normalization: Normalization | None = None,
        importance_data: Any = None,
        task_label: int | None = None,
        batch_size: int = 128,
        max_samples: int | None = None,
        tolerance: float | None = None,
        check_finite: bool = True,
        **base_kwargs: Any,
    ) -> None:
        plugin = MASPlugin(
            lambda_reg,
            alpha,
            verbose,
            objective=objective,
            mode=mode,
            normalization=normalization,
            importance_data=importance_data,
            task_label=task_label,
            batch_size=batch_size,
            max_samples=max_samples,
            tolerance=tolerance,
            check_finite=check_finite,
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or ()), plugin],
            evaluator=evaluator,
            eval_every=eval_every,
            **base_kwargs,
        )

    @property
    def mas(self) -> MASPlugin:
        """The plugin at work."""
        return next(plugin for plugin in self.plugins if isinstance(plugin, MASPlugin))
