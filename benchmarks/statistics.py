r"""What can be said from a few seeds, and what cannot.

Runs of one seed share the order of the data and the initial weights, so methods are compared seed
by seed: noise that a seed gives to both sides cancels in the difference.

With 5 seeds or more, an estimate carries its 95 % percentile bootstrap interval. With fewer, it
carries the range of its points, which is no interval and is called so: no claim rests on it. The
percentile bootstrap of so few points is on the narrow side, so the t interval stands beside it in
the tables of numbers.

The p-value of a paired difference is that of the paired t-test; the exact sign-flip test, which
assumes symmetry alone, is given with it. With n seeds the latter cannot fall below 2^(1-n), so with
5 seeds it can never reach 0.05. Where all differences are the same number the t-test is not defined
and the sign-flip test takes its place. Holm's step-down correction is over all the comparisons of
one part.

References:
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13: percentile interval.
    Holm (1979), A simple sequentially rejective multiple test procedure.
    Agarwal et al. (2021), Deep RL at the Edge of the Statistical Precipice, NeurIPS: probability of
    improvement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import combinations
from math import isfinite, nan, sqrt
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

__all__ = [
    "CONFIDENCE",
    "MIN_SEEDS",
    "Estimate",
    "PairedDifference",
    "best_beyond_noise",
    "beyond_noise",
    "bootstrap_interval",
    "estimate",
    "holm",
    "paired_difference",
    "paired_t_p_value",
    "probability_of_improvement",
    "sign_flip_p_value",
    "standard_error",
    "t_interval",
    "unpaired_difference",
    "welch_p_value",
]

K = TypeVar("K", str, tuple[str, str])

CONFIDENCE = 0.95
MIN_SEEDS = 5  # fewer points carry no interval
_NUM_RESAMPLES = 10_000
_MAX_EXACT = 20  # 2^20 sign patterns at most


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with what is known about its error.

    Args:
        n: Number of seeds.
        mean: Mean over seeds.
        standard_error: Of the mean; ``nan`` with one seed.
        low: Lower end of the interval or of the range.
        high: Upper end of the interval or of the range.
        kind: ``"bootstrap"``: a 95 % interval; ``"range"``: smallest and largest point, which is no
            interval; ``"none"``: no point at all.
    """

    n: int
    mean: float
    standard_error: float
    low: float
    high: float
    kind: Literal["bootstrap", "range", "none"]

    @property
    def is_interval(self) -> bool:
        """Whether ``low`` and ``high`` bound a confidence interval."""
        return self.kind == "bootstrap"

    def excludes_zero(self) -> bool:
        """Tell whether there is an interval and 0 lies outside it."""
        return self.is_interval and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PairedDifference:
    """One method minus another, seed by seed.

    Args:
        seeds: The seeds that both have.
        difference: Mean difference with its interval.
        p_value: Two-sided paired t-test, see :func:`paired_t_p_value`.
        sign_flip_p_value: Two-sided exact sign-flip test.
        probability_of_improvement: Share of the pairs of runs, one of each method, in which the
            first is better.
    """

    seeds: tuple[int, ...]
    difference: Estimate
    p_value: float
    sign_flip_p_value: float
    probability_of_improvement: float


def standard_error(values: Sequence[float]) -> float:
    """Estimate the standard deviation of the mean of independent points.

    Args:
        values: One point a seed.

    Returns:
        Sample standard deviation (n - 1) over the root of n; ``nan`` below two points.

    Example:
        >>> standard_error([1.0, 3.0])
        1.0
    """
    if len(values) < 2:
        return nan
    return float(np.std(_finite(values), ddof=1) / sqrt(len(values)))


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bound the mean by the percentiles of its bootstrap distribution.

    Sets of as many points are resampled alike, in every process and whatever else is estimated.

    Args:
        values: One point a seed, at least :data:`MIN_SEEDS`.
        confidence: Coverage aimed at.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If there are too few points, or one is not finite.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> 1.0 < low < 3.0 < high < 5.0
        True
    """
    points = _finite(values)
    if len(points) < MIN_SEEDS:
        raise ValueError(
            f"Expected `values` to hold at least {MIN_SEEDS} points, got {len(points)}. "
            "Fewer carry no interval: show the points."
        )
    means = _resampled_means(points)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def t_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bound the mean by Student's t, which takes the points to be normal.

    Args:
        values: One point a seed.
        confidence: Coverage aimed at.

    Returns:
        Lower and upper end; ``nan`` below two points.

    Raises:
        ValueError: If a point is not finite.

    Example:
        >>> [round(end, 2) for end in t_interval([1.0, 3.0])]
        [-10.71, 14.71]
    """
    points = _finite(values)
    if len(points) < 2:
        return nan, nan
    half = float(stdtrit(len(points) - 1, (1 + confidence) / 2)) * standard_error(values)
    mean = float(points.mean())
    return mean - half, mean + half


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean: with an interval from :data:`MIN_SEEDS` points on, else with the range.

    Args:
        values: One point a seed.

    Returns:
        The estimate; of kind ``"none"`` without points.

    Raises:
        ValueError: If a point is not finite.

    Example:
        >>> estimate([0.25, 0.75])
        Estimate(n=2, mean=0.5, standard_error=0.25, low=0.25, high=0.75, kind='range')
    """
    if len(values) == 0:
        return Estimate(0, nan, nan, nan, nan, "none")
    points = _finite(values)
    mean, error = float(points.mean()), standard_error(values)
    if len(points) < MIN_SEEDS:
        return Estimate(len(points), mean, error, float(points.min()), float(points.max()), "range")
    low, high = bootstrap_interval(values)
    return Estimate(len(points), mean, error, low, high, "bootstrap")


def paired_t_p_value(differences: Sequence[float]) -> float:
    """Test by Student's t whether the mean of paired differences is 0 (two-sided).

    Args:
        differences: One a seed.

    Returns:
        The p-value; ``nan`` below two points. Where all points are equal, that of
        :func:`sign_flip_p_value`.

    Raises:
        ValueError: If a point is not finite.

    Example:
        >>> round(paired_t_p_value([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    points = _finite(differences)
    if len(points) < 2:
        return nan
    if np.ptp(points) == 0:
        return sign_flip_p_value(differences)
    t = float(points.mean()) / standard_error(differences)
    return float(2 * stdtr(len(points) - 1, -abs(t)))


def welch_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Test whether two sets of runs that share no seed have the same mean (Welch, two-sided).

    Args:
        ours: One point a seed.
        theirs: One point a seed.

    Returns:
        The p-value; ``nan`` where a side has fewer than two points or neither varies.

    Raises:
        ValueError: If a point is not finite.

    Example:
        >>> round(welch_p_value([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 4)
        0.2209
    """
    a, b = _finite(ours), _finite(theirs)
    if min(len(a), len(b)) < 2:
        return nan
    parts = [points.var(ddof=1) / len(points) for points in (a, b)]
    total = float(sum(parts))
    if total == 0:
        return nan
    weights = [part**2 / (len(points) - 1) for part, points in zip(parts, (a, b), strict=True)]
    freedom = total**2 / float(sum(weights))
    return float(2 * stdtr(freedom, -abs(float(a.mean() - b.mean())) / sqrt(total)))


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Test whether paired differences are symmetric about 0, over all 2^n choices of their signs.

    Args:
        differences: One a seed, 20 at most.

    Returns:
        Share of the sign choices whose mean is at least as far from 0 as the one seen; never below
        2^(1-n). ``nan`` without points.

    Raises:
        ValueError: If there are more than 20 points, or one is not finite.

    Example:
        >>> sign_flip_p_value([1.0, 2.0, 3.0])
        0.25
    """
    points = _finite(differences)
    if len(points) == 0:
        return nan
    if len(points) > _MAX_EXACT:
        raise ValueError(
            f"Expected `differences` to hold at most {_MAX_EXACT} points, got {len(points)}. "
            "The exact test runs over all 2^n signs; use the t-test."
        )
    sums = np.zeros(1)
    for point in points:
        sums = np.concatenate([sums + point, sums - point])
    tolerance = 1e-12 * float(np.abs(points).sum())  # ties are ties in spite of rounding
    return float((np.abs(sums) >= abs(points.sum()) - tolerance).mean())


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Correct p-values for being many (Holm, 1979).

    Those that are ``nan`` stay so and do not count.

    Args:
        p_values: One a comparison.

    Returns:
        The adjusted p-values under the same names, in the same order.

    Example:
        >>> holm({"ewc": 0.01, "si": 0.04, "lwf": 0.03})
        {'ewc': 0.03, 'si': 0.06, 'lwf': 0.06}
    """
    defined = sorted((p, name) for name, p in p_values.items() if isfinite(p))
    adjusted = dict.fromkeys(p_values, nan)
    largest = 0.0
    for rank, (p, name) in enumerate(defined):
        largest = max(largest, min(1.0, p * (len(defined) - rank)))
        adjusted[name] = largest
    return adjusted


def probability_of_improvement(
    ours: Sequence[float], theirs: Sequence[float], *, higher_is_better: bool = True
) -> float:
    """Estimate how likely a run of ours beats a run of theirs (Agarwal et al., 2021).

    Args:
        ours: One point a seed.
        theirs: One point a seed.
        higher_is_better: Which way is good.

    Returns:
        Share of all pairs of one run each in which ours is better, a tie counting one half;
        ``nan`` where a side is empty.

    Example:
        >>> probability_of_improvement([0.9, 0.7], [0.8, 0.7])
        0.625
    """
    if len(ours) == 0 or len(theirs) == 0:
        return nan
    sign = 1.0 if higher_is_better else -1.0
    wins = (np.sign(sign * np.subtract.outer(ours, theirs)) + 1) / 2
    return float(wins.mean())


def paired_difference(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    *,
    higher_is_better: bool = True,
) -> PairedDifference:
    """Compare two methods over the seeds that both have.

    Args:
        ours: A value for each seed.
        theirs: A value for each seed.
        higher_is_better: Which way is good, for the probability of improvement.

    Returns:
        Ours minus theirs.

    Raises:
        ValueError: If a value is not finite.

    Example:
        >>> comparison = paired_difference({1: 0.75, 2: 0.5}, {1: 0.5, 3: 0.1})
        >>> comparison.seeds, comparison.difference.mean
        ((1,), 0.25)
    """
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    exact = sign_flip_p_value(differences) if len(seeds) <= _MAX_EXACT else nan
    return PairedDifference(
        seeds,
        estimate(differences),
        paired_t_p_value(differences),
        exact,
        probability_of_improvement(
            [ours[seed] for seed in seeds],
            [theirs[seed] for seed in seeds],
            higher_is_better=higher_is_better,
        ),
    )


def unpaired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Compare two sets of runs that share no seed.

    Args:
        ours: One point a seed.
        theirs: One point a seed.

    Returns:
        Mean of ours minus mean of theirs. ``n`` is the smaller side's; below :data:`MIN_SEEDS`
        there is no interval, and the ends are those of the differences of single points.

    Raises:
        ValueError: If a point is not finite.

    Example:
        >>> unpaired_difference([0.75], [0.25, 0.5]).mean
        0.375
    """
    a, b = _finite(ours), _finite(theirs)
    n = min(len(a), len(b))
    if n == 0:
        return Estimate(0, nan, nan, nan, nan, "none")
    mean = float(a.mean() - b.mean())
    error = sqrt(standard_error(ours) ** 2 + standard_error(theirs) ** 2) if n > 1 else nan
    if n < MIN_SEEDS:
        gaps = np.subtract.outer(a, b)
        return Estimate(n, mean, error, float(gaps.min()), float(gaps.max()), "range")
    means = _resampled_means(a) - _resampled_means(b, "the other side")
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(n, mean, error, float(low), float(high), "bootstrap")


def beyond_noise(difference: Estimate, p_value: float) -> bool:
    """Decide whether a difference may be called one.

    Args:
        difference: Mean paired difference.
        p_value: Of the same, corrected for the comparisons made with it.

    Returns:
        Whether the 95 % interval leaves 0 out and the p-value is below 0.05.

    Example:
        >>> beyond_noise(Estimate(5, 0.2, 0.1, 0.01, 0.4, "bootstrap"), 0.2)
        False
    """
    return difference.excludes_zero() and p_value < 1 - CONFIDENCE


def best_beyond_noise(
    values: Mapping[str, Mapping[int, float]], *, higher_is_better: bool
) -> str | None:
    """Find the method that is better than every other one beyond noise, if there is one.

    The best of several means is best partly by luck, so an interval that leaves 0 out is not
    enough: the t-test has to agree after Holm's correction over all pairs of methods, as any of
    them could have been the best. So a winner is also beyond noise in every smaller family of
    comparisons, that of one method with each other among them.

    Args:
        values: For each method, a value a seed.
        higher_is_better: Which way is good.

    Returns:
        The method with the best mean, if its paired difference to each other method is
        :func:`beyond_noise`; else None: no winner may be shown.

    Example:
        >>> seeds = range(5)
        >>> best_beyond_noise(
        ...     {"a": {s: 0.9 + s / 100 for s in seeds}, "b": {s: 0.8 for s in seeds}},
        ...     higher_is_better=True,
        ... )
        'a'
    """
    present = {method: points for method, points in values.items() if points}
    if len(present) < 2:
        return None
    sign = 1.0 if higher_is_better else -1.0
    best = max(present, key=lambda m: (sign * float(np.mean(list(present[m].values()))), m))
    comparisons = {
        other: paired_difference(present[best], present[other])
        for other in sorted(present.keys() - {best})
    }
    corrected = holm(
        {
            pair: paired_t_p_value([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
            for pair in combinations(sorted(present), 2)
            for a, b in [(present[pair[0]], present[pair[1]])]
        }
    )
    clear = all(
        beyond_noise(c.difference, corrected[min(best, o), max(best, o)])
        for o, c in comparisons.items()
    )
    return best if clear else None


def _resampled_means(points: NDArray[np.float64], side: str = "") -> NDArray[np.float64]:
    means: NDArray[np.float64] = _resamples(len(points), side) @ points / len(points)
    return means


@lru_cache(maxsize=4)
def _resamples(n: int, side: str) -> NDArray[np.float64]:
    """Draw how often each resample holds each point, once for all sets of ``n``."""
    digest = sha256(f"bootstrap of {n} {side}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))
    # Uniform floats rather than integers: their stream is the one that numpy keeps stable.
    drawn = (generator.random((_NUM_RESAMPLES, n)) * n).astype(np.intp)
    counts = np.zeros((_NUM_RESAMPLES, n))
    np.add.at(counts, (np.arange(_NUM_RESAMPLES)[:, None], drawn), 1.0)
    return counts


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    if not np.isfinite(points).all():
        raise ValueError(
            f"Expected `values` to be finite, got {points[~np.isfinite(points)][0]}. "
            "Leave out runs in which the quantity is not defined."
        )
    return points
