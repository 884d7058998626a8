"""Look at importance: histograms by layer, correlation of two, how concentrated it is.

Each question has a function that answers in numbers and one that draws. The figures need
matplotlib, which is imported only then; they are ``matplotlib.figure.Figure`` objects apart from
pyplot's global state, for ``figure.savefig(path)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Histogram",
    "concentration_figure",
    "correlation_figure",
    "histogram_figure",
    "importance_correlation",
    "importance_histograms",
    "share_holding",
]

Importance = Mapping[str, Tensor]


@dataclass(frozen=True)
class Histogram:
    """Counts of the decimal logarithm of importance.

    Attributes:
        counts: How many parameters lie between two edges.
        edges: Decimal logarithms, one more than ``counts``.
        num_zero: How many parameters have no importance at all and are not among the counts.
    """

    counts: list[int]
    edges: list[float]
    num_zero: int


def importance_histograms(importance: Importance, *, bins: int = 40) -> dict[str, Histogram]:
    """Count each layer's parameters by order of magnitude, with the same edges for all layers.

    Args:
        importance: Non-negative importance by parameter name.
        bins: Number of intervals between the least and the greatest importance above zero.

    Returns:
        A histogram for each parameter name.

    Raises:
        ValueError: If ``importance`` is empty or ``bins`` below 1.

    Example:
        >>> importance_histograms({"weight": torch.tensor([0.0, 0.1, 10.0])}, bins=2)
        {'weight': Histogram(counts=[1, 1], edges=[-1.0, 0.0, 1.0], num_zero=1)}
    """
    if bins < 1:
        raise ValueError(f"Expected `bins` to be at least 1, got {bins}.")
    logarithms = {
        name: value[value > 0].log10().double().cpu() for name, value in _given(importance).items()
    }
    present = [value for value in logarithms.values() if value.numel()]
    low = min((float(value.min()) for value in present), default=0.0)
    high = max((float(value.max()) for value in present), default=0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return {
        name: Histogram(
            counts=[int(n) for n in torch.histogram(value, edges).hist],
            edges=edges.tolist(),
            num_zero=importance[name].numel() - value.numel(),
        )
        for name, value in logarithms.items()
    }


def importance_correlation(
    first: Importance, second: Importance, *, rank: bool = True
) -> dict[str, float]:
    """Correlate two importances of the same model, layer by layer and over all layers.

    Args:
        first: Importance by parameter name.
        second: Another one; only names that both have count.
        rank: Spearman's correlation, of ranks (ties get their mean rank); else Pearson's.

    Returns:
        A number in [-1, 1] for each common name and, last, for ``"all"`` of them together; NaN
        where one of the two is constant.

    Raises:
        ValueError: If there is no common name, or a shape differs.

    Example:
        >>> first = {"weight": torch.tensor([1.0, 2.0, 3.0])}
        >>> found = importance_correlation(first, {"weight": torch.tensor([1.0, 10.0, 100.0])})
        >>> {name: round(value, 9) for name, value in found.items()}
        {'weight': 1.0, 'all': 1.0}
    """
    pairs = _pairs(first, second)
    result = {name: _correlation(a, b, rank) for name, (a, b) in pairs.items()}
    everything = [torch.cat(values) for values in zip(*pairs.values(), strict=True)]
    result["all"] = _correlation(everything[0], everything[1], rank)
    return result


def share_holding(importance: Importance, mass: float = 0.9) -> float:
    """Find the smallest share of the parameters that holds most of the importance.

    Args:
        importance: Non-negative importance by parameter name.
        mass: The part of the total importance to be held, in (0, 1].

    Returns:
        The share of the parameters, in [0, 1]; 0 where there is no importance.

    Raises:
        ValueError: If ``importance`` is empty or ``mass`` outside (0, 1].

    Example:
        >>> share_holding({"weight": torch.tensor([97.0, 1.0, 1.0, 1.0])})
        0.25
    """
    if not 0 < mass <= 1:
        raise ValueError(f"Expected `mass` to be in (0, 1], got {mass}. 0.9 asks for nine tenths.")
    held = _cumulative(importance)
    total = float(held[-1])
    if total == 0:
        return 0.0
    needed = torch.searchsorted(held, torch.tensor(mass * total, dtype=held.dtype))
    return min(int(needed) + 1, len(held)) / len(held)


def histogram_figure(importance: Importance, *, bins: int = 40, columns: int = 3) -> "Figure":
    """Draw the histogram of each layer.

    Args:
        importance: Non-negative importance by parameter name.
        bins: Number of intervals.
        columns: Panels in a row.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``importance`` is empty or a number is below 1.
    """
    if columns < 1:
        raise ValueError(f"Expected `columns` to be at least 1, got {columns}.")
    histograms = importance_histograms(importance, bins=bins)
    rows = -(-len(histograms) // columns)
    figure = _figure(columns * 2.6, rows * 1.8)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for panel, (name, histogram) in zip(panels, histograms.items(), strict=False):
        panel.stairs(histogram.counts, histogram.edges, fill=True)
        panel.set_title(name, fontsize="small")
        if histogram.num_zero:
            panel.annotate(
                f"{histogram.num_zero:,} zero", (0.02, 0.85), xycoords="axes fraction", size=7
            )
    for panel in panels[len(histograms) :]:
        panel.set_visible(False)
    figure.supxlabel("importance, decimal logarithm")
    figure.supylabel("parameters")
    return figure


def correlation_figure(first: Importance, second: Importance, *, names: Any = None) -> "Figure":
    """Draw two importances against each other, all layers together.

    Args:
        first: Importance by parameter name.
        second: Another one; only names that both have count, and entries above zero in both.
        names: What the two are called, a pair of strings.

    Returns:
        The figure, with Spearman's correlation of all entries in its title.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no common name, or a shape differs.
    """
    pairs = _pairs(first, second)
    a, b = (torch.cat(values) for values in zip(*pairs.values(), strict=True))
    both = (a > 0) & (b > 0)
    figure = _figure(4.0, 3.6)
    panel = figure.subplots()
    panel.hexbin(
        a[both].log10().numpy(), b[both].log10().numpy(), gridsize=50, bins="log", mincnt=1
    )
    first_name, second_name = names or ("first", "second")
    panel.set_xlabel(f"{first_name}, decimal logarithm")
    panel.set_ylabel(f"{second_name}, decimal logarithm")
    panel.set_title(f"rank correlation {_correlation(a, b, True):.3f}", fontsize="small")
    return figure


def concentration_figure(importances: Mapping[str, Importance]) -> "Figure":
    """Draw which share of the parameters holds which part of the importance.

    Args:
        importances: Importances to compare, each under the name to show.

    Returns:
        The figure: a curve for each, which an even spread would make the diagonal.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to draw.
    """
    if not importances:
        raise ValueError("Expected `importances` to hold at least one, got none.")
    figure = _figure(4.0, 3.6)
    panel = figure.subplots()
    points = torch.linspace(0, 1, 201, dtype=torch.float64)
    for name, importance in importances.items():
        held = _cumulative(importance)
        held = held / held[-1].clamp(min=torch.finfo(held.dtype).tiny)
        taken = (points * len(held)).round().long()
        part = torch.cat([held.new_zeros(1), held])[taken]
        panel.plot(points.numpy(), part.numpy(), label=name)
    panel.set_xlabel("share of the parameters, most important first")
    panel.set_ylabel("part of the importance")
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    panel.legend(loc="lower right", fontsize="small")
    return figure


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib to be installed for figures, got none. "
            "Install it with `pip install matplotlib`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _given(importance: Importance) -> Importance:
    if not importance:
        raise ValueError(
            "Expected `importance` to have at least one entry, got none. "
            "A plugin has importance once its first experience has ended."
        )
    return importance


def _pairs(first: Importance, second: Importance) -> dict[str, tuple[Tensor, Tensor]]:
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            f"Expected two importances with common names, got {sorted(first)[:3]} and "
            f"{sorted(second)[:3]}. They must be of the same model."
        )
    for name in common:
        if first[name].shape != second[name].shape:
            raise ValueError(
                f"Expected `{name}` to have one shape, got {tuple(first[name].shape)} and "
                f"{tuple(second[name].shape)}. They must be of the same model."
            )
    return {name: (_flat(first[name]), _flat(second[name])) for name in common}


def _flat(value: Tensor) -> Tensor:
    return value.detach().flatten().double().cpu()


def _cumulative(importance: Importance) -> Tensor:
    values = torch.cat([_flat(value) for value in _given(importance).values()])
    return values.sort(descending=True).values.cumsum(0)


def _correlation(a: Tensor, b: Tensor, rank: bool) -> float:
    if rank:
        a, b = _ranks(a), _ranks(b)
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b / (a.norm() * b.norm())).clamp(-1, 1))


def _ranks(values: Tensor) -> Tensor:
    _, group, sizes = torch.unique(values, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0).double()
    ranks: Tensor = (ends - (sizes.double() - 1) / 2)[group]
    return ranks
