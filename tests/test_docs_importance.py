"""The examples of docs/importance.md run."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

PAGE = Path(__file__).parents[1] / "docs" / "importance.md"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    namespace = {"model": nn.Linear(2, 1), "data": torch.randn(3, 2)}  # named in the first
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    capsys.readouterr()


def test_every_known_limit_is_an_expected_failure():
    tests = (Path(__file__).parent / "mas_avalanche" / "test_importance.py").read_text()
    reasons = re.findall(r'xfail\(strict=True, reason="(.*)"\)', tests)
    limits = re.findall(r"^- (.*)", PAGE.read_text().split("## Known limits")[1], re.MULTILINE)
    assert len(reasons) == len(limits) == tests.count("pytest.mark.xfail")
    for reason, limit in zip(reasons, limits, strict=True):
        assert limit.startswith(reason)


def test_no_expected_failure_is_left_unlisted():
    files = Path(__file__).parent.rglob("test_*.py")
    marked = [f.name for f in files if "pytest.mark.xfail" in f.read_text() and f != Path(__file__)]
    assert marked == ["test_importance.py"]
