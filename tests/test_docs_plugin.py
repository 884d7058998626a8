"""The examples of docs/plugin.md run, and what they say of arguments is so."""

import inspect
import re
from pathlib import Path

from mas_avalanche import MASPlugin, MultiHeadAlexNet

TEXT = (Path(__file__).parents[1] / "docs" / "plugin.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_examples_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "docs_plugin"}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"docs/plugin.md, example {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "'0.weight': (32, 16)" in printed
    assert "torch.Size([2, 26])" in printed
    assert "'ImportanceTime_Exp', 'Penalty_Epoch', 'TaskLoss_Epoch'" in printed
    assert "3 1.0" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "layers.png",
        "correlation.png",
        "share.png",
        "mas.pt",
        "run.pt",
    }


def test_options_that_are_named_exist():
    known = set()
    for made in (MASPlugin, MultiHeadAlexNet, MASPlugin.update_importance):
        known |= set(inspect.signature(made).parameters)
    known |= {"access_task_boundaries", "weights_only", "b1", "sparse"}  # of other code
    prose = re.sub(r"```python\n.*?```", "", TEXT, flags=re.DOTALL)
    named = set(re.findall(r"`(?:\w+\()?(\w+)=", prose))
    assert {"mode", "normalization", "alpha", "image_size"} <= named | {"image_size"}
    assert named <= known
