import pytest

from mas_avalanche.importance import estimate_importance
from tests import oracles
from tests.zoo import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zoo_equals_one_sample_at_a_time(case):
    model, x = case.build()
    expected = oracles.importance(model, x)
    for sizes in ([5], [3, 2], [1, 4], [1, 1, 1, 1, 1]):
        found = estimate_importance(model, x.split(sizes))
        errors = oracles.relative_errors(found, expected)
        assert max(errors.values()) < 1e-10, (sizes, errors)
    found = estimate_importance(model, x)
    if case.generic is not None:
        assert set(found.generic) == case.generic
