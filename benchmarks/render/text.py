"""Numbers as words: one way to write each, in every format of the report."""

from collections.abc import Callable, Sequence
from math import isfinite

from benchmarks.statistics import Estimate

__all__ = [
    "MISSING",
    "count",
    "enumerate_words",
    "interval_words",
    "number",
    "p_value",
    "percent",
    "percent_interval",
    "points",
    "points_interval",
    "seconds",
    "strength",
    "with_ends",
]

MISSING = "–"


def number(value: float, digits: int = 1, *, signed: bool = False) -> str:
    """Write a number with fixed digits, a real minus sign and no negative zero.

    Example:
        >>> number(-0.04), number(-1.25, 2), number(2.0, signed=True)
        ('0.0', '−1.25', '+2.0')
    """
    if not isfinite(value):
        return MISSING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float, *, signed: bool = False) -> str:
    """Write a fraction in percent, without the sign for it.

    Example:
        >>> percent(0.8125)
        '81.2'
    """
    return number(100 * value, signed=signed)


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, always with its sign.

    Example:
        >>> points(-0.05)
        '−5.0'
    """
    return percent(value, signed=True)


def percent_interval(found: Estimate) -> str:
    """Write a mean in percent with its interval in brackets, or its range in parentheses.

    Example:
        >>> percent_interval(Estimate(5, 0.5, 0.01, 0.48, 0.52, "bootstrap"))
        '50.0 [48.0, 52.0]'
        >>> percent_interval(Estimate(3, 0.5, 0.01, 0.48, 0.52, "range"))
        '50.0 (48.0–52.0)'
    """
    return with_ends(percent, found)


def points_interval(found: Estimate) -> str:
    """Write a mean difference in points with its interval in brackets, or its range."""
    return with_ends(points, found)


def with_ends(write: Callable[[float], str], found: Estimate) -> str:
    """Write a mean with its interval in brackets, or its range in parentheses.

    Args:
        write: Writes one number.
        found: What is known.

    Returns:
        The mean alone where there is neither interval nor range.
    """
    mean, low, high = write(found.mean), write(found.low), write(found.high)
    if low == mean == high:
        return mean
    if found.kind == "bootstrap":
        return f"{mean} [{low}, {high}]"
    if found.kind == "range" and found.n > 1:
        return f"{mean} ({low}–{high})" if "−" not in low + high else f"{mean} ({low} to {high})"
    return mean


def interval_words(kinds: Sequence[Estimate]) -> str:
    """Say what stands behind the mean in a table.

    Args:
        kinds: The estimates that are shown.

    Returns:
        A sentence; empty where nothing is shown.
    """
    found = {e.kind for e in kinds if e.n > 1}
    bootstrap = "a 95 % bootstrap interval over seeds"
    smallest = "the smallest and largest seed, which is no interval (fewer than 5 seeds)"
    if found == {"bootstrap"}:
        return f"Brackets: {bootstrap}."
    if found == {"range"}:
        return f"Parentheses: {smallest}."
    if found >= {"bootstrap", "range"}:
        return f"Brackets: {bootstrap}; parentheses: {smallest}."
    return "One seed: no spread is known." if kinds else ""


def seconds(value: float) -> str:
    """Write a duration in seconds with about three digits.

    Example:
        >>> seconds(0.01234), seconds(12.34), seconds(1234.5)
        ('0.012', '12.3', '1234')
    """
    if not isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if value < 1:
        return number(value, 3)
    return number(value, 1) if value < 100 else number(value, 0)


def count(value: float) -> str:
    r"""Write a whole number with thin spaces between the thousands.

    Example:
        >>> count(1234567.0) == "1\u202f234\u202f567"
        True
    """
    return f"{value:,.0f}".replace(",", "\u202f") if isfinite(value) else MISSING


def p_value(value: float) -> str:
    """Write a p-value with three digits.

    Example:
        >>> p_value(0.0001), p_value(0.0625)
        ('< 0.001', '0.062')
    """
    if not isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def strength(value: float | None) -> str:
    """Write a strength as short as it can be.

    Example:
        >>> strength(10.0), strength(0.03), strength(1e5), strength(None)
        ('10', '0.03', '100000', '–')
    """
    if value is None or not isfinite(value):
        return MISSING
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:g}"


def enumerate_words(items: Sequence[str], comma: str = ",") -> str:
    """Join words as a sentence does.

    Example:
        >>> enumerate_words(["EWC", "SI"]), enumerate_words(["EWC", "SI", "LwF"])
        ('EWC and SI', 'EWC, SI, and LwF')
    """
    if len(items) < 2:
        return "".join(items)
    last = f"{comma} and " if len(items) > 2 or comma == ";" else " and "
    return f"{f'{comma} '.join(items[:-1])}{last}{items[-1]}"
