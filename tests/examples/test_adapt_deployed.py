import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "adapt_deployed.py"


def test_adapting_frees_room_for_the_new_task_and_keeps_what_was_met(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("adapt_deployed", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "adapt_deployed", script)
    spec.loader.exec_module(script)
    outcomes = script.main()
    fixed, adapted = outcomes["importance from training"], outcomes["importance from use"]
    assert adapted.second_task > fixed.second_task + 0.01
    assert adapted.met > fixed.met - 0.03
    assert adapted.met > 0.9
    assert "5 to 9" in capsys.readouterr().out
