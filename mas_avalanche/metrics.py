"""The penalty and the loss of the task as separate Avalanche metrics, and the time of importance.

``strategy.loss`` does not hold the penalty of the plugins of this package, which is applied in
closed form: Avalanche's ``loss_metrics`` and the task loss here are the loss without it.
"""

from typing import Any

from avalanche.evaluation import GenericPluginMetric
from avalanche.evaluation.metrics.mean import Mean

from mas_avalanche.penalty import QuadraticPenalty

__all__ = ["ImportanceTime", "Penalty", "TaskLoss", "penalty_metrics"]


def penalty_metrics(
    *, minibatch: bool = False, epoch: bool = False, experience: bool = False
) -> list[GenericPluginMetric]:
    """Make the metrics to give to Avalanche's ``EvaluationPlugin``.

    Args:
        minibatch: Emit ``Penalty_MB`` and ``TaskLoss_MB`` after each training iteration.
        epoch: Emit their means ``Penalty_Epoch`` and ``TaskLoss_Epoch`` after each epoch.
        experience: Emit ``ImportanceTime_Exp``, the seconds of the importance pass.

    Returns:
        The metrics asked for.

    Example:
        >>> [str(metric) for metric in penalty_metrics(epoch=True, experience=True)]
        ['Penalty_Epoch', 'TaskLoss_Epoch', 'ImportanceTime_Exp']
    """
    metrics: list[GenericPluginMetric] = []
    for at, wanted in (("iteration", minibatch), ("epoch", epoch)):
        if wanted:
            metrics += [Penalty(at), TaskLoss(at)]
    if experience:
        metrics.append(ImportanceTime())
    return metrics


class Penalty(GenericPluginMetric):  # type: ignore[misc]
    """The penalty before each update, strength included, over the parameters that took part.

    It sums over all plugins that hold a :class:`mas_avalanche.penalty.QuadraticPenalty` in an
    attribute ``penalty``, and makes them compute its value.

    Args:
        at: ``"iteration"`` or ``"epoch"``: when to emit the mean and start anew.
    """

    def __init__(self, at: str) -> None:
        super().__init__(Mean(), reset_at=at, emit_at=at, mode="train")
        self._suffix = "MB" if at == "iteration" else "Epoch"

    def before_training_iteration(self, strategy: Any) -> None:
        """Ask for the value."""
        super().before_training_iteration(strategy)
        for penalty in _penalties(strategy):
            penalty.track_value = True

    def update(self, strategy: Any) -> None:
        """Read the value."""
        value = sum(float(penalty.value) for penalty in _penalties(strategy))
        self._metric.update(value, len(strategy.mb_x))

    def __str__(self) -> str:
        return f"Penalty_{self._suffix}"


class TaskLoss(GenericPluginMetric):  # type: ignore[misc]
    """The loss that autograd differentiates: the criterion and what other plugins added to it.

    Args:
        at: ``"iteration"`` or ``"epoch"``: when to emit the mean and start anew.
    """

    def __init__(self, at: str) -> None:
        super().__init__(Mean(), reset_at=at, emit_at=at, mode="train")
        self._suffix = "MB" if at == "iteration" else "Epoch"

    def update(self, strategy: Any) -> None:
        """Read the loss."""
        self._metric.update(float(strategy.loss.detach().mean()), len(strategy.mb_x))

    def __str__(self) -> str:
        return f"TaskLoss_{self._suffix}"


class ImportanceTime(GenericPluginMetric):  # type: ignore[misc]
    """Seconds that the importance pass after an experience took, over all plugins that time it.

    Avalanche's own timing metrics stop before this pass begins.
    """

    def __init__(self) -> None:
        super().__init__(Mean(), reset_at="experience", emit_at="experience", mode="train")
        self._passes: dict[int, int] = {}

    def before_training_exp(self, strategy: Any) -> None:
        """Count the passes so far."""
        super().before_training_exp(strategy)
        self._passes = {i: len(seconds) for i, seconds in enumerate(_seconds(strategy))}

    def after_training_exp(self, strategy: Any) -> Any:
        """Emit the time of the passes since."""
        new = (
            sum(seconds[self._passes.get(i, 0) :]) for i, seconds in enumerate(_seconds(strategy))
        )
        self._metric.update(sum(new))
        return super().after_training_exp(strategy)

    def __str__(self) -> str:
        return "ImportanceTime_Exp"


def _penalties(strategy: Any) -> list[QuadraticPenalty]:
    held = (getattr(plugin, "penalty", None) for plugin in strategy.plugins)
    return [penalty for penalty in held if isinstance(penalty, QuadraticPenalty)]


def _seconds(strategy: Any) -> list[list[float]]:
    held = (getattr(plugin, "importance_seconds", None) for plugin in strategy.plugins)
    return [seconds for seconds in held if isinstance(seconds, list)]
