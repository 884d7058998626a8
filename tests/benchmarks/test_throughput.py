import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import provenance
from benchmarks.dispatch import Settings, do_run
from benchmarks.record import Record
from tests.benchmarks.studies import smoke_config, to_toml

ROOT = Path(__file__).parents[2]


def seconds_for(study, store, processes):
    words = ["run", str(study), "--store", str(store), "--processes", str(processes)]
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--wandb", "offline"], cwd=ROOT, check=True
    )
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.skipif(provenance.num_cores() < 2, reason="one core does one run at a time")
@pytest.mark.timeout(3000)
def test_two_processes_need_at_most_three_fifths_of_the_time_of_one(tmp_path):
    table = tomllib.loads((ROOT / "benchmarks/studies/embedded.toml").read_text(encoding="utf-8"))
    table["seeds"]["evaluation"] = [90, 91]
    for part in table["parts"].values():
        part.pop("evaluation", None)
        part["grid"] = {name: values[2:4] for name, values in part["grid"].items()}
    study = tmp_path / "embedded.toml"
    study.write_text(to_toml(table), encoding="utf-8")
    two, one = (seconds_for(study, tmp_path / str(n), n) for n in (2, 1))
    print(f"{two:.0f} s with two processes, {one:.0f} s with one")
    assert two <= 0.6 * one


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_a_warm_worker_costs_less_than_three_seconds_beside_its_training(tmp_path):
    settings = Settings(str(tmp_path), 1, wandb="offline", wandb_folder=tmp_path / "wandb")
    beside = []
    for seed in range(90, 94):
        config = replace(smoke_config(), seed=seed)
        begin = time.monotonic()
        kind, text = do_run(config.key(provenance.code_version()), config, settings)
        total = time.monotonic() - begin
        assert kind == "record", text
        beside.append(total - Record.from_json(text).seconds["total"])
    print("seconds beside the run:", [round(value, 2) for value in beside])
    assert len(list((tmp_path / "wandb").rglob("run-*.wandb"))) == 4
    assert max(beside[1:]) < 3.0, "the first run warms the process up"
