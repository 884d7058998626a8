"""Learning rate and strength chosen while a sequence is learned, on the task at hand alone.

This is the continual framework of De Lange et al. (2021, Algorithm 1). For each task, with nothing
but its own training and validation data:

1. *Plasticity*: from the present model, plain fine-tuning is tried with each learning rate of a
   coarse grid. The best accuracy on the task's validation data is what can be learned.
2. *Stability*: from the same model, the method is trained at that learning rate with its strongest
   strength. While it falls short of (1 - margin) times that accuracy, the strength is multiplied by
   the decay factor and the training is repeated. The strength reached is where the next task
   begins.

Every method has the same learning rates, margin, factor and number of attempts. A method without a
strength keeps the training of phase 1. Joint training, which has the data of all tasks, chooses its
learning rate in the same way on the validation data of all of them.

Nothing here trains: how it is done is handed in.

References:
    De Lange et al. (2021), A Continual Learning Survey: Defying Forgetting in Classification Tasks,
    IEEE TPAMI.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from benchmarks.schema import from_table

__all__ = ["Continual", "Outcome", "TaskSelection", "learn"]

Learner = TypeVar("Learner")


@dataclass(frozen=True)
class Continual:
    """Constants of the procedure; the defaults are those of De Lange et al.

    Attributes:
        learning_rate_factors: Learning rates that are tried, as multiples of the part's
            ``learning_rate``. With 0.01 there, the defaults are the authors' rates.
        drop_margin: Share of the fine-tuned accuracy that a method may fall short of, in [0, 1).
        decay_factor: What a strength is multiplied by after each refused training, in (0, 1).
        max_attempts: Trainings with falling strengths on a task; the last one is kept even where
            it falls short.

    Raises:
        ValueError: If a constant is out of range.
    """

    learning_rate_factors: tuple[float, ...] = (1.0, 0.5, 0.1, 0.05, 0.01)
    drop_margin: float = 0.2
    decay_factor: float = 0.5
    max_attempts: int = 10

    def __post_init__(self) -> None:
        factors = self.learning_rate_factors
        if not factors or min(factors) <= 0 or len(set(factors)) < len(factors):
            raise ValueError(
                "Expected `learning_rate_factors` to hold at least one factor, each positive and "
                f"there once, got {list(factors)}."
            )
        if not 0 <= self.drop_margin < 1:
            raise ValueError(
                f"Expected `drop_margin` to be at least 0 and below 1, got {self.drop_margin}."
            )
        if not 0 < self.decay_factor < 1:
            raise ValueError(
                f"Expected `decay_factor` to lie between 0 and 1, got {self.decay_factor}. "
                "Strengths fall until the task is learned."
            )
        if self.max_attempts < 1:
            raise ValueError(f"Expected `max_attempts` to be at least 1, got {self.max_attempts}.")


@dataclass(frozen=True)
class Outcome(Generic[Learner]):
    """What one training left.

    Attributes:
        learner: Whatever goes on to the next task; None where training diverged.
        accuracy: On the validation data of the task at hand, 0..1; None where training diverged.
    """

    learner: Learner | None
    accuracy: float | None


@dataclass(frozen=True)
class TaskSelection:
    """What was tried on one task and what was kept: an entry of a record's ``selection``.

    Attributes:
        learning_rates: Rates of phase 1, in the order tried.
        finetuned: Validation accuracy with each; None where training diverged.
        learning_rate: The rate of the best accuracy, the smaller of equal ones; None where every
            training diverged.
        required: Accuracy that the method had to reach; None without a strength.
        strengths: Strengths of phase 2, in the order tried; none without a strength.
        reached: Validation accuracy with each; None where training diverged.
        strength: The last one tried, which is kept; None without a strength.
        accepted: Whether what is kept reached the required accuracy.
        seconds: Time spent on what was not kept, and on measuring validation accuracy.
    """

    learning_rates: tuple[float, ...]
    finetuned: tuple[float | None, ...]
    learning_rate: float | None
    required: float | None = None
    strengths: tuple[float, ...] = ()
    reached: tuple[float | None, ...] = ()
    strength: float | None = None
    accepted: bool = True
    seconds: float = 0.0

    @property
    def num_trainings(self) -> int:
        """Trainings on this task, the one that is kept included."""
        return len(self.learning_rates) + len(self.strengths)

    def to_table(self) -> dict[str, Any]:
        """Return the entry as plain data, as JSON reads it back."""
        table = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in table.items()}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> "TaskSelection":
        """Read an entry of a record.

        Raises:
            ValueError: If it is not one; the message says where and why.
        """
        return from_table(cls, table, where)


def learn(
    train: Callable[[float, float | None], Outcome[Learner]],
    *,
    learning_rate: float,
    strength: float | None,
    constants: Continual,
) -> tuple[Learner | None, TaskSelection]:
    """Learn one task with the learning rate and the strength that its validation data ask for.

    Args:
        train: ``train(learning_rate, strength)`` trains from the model as it stands before the
            task, which it leaves as it was: by plain fine-tuning where the strength is None, else
            by the method.
        learning_rate: What the factors on learning rates multiply.
        strength: Where the decay starts; None for a method without a strength.
        constants: Of the procedure.

    Returns:
        What the kept training left, None where it diverged; and what led there.

    Example:
        >>> def train(learning_rate, strength):  # the weaker the penalty, the better it learns
        ...     return Outcome("model", 0.9 if strength is None else 1 / (1 + strength))
        >>> constants = Continual(learning_rate_factors=(1.0,), drop_margin=0.2)
        >>> learned, selection = learn(
        ...     train, learning_rate=0.1, strength=1.0, constants=constants
        ... )
        >>> selection.strengths, selection.reached
        ((1.0, 0.5, 0.25), (0.5, 0.6666666666666666, 0.8))
    """
    rates = tuple(learning_rate * factor for factor in constants.learning_rate_factors)
    learner: Learner | None = None
    best, chosen = -math.inf, math.inf
    finetuned = []
    for rate in rates:
        outcome = train(rate, None)
        finetuned.append(outcome.accuracy)
        if outcome.accuracy is not None and (outcome.accuracy, -rate) > (best, -chosen):
            best, chosen = outcome.accuracy, rate
            # What a method with a strength will not keep need not be held.
            learner = outcome.learner if strength is None else None
    plasticity = TaskSelection(rates, tuple(finetuned), chosen if math.isfinite(chosen) else None)
    if plasticity.learning_rate is None or strength is None:
        accepted = plasticity.learning_rate is not None
        return learner, dataclasses.replace(plasticity, accepted=accepted)
    required = (1 - constants.drop_margin) * best
    strengths: list[float] = []
    reached: list[float | None] = []
    accepted = False
    while not accepted and len(strengths) < constants.max_attempts:
        strengths.append(strength)
        outcome = train(plasticity.learning_rate, strength)
        reached.append(outcome.accuracy)
        learner = outcome.learner
        accepted = outcome.accuracy is not None and outcome.accuracy >= required
        strength *= constants.decay_factor
    return learner, dataclasses.replace(
        plasticity,
        required=required,
        strengths=tuple(strengths),
        reached=tuple(reached),
        strength=strengths[-1],
        accepted=accepted,
    )
