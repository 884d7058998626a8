"""The examples of docs/wandb.md run, and what they say of the command line is so."""

import re
from pathlib import Path

import pytest

from tests.wandb_files import runs_in, service_processes, wait_until

TEXT = (Path(__file__).parents[1] / "docs" / "wandb.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/wandb.md", "exec"), names)
    (run,) = runs_in(tmp_path)
    keys = {key for row in run.rows for key in row}
    for name in re.findall(r"`((?:train|importance|importance_mean)/[a-z_]+)`", TEXT):
        assert name in keys
    assert any(key.startswith("eval/test_stream/Top1_Acc/experience") for key in keys)
    assert "accuracy_matrix/test_stream" in keys
    assert wait_until(lambda: not service_processes(), 15)


@pytest.mark.parametrize("line", re.findall(r"python -m benchmarks (sync[^#\n]*)", TEXT))
def test_commands_are_known(line, tmp_path, monkeypatch, capsys):
    from benchmarks.__main__ import main
    from benchmarks.tracking import page, sync

    monkeypatch.setattr(page, "is_available", lambda: True)
    monkeypatch.setattr(page, "publish", lambda study: f"https://server/{study.name}")
    monkeypatch.setattr(sync, "_unreachable", str)
    words = line.replace("`", "").replace("PATH", str(tmp_path)).split()
    if "--store" not in words:
        words += ["--store", str(tmp_path)]
    assert main(words) == 0
    assert "0 finished offline runs to send" in capsys.readouterr().out
