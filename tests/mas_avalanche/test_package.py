"""What importing the package gives, and what it leaves alone."""

import subprocess
import sys

import pytest

import mas_avalanche


def test_public_names():
    assert mas_avalanche.__all__ == ["MAS", "MASPlugin", "MultiHeadAlexNet", "estimate_importance"]


def loaded(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stdout.split())


def test_package_needs_nothing_of_the_benchmarks():
    modules = loaded("import mas_avalanche, mas_avalanche.baselines")
    assert not modules & {"benchmarks", "mlxtend", "jinja2", "plotly"}


@pytest.mark.parametrize("statement", ["import benchmarks.methods", "import jinja2"])
def test_the_check_above_can_fail(statement):
    assert loaded(statement) & {"benchmarks", "jinja2"}
