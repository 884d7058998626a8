import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.store import Store
from tests.benchmarks.studies import comparable, smoke_table, to_toml

ROOT = Path(__file__).parents[2]


def study_file(tmp_path, **training):
    table = smoke_table()
    part = table["parts"]["digits"]
    part["methods"] = ["naive", "mas"]
    part["training"] |= training
    path = tmp_path / "smoke.toml"
    path.write_text(to_toml(table))
    return path


def test_without_ray_the_message_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    store = str(tmp_path / "runs")
    assert main(["run", str(study_file(tmp_path)), "--ray", "--store", store]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected Ray to be installed for --ray")
    assert "pip install -e '.[ray]'" in error
    assert error.count("\n") == 1


def test_ray_divides_the_cores_itself(tmp_path, capsys):
    assert main(["run", str(study_file(tmp_path)), "--ray", "--processes", "2"]) == 2
    assert "either --ray or --processes" in capsys.readouterr().err


def command(study, store, *words):
    return [
        *(sys.executable, "-m", "benchmarks", "run", str(study)),
        *("--store", str(store), "--wandb", "disabled", *words),
    ]


def call(study, store, *words):
    done = subprocess.run(
        command(study, store, *words), cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cluster():
    """Two nodes of one core each, as Ray's own tests make them."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_serial_parallel_and_ray_runs_give_the_same_records(tmp_path, cluster):
    study = study_file(tmp_path)
    ways = {
        "serial": ["--processes", "1"],
        "parallel": ["--processes", "2"],
        "ray": ["--ray", cluster.address],
        "own": ["--ray"],
    }
    found = {}
    for way, words in ways.items():
        code, out, err = call(study, tmp_path / way, *words)
        assert code == 0, (way, out, err)
        assert "6 of 6 runs finished" in out
        found[way] = [comparable(record) for record in Store(tmp_path / way, "smoke").records()]
        assert found[way] == found["serial"], way


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_is_lost_loses_no_run(tmp_path, cluster):
    study = study_file(tmp_path, epochs=60)
    words = ["--ray", cluster.address, "--checkpoint-every", "0.2"]
    store = Store(tmp_path / "runs", "smoke")
    process = subprocess.Popen(
        command(study, tmp_path / "runs", *words),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 300
    # Both nodes are at work once two runs have kept a state.
    while len(list((tmp_path / "runs" / "smoke" / ".checkpoints").glob("*.pt"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    cluster.remove_node(cluster.second, allow_graceful=False)
    before = len(store.records())
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert before < 6
    assert "6 of 6 runs finished" in output
    code, out, err = call(study, tmp_path / "serial", "--processes", "1")
    assert code == 0, (out, err)
    serial = [comparable(record) for record in Store(tmp_path / "serial", "smoke").records()]
    assert [comparable(record) for record in store.records()] == serial


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("ray")
    code, _, err = call(study_file(tmp_path), tmp_path / "runs", "--ray", "127.0.0.1:1")
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: Expected to find a Ray cluster at 127.0.0.1:1, got: ")
    assert "Traceback" not in err
