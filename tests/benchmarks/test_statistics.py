"""Statistics against scipy, brute force and cases with a known answer."""

from itertools import product
from math import isnan

import numpy as np
import pytest
from scipy import stats

from benchmarks import statistics as ours


def test_five_points_carry_an_interval_four_do_not():
    five = ours.estimate([0.1, 0.2, 0.3, 0.4, 0.5])
    four = ours.estimate([0.1, 0.2, 0.3, 0.4])
    assert five.kind == "bootstrap"
    assert five.is_interval
    assert (four.kind, four.low, four.high) == ("range", 0.1, 0.4)
    assert not four.is_interval
    assert not four.excludes_zero()  # a range supports no claim, wherever it lies


def test_bootstrap_agrees_with_scipy_and_is_reproducible():
    points = [0.1, 0.5, 0.3, 0.9, 0.4, 0.7]
    low, high = ours.bootstrap_interval(points)
    reference = stats.bootstrap(
        (points,), np.mean, method="percentile", n_resamples=50_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert low == pytest.approx(reference.low, abs=0.01)
    assert high == pytest.approx(reference.high, abs=0.01)
    assert (low, high) == ours.bootstrap_interval(points)
    doubled = ours.bootstrap_interval([2 * point for point in points])
    assert doubled == pytest.approx((2 * low, 2 * high)), "the same resamples for as many points"


def test_bootstrap_of_few_points_is_refused():
    with pytest.raises(ValueError, match="at least 5 points, got 4"):
        ours.bootstrap_interval([0.0] * 4)


def test_t_interval_and_standard_error_agree_with_scipy():
    points = [0.1, 0.5, 0.3, 0.9]
    reference = stats.ttest_1samp(points, 0).confidence_interval(0.95)
    assert ours.t_interval(points) == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert ours.standard_error(points) == pytest.approx(stats.sem(points), rel=1e-12)
    assert isnan(ours.standard_error([1.0]))


def test_paired_t_agrees_with_scipy():
    a, b = [0.9, 0.8, 0.85, 0.7, 0.95], [0.8, 0.82, 0.7, 0.65, 0.9]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert ours.paired_t_p_value(differences) == pytest.approx(
        stats.ttest_rel(a, b).pvalue, rel=1e-12
    )


def test_sign_flip_agrees_with_enumeration():
    points = [0.3, -0.1, 0.25, 0.4, 0.05, -0.2]
    means = [np.dot(signs, points) for signs in product([1, -1], repeat=len(points))]
    expected = np.mean([abs(m) >= abs(sum(points)) - 1e-12 for m in means])
    assert ours.sign_flip_p_value(points) == expected


def test_sign_flip_floor():
    assert ours.sign_flip_p_value([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 32
    assert ours.sign_flip_p_value([0.0] * 5) == 1.0
    with pytest.raises(ValueError, match="at most 20 points, got 21"):
        ours.sign_flip_p_value([0.1] * 21)


def test_equal_differences_fall_back_to_the_sign_flip_test():
    assert ours.paired_t_p_value([0.25] * 5) == 2 / 32
    assert ours.paired_t_p_value([0.0] * 5) == 1.0


def test_holm_by_hand():
    adjusted = ours.holm({"a": 0.02, "b": 0.005, "c": float("nan"), "d": 0.5, "e": 0.021})
    # sorted: b .005*4, a .02*3, e .021*2 (raised to a's), d .5*1
    assert list(adjusted) == ["a", "b", "c", "d", "e"]
    assert isnan(adjusted.pop("c"))
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.02, "d": 0.5, "e": 0.06})


def test_probability_of_improvement_counts_ties_by_half():
    assert ours.probability_of_improvement([1.0, 0.0], [0.0, 0.0]) == 0.75
    assert ours.probability_of_improvement([1.0, 0.0], [0.0, 0.0], higher_is_better=False) == 0.25


def test_pairing_removes_what_a_seed_gives_to_both():
    noise = dict(enumerate([0.0, 0.3, -0.3, 0.2, -0.2]))
    jitter = dict(enumerate([0.001, -0.002, 0.002, 0.0, -0.001]))
    better = {seed: 0.5 + noise[seed] + 0.02 + jitter[seed] for seed in noise}
    worse = {seed: 0.5 + noise[seed] for seed in noise}
    comparison = ours.paired_difference(better, worse)
    assert comparison.difference.excludes_zero()
    assert comparison.p_value < 0.001
    unpaired = stats.ttest_ind(list(better.values()), list(worse.values())).pvalue
    assert unpaired > 0.8


def test_pairs_are_the_seeds_that_both_have():
    comparison = ours.paired_difference({1: 0.9, 2: 0.8, 4: 0.1}, {1: 0.8, 2: 0.6, 3: 0.0})
    assert comparison.seeds == (1, 2)
    assert comparison.difference.mean == pytest.approx(0.15)


def _method(mean, noise):
    return {seed: mean + value for seed, value in enumerate(noise)}


def test_a_known_winner_is_found():
    values = {
        "naive": _method(0.4, [0.01, -0.02, 0.0, 0.01, 0.0]),
        "mas": _method(0.8, [0.02, -0.01, 0.01, 0.0, -0.02]),
        "ewc": _method(0.7, [0.0, 0.02, -0.01, 0.01, 0.01]),
    }
    assert ours.best_beyond_noise(values, higher_is_better=True) == "mas"
    assert ours.best_beyond_noise(values, higher_is_better=False) == "naive"


def test_a_winner_is_beyond_noise_for_every_other_method_too():
    generator = np.random.default_rng(1)
    winners = 0
    for _ in range(60):
        values = {
            m: _method(0.5 + 0.015 * i, generator.normal(0, 0.01, 5)) for i, m in enumerate("abcd")
        }
        best = ours.best_beyond_noise(values, higher_is_better=True)
        if best is None:
            continue
        winners += 1
        for focal in values.keys() - {best}:
            p_values = {
                other: ours.paired_t_p_value(
                    [values[focal][s] - values[other][s] for s in values[focal]]
                )
                for other in values.keys() - {focal}
            }
            assert ours.holm(p_values)[best] < 0.05
    assert winners >= 5


def test_no_winner_without_a_difference_or_without_enough_seeds():
    noise = [0.02, -0.03, 0.01, 0.03, -0.03]
    equal = {"mas": _method(0.7, noise), "ewc": _method(0.701, noise[::-1])}
    assert ours.best_beyond_noise(equal, higher_is_better=True) is None
    few = {"mas": _method(0.9, noise[:4]), "ewc": _method(0.5, noise[:4])}
    assert ours.best_beyond_noise(few, higher_is_better=True) is None
    assert ours.best_beyond_noise({"mas": _method(0.9, noise)}, higher_is_better=True) is None


def test_false_winners_are_rare_where_all_methods_are_the_same():
    generator = np.random.default_rng(0)
    winners = 0
    for _ in range(100):
        values = {m: _method(0.5, generator.normal(0, 0.02, 5)) for m in "abcd"}
        winners += ours.best_beyond_noise(values, higher_is_better=True) is not None
    assert winners <= 3


def test_welch_agrees_with_scipy():
    a, b = [0.9, 0.8, 0.85, 0.7, 0.95], [0.8, 0.82, 0.7]
    assert ours.welch_p_value(a, b) == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-12
    )
    assert isnan(ours.welch_p_value([1.0], [0.0, 1.0]))
    assert isnan(ours.welch_p_value([1.0, 1.0], [0.0, 0.0]))


def test_unpaired_difference_resamples_both_sides():
    a, b = [0.9, 0.8, 0.85, 0.7, 0.95], [0.5, 0.52, 0.4, 0.45, 0.6]
    found = ours.unpaired_difference(a, b)
    assert found.excludes_zero()
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert found.standard_error == pytest.approx(np.hypot(stats.sem(a), stats.sem(b)))
    reference = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)
    few = ours.unpaired_difference(a[:2], b[:2])
    assert (few.kind, few.low, few.high) == ("range", pytest.approx(0.28), pytest.approx(0.4))


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="Expected `values` to be finite, got nan"):
        ours.estimate([0.1, float("nan")])
