import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
BYTES = 2**30


def measure(*words):
    """Return what a command prints, its seconds and its greatest resident memory."""
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return output, time.monotonic() - begin, usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_records_are_listed_resumed_and_reported(tmp_path):
    study, store = tmp_path / "large.toml", tmp_path / "runs"
    output, _, _ = measure("tests.benchmarks.large", str(study), str(store))
    assert output == "10024\n"
    place = ["--store", str(store)]
    commands = {
        "list": ["benchmarks", "run", str(study), "--dry-run", *place],
        "resume": ["benchmarks", "run", str(study), "--wandb", "disabled", *place],
        "report": ["benchmarks", "report", str(study), "--out", str(tmp_path / "out"), *place],
    }
    expected = {"list": "0 of 10024 runs to do.", "resume": "10024 of 10024", "report": "README.md"}
    for name, words in commands.items():
        output, seconds, memory = measure(*words)
        print(f"{name}: {seconds:.1f} s, {memory / 2**20:.0f} MiB")
        assert expected[name] in output
        assert seconds < SECONDS, name
        assert memory < BYTES, name
