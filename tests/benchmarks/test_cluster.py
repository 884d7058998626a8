import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import cluster as module
from benchmarks.__main__ import main
from benchmarks.cluster import Cluster, ClusterError, num_slots
from benchmarks.dispatch import DEATHS, Settings
from benchmarks.selection import Plan
from benchmarks.store import Store
from benchmarks.view import Estimate, LineView
from tests.benchmarks.studies import comparable, smoke_study, smoke_table, to_toml
from tests.benchmarks.test_record import make_record

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


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class ObjectLostError(RayError):
    pass


class WorkerCrashedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class TaskError(RayError):
    cause = ModuleNotFoundError("No module named 'avalanche'\nmore")


ERRORS = (RayError, NodeDiedError, ObjectLostError, WorkerCrashedError, OutOfMemoryError)


class FakeRay:
    """Ray as far as the dispatcher uses it; each task ends as the next outcome says."""

    exceptions = SimpleNamespace(**{error.__name__: error for error in ERRORS})

    def __init__(self, outcomes, resources=None):
        self.outcomes, self.resources = iter(outcomes), resources
        self.placed, self.cancelled = [], []

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        assert options == {"max_retries": 0}
        return lambda do: self

    def options(self, **options):
        return SimpleNamespace(remote=lambda *work: self.place(options, work))

    def place(self, options, work):
        self.placed.append((options, work))
        return len(self.placed) - 1

    def wait(self, tasks, num_returns=1, timeout=None):
        assert tasks
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        outcome = next(self.outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        _, (id, config, _) = self.placed[task]
        if outcome == "record":
            return "record", make_record(config, id=id, code_version="code").to_json()
        return outcome, "the disk is full"

    def cancel(self, task):
        self.cancelled.append(task)


@pytest.fixture
def on_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.dispatch.BUSY_SECONDS", 0.0)

    def make(outcomes, device="cpu", **part):
        study = smoke_study(methods=["naive"], grid={}, **part)
        settings = Settings(str(tmp_path), 1, device=device)
        ray, store = FakeRay(outcomes), Store(tmp_path, "smoke")
        plan = Plan(study, "code")
        return Cluster(plan, store, settings, LineView(), Estimate(), ray=ray), ray, store

    return make


def test_what_a_node_takes_with_it_is_run_again_however_often(on_cluster):
    lost = [NodeDiedError(), ObjectLostError()] * DEATHS
    cluster, ray, store = on_cluster([*lost, "busy", "stopped", "record", "record"])
    cluster.run()
    assert len(cluster.plan.records) == 2
    assert len(ray.placed) == 2 * DEATHS + 4
    assert store.records() == [], "no run was given up"


def test_a_run_that_processes_die_over_is_given_up(on_cluster):
    # The second answer is the other run's.
    outcomes = [WorkerCrashedError(), "record", OutOfMemoryError(), WorkerCrashedError()]
    cluster, ray, store = on_cluster(outcomes)
    cluster.run()
    (failed,) = store.records()
    assert "ended with WorkerCrashedError, the 3. time" in failed.error["message"]
    assert len(ray.placed) == DEATHS + 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TaskError(), "ModuleNotFoundError: No module named 'avalanche'. Every node"),
        (RayError("The local raylet died."), "RayError: The local raylet died. Every node"),
    ],
)
def test_a_cluster_that_cannot_do_runs_is_one_sentence_and_no_record(on_cluster, error, reason):
    cluster, ray, store = on_cluster([error])
    with pytest.raises(ClusterError, match=reason):
        cluster.run()
    assert store.records() == []
    cluster.stop()
    assert len(ray.cancelled) == 1


@pytest.mark.parametrize(
    ("device", "part", "cpus", "gpus"),
    [
        ("cpu", {"gpus": 0.25, "threads": 2}, 2, 0),
        ("cuda", {"gpus": 0.25}, 1, 0.25),
        ("cuda", {}, 1, 1.0),
    ],
)
def test_a_run_gets_the_cpus_and_gpus_that_its_study_declares(on_cluster, device, part, cpus, gpus):
    cluster, ray, _ = on_cluster(["record", "record"], device, **part)
    cluster.run()
    assert [options["num_cpus"] for options, _ in ray.placed] == [cpus] * 2
    assert [options["num_gpus"] for options, _ in ray.placed] == [gpus] * 2


def test_runs_at_a_time_are_as_cpus_and_gpus_allow():
    ray = FakeRay([], {"CPU": 16.0, "GPU": 2.0})
    assert num_slots(ray, 2) == 8
    assert num_slots(ray, 2, 0.5) == 4
    assert num_slots(ray, 99) == 1
    assert num_slots(FakeRay([], {}), 1) == 1


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
@pytest.mark.timeout(1800)
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
@pytest.mark.timeout(1800)
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
    end = time.monotonic() + 600
    # Both nodes are at work once two runs have kept a state.
    while len(list((tmp_path / "runs" / "smoke" / ".checkpoints").glob("*.pt"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    cluster.remove_node(cluster.second, allow_graceful=False)
    before = len(store.records())
    output, _ = process.communicate(timeout=900)
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
    assert "refused" in last
    assert "Traceback" not in err
