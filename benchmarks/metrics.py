r"""What an accuracy matrix says about a run of continual learning.

``R[i, j]`` is the accuracy in 0..1 on task ``j`` after training on task ``i``; a run over ``T``
tasks gives a ``T x T`` matrix, a joint run a single row. Every metric is a pure function of it.

Two conventions of forgetting are in use. The headline of our reports is *best minus last*
(Chaudhry et al., 2018), because *first minus last* is the negative of backward transfer and would
print the same number twice.

References:
    Lopez-Paz and Ranzato (2017), Gradient Episodic Memory, NeurIPS: ACC, BWT, FWT.
    Chaudhry et al. (2018), Riemannian Walk, ECCV: forgetting, intransigence.
    Riemer et al. (2019), Meta-Experience Replay, ICLR: learning accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "METRICS",
    "Metric",
    "average_accuracy",
    "average_accuracy_curve",
    "backward_transfer",
    "forgetting",
    "forgetting_first_minus_last",
    "forward_transfer",
    "intransigence",
    "learning_accuracy",
    "metric_values",
]


def average_accuracy(R: ArrayLike) -> float:
    """Average the accuracy over all tasks at the end (ACC; Lopez-Paz and Ranzato, 2017, Eq. 2).

    Args:
        R: Accuracy matrix (T, T), or (1, T) of a joint run.

    Returns:
        A fraction in 0..1.

    Raises:
        ValueError: If `R` is no accuracy matrix.

    Example:
        >>> average_accuracy([[0.9, 0.1], [0.6, 0.8]])
        0.7
    """
    return float(_matrix(R, one_row=True)[-1].mean())


def average_accuracy_curve(R: ArrayLike) -> NDArray[np.float64]:
    """Average the accuracy over the tasks seen so far, after each task.

    Args:
        R: Accuracy matrix (T, T).

    Returns:
        Shape (T,): entry ``i`` is the mean of ``R[i, :i + 1]``.

    Raises:
        ValueError: If `R` is no square accuracy matrix.

    Example:
        >>> average_accuracy_curve([[0.9, 0.1], [0.6, 0.8]]).tolist()
        [0.9, 0.7]
    """
    matrix = _matrix(R)
    return np.array([row[: i + 1].mean() for i, row in enumerate(matrix)])


def learning_accuracy(R: ArrayLike) -> float:
    """Average the accuracy on each task right after it was learned (Riemer et al., 2019).

    Args:
        R: Accuracy matrix (T, T).

    Returns:
        A fraction in 0..1; how plastic the learner was.

    Raises:
        ValueError: If `R` is no square accuracy matrix.

    Example:
        >>> learning_accuracy([[0.75, 0.25], [0.5, 0.25]])
        0.5
    """
    return float(np.diagonal(_matrix(R)).mean())


def backward_transfer(R: ArrayLike) -> float:
    """Average what later tasks did to earlier ones (BWT; Lopez-Paz and Ranzato, 2017, Eq. 3).

    Args:
        R: Accuracy matrix (T, T).

    Returns:
        Mean of ``R[T-1, j] - R[j, j]`` over all tasks but the last; ``nan`` with one task.

    Raises:
        ValueError: If `R` is no square accuracy matrix.

    Example:
        >>> backward_transfer([[0.75, 0.25], [0.5, 0.25]])
        -0.25
    """
    matrix = _matrix(R)
    if len(matrix) == 1:
        return nan
    return float((matrix[-1] - np.diagonal(matrix))[:-1].mean())


def forgetting_first_minus_last(R: ArrayLike) -> float:
    """Average how far each task fell from when it was learned: the negative of BWT.

    Avalanche's convention. The official code of MAS and De Lange et al. (2021) divide the same sum
    by ``T`` instead of ``T - 1``: multiply theirs by ``T / (T - 1)`` to compare.

    Args:
        R: Accuracy matrix (T, T).

    Returns:
        Mean of ``R[j, j] - R[T-1, j]`` over all tasks but the last; ``nan`` with one task.

    Raises:
        ValueError: If `R` is no square accuracy matrix.

    Example:
        >>> forgetting_first_minus_last([[0.75, 0.25], [0.5, 0.25]])
        0.25
    """
    return -backward_transfer(R)


def forgetting(R: ArrayLike) -> float:
    """Average how far each task fell from its best (Chaudhry et al., 2018, Eq. 3).

    Args:
        R: Accuracy matrix (T, T).

    Returns:
        Mean of ``max(R[:T-1, j]) - R[T-1, j]`` over all tasks but the last; ``nan`` with one task.
        Negative where a task is best at the end.

    Raises:
        ValueError: If `R` is no square accuracy matrix.

    Example:
        >>> forgetting([[0.5, 0.0, 0.0], [0.75, 0.5, 0.0], [0.25, 0.25, 1.0]])
        0.375
    """
    matrix = _matrix(R)
    if len(matrix) == 1:
        return nan
    return float((matrix[:-1].max(axis=0) - matrix[-1])[:-1].mean())


def forward_transfer(R: ArrayLike, initial: Sequence[float] | NDArray[np.float64]) -> float:
    """Average what earlier tasks gave to later ones (FWT; Lopez-Paz and Ranzato, 2017, Eq. 4).

    Args:
        R: Accuracy matrix (T, T).
        initial: Accuracy on each task (T,) before any training.

    Returns:
        Mean of ``R[j-1, j] - initial[j]`` over all tasks but the first; ``nan`` with one task.

    Raises:
        ValueError: If `R` is no square accuracy matrix or `initial` has another length.

    Example:
        >>> forward_transfer([[0.75, 0.5], [0.5, 0.75]], [0.25, 0.25])
        0.25
    """
    matrix = _matrix(R)
    before = _row(initial, "initial", len(matrix))
    if len(matrix) == 1:
        return nan
    return float((np.diagonal(matrix, offset=1) - before[1:]).mean())


def intransigence(R: ArrayLike, joint: Sequence[float] | NDArray[np.float64]) -> float:
    """Average what the learner could not learn, against a joint run (after Chaudhry et al., 2018).

    Note:
        Chaudhry et al. train a reference for each task ``k`` on the tasks up to ``k``. Ours is the
        one joint run over all tasks, of the same seed.

    Args:
        R: Accuracy matrix (T, T).
        joint: Accuracy of the joint run on each task (T,).

    Returns:
        Mean of ``joint[j] - R[j, j]``; negative where learning in sequence went better.

    Raises:
        ValueError: If `R` is no square accuracy matrix or `joint` has another length.

    Example:
        >>> intransigence([[0.75, 0.25], [0.5, 0.25]], [1.0, 0.5])
        0.25
    """
    matrix = _matrix(R)
    return float((_row(joint, "joint", len(matrix)) - np.diagonal(matrix)).mean())


@dataclass(frozen=True)
class Metric:
    """What a report says about one number.

    Args:
        key: Name in files.
        title: Name in words.
        short: Name in a table's head.
        higher_is_better: Which way is good.
        definition: One sentence with the formula.
    """

    key: str
    title: str
    short: str
    higher_is_better: bool
    definition: str


METRICS: tuple[Metric, ...] = (
    Metric(
        "average_accuracy",
        "average accuracy",
        "ACC",
        True,
        "mean over all tasks j of R[T, j], the accuracy after the last task "
        "(Lopez-Paz and Ranzato, 2017).",
    ),
    Metric(
        "forgetting",
        "forgetting (best minus last)",
        "Forgetting",
        False,
        "mean over the tasks j < T of max over l < T of R[l, j], minus R[T, j] "
        "(Chaudhry et al., 2018). This is the headline convention.",
    ),
    Metric(
        "backward_transfer",
        "backward transfer",
        "BWT",
        True,
        "mean over the tasks j < T of R[T, j] − R[j, j] (Lopez-Paz and Ranzato, 2017).",
    ),
    Metric(
        "forgetting_first_minus_last",
        "forgetting (first minus last)",
        "Forgetting (first)",
        False,
        "mean over the tasks j < T of R[j, j] − R[T, j], the convention of Avalanche; it is −BWT. "
        "The official MAS code and De Lange et al. (2021) divide by T instead of T − 1.",
    ),
    Metric(
        "learning_accuracy",
        "learning accuracy",
        "LA",
        True,
        "mean over all tasks j of R[j, j], the accuracy right after learning it "
        "(Riemer et al., 2019). ACC = LA + BWT (T − 1) / T.",
    ),
    Metric(
        "forward_transfer",
        "forward transfer",
        "FWT",
        True,
        "mean over the tasks j > 1 of R[j − 1, j] − b[j], with b the accuracy of the untrained "
        "network (Lopez-Paz and Ranzato, 2017). A head that was never trained gives chance on both "
        "sides.",
    ),
    Metric(
        "intransigence",
        "intransigence",
        "Intransigence",
        False,
        "mean over all tasks j of the accuracy of the joint run of the same seed on j, minus "
        "R[j, j] (after Chaudhry et al., 2018, who train a reference for each prefix of tasks).",
    ),
)


def metric_values(
    R: ArrayLike,
    *,
    initial: Sequence[float] | None = None,
    joint: Sequence[float] | None = None,
) -> dict[str, float]:
    """Compute every metric of :data:`METRICS`, ``nan`` where it is not defined.

    Args:
        R: Accuracy matrix (T, T), or (1, T) of a joint run, which has an average accuracy alone.
        initial: Accuracy (T,) before training, for forward transfer.
        joint: Accuracy (T,) of the joint run of the same seed, for intransigence.

    Returns:
        A value for each key of :data:`METRICS`, in their order.

    Raises:
        ValueError: If `R` is no accuracy matrix, or a length does not fit it.

    Example:
        >>> metric_values([[0.75, 0.25], [0.5, 0.25]])["forgetting"]
        0.25
    """
    matrix = _matrix(R, one_row=True)
    values = dict.fromkeys((m.key for m in METRICS), nan)
    values["average_accuracy"] = average_accuracy(matrix)
    if matrix.shape[0] != matrix.shape[1]:
        return values
    values["forgetting"] = forgetting(matrix)
    values["backward_transfer"] = backward_transfer(matrix)
    values["forgetting_first_minus_last"] = forgetting_first_minus_last(matrix)
    values["learning_accuracy"] = learning_accuracy(matrix)
    if initial is not None:
        values["forward_transfer"] = forward_transfer(matrix, initial)
    if joint is not None:
        values["intransigence"] = intransigence(matrix, joint)
    return values


def _matrix(R: ArrayLike, *, one_row: bool = False) -> NDArray[np.float64]:
    matrix = np.asarray(R, dtype=np.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0
    row = one_row and matrix.ndim == 2 and matrix.shape[0] == 1 and matrix.shape[1] > 0
    if not (square or row):
        allowed = "square, or a single row," if one_row else "square"
        raise ValueError(
            f"Expected `R` to be {allowed} (tasks x tasks), got shape {matrix.shape}. "
            "Row i holds the accuracies after training on task i."
        )
    _check_fractions(matrix, "R")
    return matrix


def _row(
    values: Sequence[float] | NDArray[np.float64], name: str, length: int
) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (length,):
        raise ValueError(
            f"Expected `{name}` to have shape ({length},), got {row.shape}. "
            "It holds one accuracy a task."
        )
    _check_fractions(row, name)
    return row


def _check_fractions(values: NDArray[np.float64], name: str) -> None:
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        raise ValueError(
            f"Expected `{name}` to hold accuracies in 0..1, got {values[bad][0]}. "
            "Divide percentages by 100, and leave out runs without a complete matrix."
        )
