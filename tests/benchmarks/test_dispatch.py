import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import provenance
from benchmarks.dispatch import (
    DEATHS,
    Interrupted,
    Settings,
    StopSignals,
    _Processes,
    _Worker,
    default_processes,
    do_run,
)
from benchmarks.record import read_lines
from benchmarks.selection import Plan
from benchmarks.store import Store
from benchmarks.view import Estimate, LineView
from tests.benchmarks.studies import smoke_config, smoke_study, smoke_table, to_toml
from tests.benchmarks.test_record import make_record

ROOT = Path(__file__).parents[2]


class DeadProcess:
    exitcode = -signal.SIGKILL

    def join(self, timeout=None):
        pass


def test_a_run_over_which_workers_die_is_repeated_and_then_recorded_as_failed(tmp_path, capsys):
    plan = Plan(smoke_study(methods=["naive"], grid={}), "code")
    (first, *_) = plan.pending().items()
    store = Store(tmp_path, "smoke")
    dispatcher = _Processes(plan, store, Settings(str(tmp_path), 1), LineView(), Estimate())
    for death in range(DEATHS):
        assert store.records() == []
        assert list(dispatcher.queue) == ([first] if death else [])
        dispatcher.queue.clear()
        worker = _Worker(DeadProcess(), None, first)
        dispatcher.workers.append(worker)
        dispatcher._bury(worker)
        assert dispatcher.workers == []
    assert not dispatcher.queue
    record = store.read(first[0])
    assert record.status == "failed"
    assert "SIGKILL" in record.error["message"]
    assert "FAILED" in capsys.readouterr().out
    assert first[0] not in plan.pending()
    assert len(plan.pending()) == 1


def test_what_a_record_opens_takes_its_turn_in_the_queue(tmp_path):
    study = smoke_study(methods=["naive", "mas"], grid={"mas": [3.0, 1.0]})
    plan = Plan(study, "code")
    settings = Settings(str(tmp_path), 1)
    dispatcher = _Processes(plan, Store(tmp_path, "smoke"), settings, LineView(), Estimate())
    dispatcher.begin()
    for _ in range(2):
        id, config = dispatcher.queue.popleft()
        assert config.role == "selection"
        dispatcher.note(make_record(config, id=id, accuracy={"validation": ((0.5,),)}))
    first, second = study.seeds.evaluation
    turns = [(method, seed) for seed in (first, second) for method in ("naive", "mas")]
    assert [(config.method, config.seed) for _, config in dispatcher.queue] == turns


@pytest.mark.parametrize(
    ("status", "kept"), [("finished", False), ("diverged", True), ("failed", True)]
)
def test_the_last_state_of_a_run_that_did_not_finish_is_kept(tmp_path, monkeypatch, status, kept):
    config = smoke_config()
    id, store = config.key(provenance.code_version()), Store(tmp_path, "smoke")

    def execute(config, checkpoint, **options):
        checkpoint.write(b"a state")
        version = provenance.code_version()
        return make_record(config, id=id, code_version=version, status=status)

    monkeypatch.setattr("benchmarks.run.execute", execute)
    settings = Settings(str(tmp_path), 1, wandb="disabled")
    assert do_run(id, config, settings)[0] == "record"
    assert store.read(id).status == status
    assert (store.checkpoint(id).read() is not None) == kept


def test_cores_are_divided_by_the_threads_of_a_run(monkeypatch):
    monkeypatch.setattr("benchmarks.provenance.num_cores", lambda: 8)
    assert [default_processes(threads) for threads in (1, 2, 3, 8, 99)] == [8, 4, 2, 1, 1]


class RaisesSignal:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Have Ctrl-C handled, also where these tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_no_signal_is_lost_wherever_it_comes():
    signals = StopSignals()
    before = signal.getsignal(signal.SIGTERM)
    with signals.noted():
        signals.check()
        RaisesSignal()  # what is raised in a finalizer is lost
        assert signals.reader.poll()
        with pytest.raises(Interrupted, match="SIGINT"):
            signals.check()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    signals = StopSignals()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.noted():
            signal.raise_signal(signal.SIGINT)
            signals.check()
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Interrupted, match="SIGTERM"):
                signals.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


STARTED = []


@pytest.fixture(autouse=True)
def _nothing_stays_behind():
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def start(arguments, tmp_path):
    # A handler, unlike an ignored signal, does not pass on to the new process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        STARTED.append(process)
        return process
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition, seconds=250):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def write_study(tmp_path, num_seeds):
    table = smoke_table()
    table["parts"]["digits"]["methods"] = ["naive"]
    del table["parts"]["digits"]["grid"]
    table["parts"]["digits"]["training"]["epochs"] = 10
    table["seeds"]["evaluation"] = list(range(1, num_seeds + 1))
    path = tmp_path / "long.toml"
    path.write_text(to_toml(table))
    return path


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stop_leaves_finished_records_and_no_process_behind(tmp_path, number):
    store = tmp_path / "runs"
    # So many that they cannot all be done before the signal, however busy the machine is.
    study = write_study(tmp_path, num_seeds=2000)
    arguments = ["run", str(study), "--store", str(store), "--processes", "2"]
    process = start([*arguments, "--wandb", "disabled"], tmp_path)
    wait_for(lambda: list(store.glob("long/*.json")))
    children = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        os.kill(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"Stopped by {number.name}" in output
    assert "Traceback" not in output
    assert children
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    records = Store(store, "long").records()
    assert 1 <= len(records) < 2000
    assert all(record.status == "finished" for record in records)


def worker_of(process):
    return next(
        (
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ),
        None,
    )


@pytest.mark.slow
def test_a_run_whose_workers_are_killed_is_a_failed_record_that_can_be_retried(tmp_path):
    store = tmp_path / "runs"
    study = write_study(tmp_path, num_seeds=3)
    study.write_text(study.read_text().replace("epochs = 10", "epochs = 300"))
    arguments = ["run", str(study), "--store", str(store), "--processes", "1"]
    arguments += ["--wandb", "disabled", "--checkpoint-every", "0.1"]
    process = start(arguments, tmp_path)
    for _ in range(DEATHS):
        before = {p: p.stat().st_mtime_ns for p in store.glob("long/.checkpoints/*.pt")}

        def at_work(before=before):
            found = {p: p.stat().st_mtime_ns for p in store.glob("long/.checkpoints/*.pt")}
            return found and found != before

        wait_for(at_work)
        worker = worker_of(process)
        worker.kill()
        psutil.wait_procs([worker], timeout=20)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    failed = [r for r in Store(store, "long").records() if r.status == "failed"]
    assert len(failed) == 1
    assert "SIGKILL" in failed[0].error["message"]
    assert list(store.glob("long/.checkpoints/*.pt"))
    again = start(arguments, tmp_path)
    assert "1 evaluation run failed" in again.communicate(timeout=60)[0]
    assert again.returncode == 1
    retried = start([*arguments, "--retry-failed"], tmp_path)
    output, _ = retried.communicate(timeout=200)
    assert retried.returncode == 0, output
    assert {r.status for r in Store(store, "long").records()} == {"finished"}
    assert not list(store.glob("long/.checkpoints/*.pt"))


SMALL_DISK = """
mount -t tmpfs -o size="$2" tmpfs "$1" || exit 77
shift 2
"$@"
code=$?
cat runs/*/*.json > kept
exit $code
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_in_one_sentence_and_whole_records(tmp_path):
    study, store = write_study(tmp_path, num_seeds=200), tmp_path / "runs"
    store.mkdir()
    words = [sys.executable, "-m", "benchmarks", "run", str(study), "--store", str(store)]
    words += ["--wandb", "disabled", "--processes", "2", "--checkpoint-every", "1e9"]
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", SMALL_DISK, "sh"]
    done = subprocess.run(
        [*alone, store, "64k", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"no small disk can be made here: {done.stderr}")
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: Expected to write to the store {store}/long, got: No sp")
    records = read_lines(tmp_path / "kept")
    assert 1 <= len(records) < 200
    assert all(record.status == "finished" for record in records)
