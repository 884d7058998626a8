"""What importing the package gives, and what it leaves alone."""

import subprocess
import sys

import mas_avalanche

BENCHMARKS_ONLY = {"benchmarks", "mlxtend", "rich"}


def test_public_names():
    assert mas_avalanche.__all__ == ["MAS", "MASPlugin", "MultiHeadAlexNet", "estimate_importance"]


def test_package_needs_nothing_of_the_benchmarks():
    code = """
import sys
import mas_avalanche, mas_avalanche.baselines
print(*sys.modules)
import benchmarks.methods, mlxtend.data, rich
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    package, more = (set(line.split()) for line in done.stdout.splitlines()[-2:])
    assert not package & BENCHMARKS_ONLY
    assert more >= BENCHMARKS_ONLY  # the check above can fail
