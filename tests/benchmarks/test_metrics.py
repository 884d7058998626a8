"""Metrics against matrices worked by hand."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks import metrics

# Three tasks. Task 0: 0.8 -> 0.9 (better) -> 0.5; task 1: 0.7 -> 0.6; task 2: 1.0.
R = [
    [0.8, 0.3, 0.2],
    [0.9, 0.7, 0.4],
    [0.5, 0.6, 1.0],
]


def test_hand_worked_matrix():
    values = metrics.metric_values(R, initial=[0.05, 0.2, 0.1], joint=[1.0, 0.9, 0.9])
    assert values == pytest.approx(
        {
            "average_accuracy": (0.5 + 0.6 + 1.0) / 3,
            "forgetting": ((0.9 - 0.5) + (0.7 - 0.6)) / 2,
            "backward_transfer": ((0.5 - 0.8) + (0.6 - 0.7)) / 2,
            "forgetting_first_minus_last": ((0.8 - 0.5) + (0.7 - 0.6)) / 2,
            "learning_accuracy": (0.8 + 0.7 + 1.0) / 3,
            "forward_transfer": ((0.3 - 0.2) + (0.4 - 0.1)) / 2,
            "intransigence": ((1.0 - 0.8) + (0.9 - 0.7) + (0.9 - 1.0)) / 3,
        },
        abs=1e-15,
    )
    assert list(values) == [metric.key for metric in metrics.METRICS]


def test_curve_averages_the_tasks_seen_so_far():
    expected = [0.8, (0.9 + 0.7) / 2, (0.5 + 0.6 + 1.0) / 3]
    np.testing.assert_allclose(metrics.average_accuracy_curve(R), expected, rtol=1e-15)


def test_a_task_that_is_best_at_the_end_has_negative_forgetting():
    improving = [[0.5, 0.1], [0.75, 0.9]]
    assert metrics.forgetting(improving) == -0.25
    assert metrics.backward_transfer(improving) == 0.25


def test_the_best_may_come_before_the_task_was_learned():
    shared = [[0.5, 0.9, 0.0], [0.5, 0.7, 0.0], [0.5, 0.6, 0.5]]
    assert metrics.forgetting(shared) == pytest.approx((0.0 + 0.3) / 2)
    assert metrics.forgetting_first_minus_last(shared) == pytest.approx((0.0 + 0.1) / 2)


def test_one_task_has_no_forgetting_and_no_transfer():
    values = metrics.metric_values([[0.75]], initial=[0.5], joint=[1.0])
    assert values["average_accuracy"] == values["learning_accuracy"] == 0.75
    assert values["intransigence"] == 0.25
    for key in ("forgetting", "backward_transfer", "forward_transfer"):
        assert isnan(values[key])


def test_a_joint_row_has_an_average_accuracy_alone():
    values = metrics.metric_values([[0.5, 0.75, 1.0]], initial=[0.1, 0.1, 0.1])
    assert values.pop("average_accuracy") == 0.75
    assert all(isnan(value) for value in values.values())


square = st.integers(1, 6).flatmap(
    lambda n: arrays(np.float64, (n, n), elements=st.floats(0, 1, allow_subnormal=False))
)


@settings(derandomize=True, deadline=None)
@given(square)
def test_identities_between_the_metrics(matrix):
    num_tasks = len(matrix)
    values = metrics.metric_values(matrix)
    if num_tasks == 1:
        return
    expected = values["learning_accuracy"] + values["backward_transfer"] * (1 - 1 / num_tasks)
    assert values["average_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert values["forgetting"] >= values["forgetting_first_minus_last"] - 1e-12


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], r"Expected `R` to be square \(tasks x tasks\), got shape \(1, 2\)"),
        ([[0.5, 50.0], [0.5, 0.5]], r"accuracies in 0\.\.1, got 50\.0.*Divide percentages"),
        ([[0.5, float("nan")], [0.5, 0.5]], r"accuracies in 0\.\.1, got nan"),
    ],
)
def test_what_is_no_accuracy_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        metrics.forgetting(matrix)


def test_reference_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"Expected `joint` to have shape \(3,\), got \(2,\)"):
        metrics.intransigence(R, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"Expected `initial` to have shape \(3,\), got \(4,\)"):
        metrics.forward_transfer(R, [0.5] * 4)
