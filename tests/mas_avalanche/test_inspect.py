import builtins
import io
import math

import numpy as np
import pytest
import torch
from scipy import stats

from mas_avalanche.inspect import (
    concentration_figure,
    correlation_figure,
    histogram_figure,
    importance_correlation,
    importance_histograms,
    share_holding,
)


@pytest.fixture
def importance():
    torch.manual_seed(0)
    return {
        "0.weight": torch.rand(6, 5).pow(4),
        "0.bias": torch.zeros(6),
        "1.weight": torch.cat([torch.zeros(3), torch.rand(9)]),
    }


def test_histograms_count_every_parameter_once(importance):
    found = importance_histograms(importance, bins=7)
    assert list(found) == list(importance)
    for name, histogram in found.items():
        assert sum(histogram.counts) + histogram.num_zero == importance[name].numel()
        assert len(histogram.edges) == 8
    assert found["0.bias"].num_zero == 6
    expected, _ = np.histogram(
        importance["0.weight"].log10().double().numpy().ravel(), found["0.weight"].edges
    )
    assert found["0.weight"].counts == expected.tolist()


def test_histogram_of_equal_values():
    (found,) = importance_histograms({"w": torch.full((4,), 10.0)}, bins=2).values()
    assert found.edges == [0.5, 1.0, 1.5]
    assert sum(found.counts) == 4


@pytest.mark.parametrize("rank", [True, False])
def test_correlation_is_that_of_scipy(importance, rank):
    torch.manual_seed(1)
    other = {n: v + 0.3 * torch.rand_like(v).round(decimals=1) for n, v in importance.items()}
    found = importance_correlation(importance, other, rank=rank)
    reference = stats.spearmanr if rank else stats.pearsonr
    assert list(found) == ["0.weight", "0.bias", "1.weight", "all"]
    for name in ("0.weight", "1.weight"):
        a, b = importance[name].flatten().double(), other[name].flatten().double()
        assert found[name] == pytest.approx(reference(a, b).statistic, abs=1e-12)
    a, b = (torch.cat([v.flatten().double() for v in x.values()]) for x in (importance, other))
    assert found["all"] == pytest.approx(reference(a, b).statistic, abs=1e-12)
    assert math.isnan(found["0.bias"])


def test_correlation_needs_the_same_model():
    with pytest.raises(ValueError, match="Expected two importances with common names"):
        importance_correlation({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(ValueError, match=r"Expected `a` to have one shape, got \(2,\) and \(3,\)"):
        importance_correlation({"a": torch.ones(2)}, {"a": torch.ones(3)})


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 1.0])
def test_share_holding_is_the_smallest_that_does(importance, mass):
    values = sorted((float(x) for v in importance.values() for x in v.flatten()), reverse=True)
    wanted = next(
        k for k in range(1, len(values) + 1) if sum(values[:k]) >= mass * sum(values) * (1 - 1e-12)
    )
    assert share_holding(importance, mass) == pytest.approx(wanted / len(values))


def test_share_of_an_even_and_of_no_importance():
    assert share_holding({"w": torch.ones(10)}, 0.5) == 0.5
    assert share_holding({"w": torch.zeros(10)}) == 0.0


@pytest.mark.parametrize("mass", [0.0, 1.1])
def test_mass_outside_its_range_is_refused(mass):
    with pytest.raises(ValueError, match=f"Expected `mass` to be in .0, 1., got {mass}"):
        share_holding({"w": torch.ones(2)}, mass)


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="Expected `importance` to have at least one entry"):
        importance_histograms({})
    with pytest.raises(ValueError, match="Expected `bins` to be at least 1, got 0"):
        importance_histograms({"w": torch.ones(1)}, bins=0)
    with pytest.raises(ValueError, match="Expected `columns` to be at least 1, got 0"):
        histogram_figure({"w": torch.ones(1)}, columns=0)
    with pytest.raises(ValueError, match="Expected `importances` to hold at least one"):
        concentration_figure({})


def test_figures_can_be_saved(importance):
    other = {n: v + 0.1 for n, v in importance.items()}
    histogram = histogram_figure(importance, columns=2)
    correlation = correlation_figure(importance, other, names=("MAS", "EWC"))
    concentration = concentration_figure({"MAS": importance, "other": other})
    for figure in (histogram, correlation, concentration):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        assert file.tell() > 1000
    titles = [panel.get_title() for panel in histogram.axes if panel.get_visible()]
    assert titles == list(importance)
    assert correlation.axes[0].get_xlabel() == "MAS, decimal logarithm"
    lines = concentration.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["MAS", "other"]
    x, y = lines[0].get_data()
    assert y[np.searchsorted(x, share_holding(importance, 0.5))] >= 0.49
    assert (np.diff(y) >= 0).all()
    assert (y[0], y[-1]) == (0.0, pytest.approx(1.0))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, importance):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"Expected matplotlib to be installed .* `pip install"):
        histogram_figure(importance)
    assert share_holding(importance) > 0
