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
    page = PAGE.read_text().split("## Known limits")[1]
    assert len(re.findall(r"^- ", page, flags=re.MULTILINE)) == tests.count("pytest.mark.xfail")
