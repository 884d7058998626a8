"""Runs that are killed at random moments and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.store import Store
from tests.benchmarks.studies import comparable, smoke_table, to_toml

ROOT = Path(__file__).parents[2]


def kill_often(folder, method, strength, kills, seed=0):
    words = [str(folder), method, str(strength), str(kills), str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.killing", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_twenty_times_ends_with_the_record_of_the_whole_one(tmp_path):
    result = kill_often(tmp_path, "si", 1.0, kills=20)
    assert result["kills"] == 20
    assert result["resumed"] >= 5, "most kills came before there was a state"
    assert all(result["same"])
    assert result["status"] == "finished"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "strength"),
    [("naive", None), ("joint", None), ("mas", 0.1), ("ewc", 10.0), ("si", 1.0), ("lwf", 1.0)],
)
def test_a_run_killed_a_hundred_times_ends_with_the_record_of_the_whole_one(
    tmp_path, method, strength
):
    result = kill_often(tmp_path, method, strength, kills=100, seed=1)
    assert result["kills"] == 100
    assert result["resumed"] >= 25
    assert all(result["same"])


@pytest.fixture
def study(tmp_path):
    table = smoke_table()
    part = table["parts"]["digits"]
    part["methods"] = ["naive", "mas", "lwf"]
    part["grid"] = {"mas": [1.0, 0.1], "lwf": [1.0, 0.1]}
    part["training"]["epochs"] = 30
    path = tmp_path / "smoke.toml"
    path.write_text(to_toml(table))
    return path


def start(study, store, *words):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks", "run", str(study), "--store", str(store)),
            *("--wandb", "disabled", "--processes", "2", *words),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def records_of(store):
    return [comparable(record) for record in Store(store, "smoke").records()]


def finish(study, store):
    process = start(study, store)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return records_of(store)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_whose_processes_are_all_killed_ten_times_loses_nothing(tmp_path, study):
    draw = random.Random(2)
    store = tmp_path / "killed"
    for _ in range(10):
        process = start(study, store, "--checkpoint-every", "0.1")
        time.sleep(draw.uniform(3.0, 9.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert finish(study, store) == finish(study, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_that_is_preempted_by_sigterm_keeps_the_work_of_its_runs(tmp_path, study):
    store = tmp_path / "preempted"
    # No state is kept for long unless the signal asks for it.
    process = start(study, store, "--checkpoint-every", "1e9")
    end = time.monotonic() + 200
    while not list(store.glob("smoke/*.json")):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # as SLURM does: to every process of the job
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Stopped by SIGTERM" in output
    assert list(store.glob("smoke/.checkpoints/*.pt"))
    assert not list(store.glob("smoke/.claims/*"))
    assert finish(study, store) == finish(study, tmp_path / "whole")
    assert not list(store.glob("smoke/.checkpoints/*.pt"))
