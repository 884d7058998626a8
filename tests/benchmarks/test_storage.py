import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from benchmarks import provenance
from benchmarks import storage as module
from benchmarks.dispatch import Settings, do_run
from benchmarks.record import RecordError
from benchmarks.storage import Bucket, Folder, open_storage
from benchmarks.store import Store, StoreError
from tests.benchmarks.studies import comparable, smoke_config, smoke_table, to_toml
from tests.benchmarks.test_record import make_record

ROOT = Path(__file__).parents[2]


class Parts(LocalFileSystem):
    """A file system that shows a file while it is written, and creates one that exists."""

    protocol = "parts"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("parts://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        return fsspec.AbstractFileSystem.pipe_file(self, path, value, mode, **kwargs)


fsspec.register_implementation("parts", Parts, clobber=True)


@pytest.fixture(params=["folder", "file", "memory", "parts"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.2)
    return {
        "folder": str(tmp_path / "runs"),
        "file": f"file://{tmp_path}/runs",
        "memory": f"memory://{secrets.token_hex(4)}",
        "parts": f"parts://{tmp_path}/runs",
    }[request.param]


def test_a_folder_is_a_folder_also_as_a_url(tmp_path):
    assert isinstance(open_storage(f"file://{tmp_path}", "s"), Folder)
    assert isinstance(open_storage(tmp_path, "s"), Folder)
    assert isinstance(open_storage("memory://x", "s"), Bucket)


def test_what_is_written_is_read_wherever_the_store_lies(root):
    store = Store(root, "smoke")
    assert store.records() == []
    assert store.read("0" * 16) is None
    store.prepare()
    record = make_record()
    assert store.write(record) == store.where(record.id)
    assert store.where(record.id).endswith(f"/smoke/{record.id}.json")
    assert store.read(record.id).to_json() == record.to_json()
    assert [r.id for r in store.records()] == [record.id]
    store.write(record)
    assert len(store.records()) == 1
    store.remove(record.id)
    store.remove(record.id)
    assert store.read(record.id) is None
    assert store.records() == []


def test_a_state_is_kept_wherever_the_store_lies(root):
    place = Store(root, "smoke").checkpoint("run")
    assert place.read() is None
    place.write(b"one")
    place.write(b"two")
    assert place.read() == b"two"
    assert Store(root, "smoke").records() == []
    place.remove()
    assert place.read() is None


def test_what_others_have_put_into_a_store_is_refused_wherever_it_lies(root, monkeypatch):
    store = Store(root, "smoke")
    record = make_record()
    name = f"{record.id}.json"
    for content, message in [
        (record.to_json()[:100].encode(), "cut off or damaged"),
        (b"\xff\xfe", "to hold text, got other bytes"),
        (json.dumps({**json.loads(record.to_json()), "format": 0}).encode(), "older format 0"),
        (record.to_json().replace('"seed": 1', '"seed": 9').encode(), "another hash"),
        (b"[]", "to hold one JSON object"),
    ]:
        store.storage.write(name, content)
        for read in (store.records, lambda: store.read(record.id)):
            with pytest.raises(RecordError, match=message) as caught:
                read()
            assert store.where(record.id) in str(caught.value)
    monkeypatch.setattr("benchmarks.store.MAX_BYTES", 10)
    for read in (store.records, lambda: store.read(record.id)):
        store.write(record)
        with pytest.raises(RecordError, match="got more than 10 bytes"):
            read()


def test_a_run_is_claimed_once_at_a_time_wherever_the_store_lies(root):
    with Store(root, "smoke").claim("a") as one, Store(root, "smoke").claim("b") as other:
        assert one.held()
        assert other.held()
        with Store(root, "smoke").claim("a") as second:
            assert second is None
        assert one.held()
    with Store(root, "smoke").claim("a") as again:
        assert again.held()
    assert Store(root, "smoke").records() == []


def test_of_many_who_claim_at_once_one_gets_it(root):
    most = 8
    start, leave = threading.Barrier(most), threading.Barrier(most)

    def claim(_):
        try:
            store = Store(root, "smoke")
            start.wait(20)
            with store.claim("a") as ours:
                leave.wait(20)
                return ours is not None
        except BaseException:
            start.abort()
            leave.abort()
            raise

    with ThreadPoolExecutor(most) as pool:
        assert list(pool.map(claim, range(most))).count(True) == 1


@pytest.fixture
def bucket():
    return Bucket(f"memory://{secrets.token_hex(4)}", "smoke")


def test_a_claim_that_is_renewed_stays_and_one_that_is_not_is_taken(bucket, monkeypatch):
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(module, "EXPIRE_SECONDS", 0.4)
    with bucket.claim("a") as first:
        time.sleep(1.0)
        with bucket.claim("a") as second:
            assert second is None
        assert first.held()
        monkeypatch.setattr(bucket, "_put", lambda path, content: None)  # the network is away
        time.sleep(0.6)
        with bucket.claim("a") as third:
            assert third.held()
            assert not first.held(), "both would store a record"
    with bucket.claim("a") as fourth:
        assert fourth.held()


@pytest.mark.parametrize(
    "stamp",
    [b"", b"nonsense", b"[]", b'{"renewed": "soon"}', b'{"renewed": 9e99}', b'{"renewed": NaN}'],
)
def test_no_foreign_stamp_holds_a_run_up(bucket, stamp):
    bucket.fs.pipe_file(bucket._path(".claims/a/7"), stamp)
    with bucket.claim("a") as ours:
        assert ours.held()
    assert bucket._numbers(bucket._path(".claims/a")) == []


def test_a_lost_claim_stores_no_record(monkeypatch):
    config = smoke_config()
    id, root = config.key(provenance.code_version()), f"memory://{secrets.token_hex(4)}"
    settings = Settings(root, 1, wandb="disabled")
    with monkeypatch.context() as patch:
        patch.setattr(module._Lease, "held", lambda lease: not lease._thread.is_alive())
        assert do_run(id, config, settings) == ("busy", "")
    assert Store(root, "smoke").records() == []
    kind, text = do_run(id, config, settings)
    assert kind == "record"
    assert [r.to_json() for r in Store(root, "smoke").records()] == [text]
    monkeypatch.setattr("benchmarks.run.execute", None)
    assert do_run(id, config, settings) == ("record", text), "it was run again"


def test_a_store_that_fails_is_one_sentence(monkeypatch):
    store = Store(f"memory://{secrets.token_hex(4)}", "smoke")

    class FullError(Exception):
        pass

    def fail(*arguments, **keywords):
        raise FullError("the bucket is full")

    for name in ("pipe_file", "cat_file", "ls", "info"):
        monkeypatch.setattr(store.storage.fs, name, fail)
    for act in (
        store.prepare,
        lambda: store.write(make_record()),
        store.records,
        lambda: store.read("a"),
        lambda: store.claim("a").__enter__(),
    ):
        with pytest.raises(StoreError, match=r"the store memory://.*/smoke, got: the bucket is f"):
            act()


def test_a_url_that_cannot_be_opened_says_what_is_missing():
    with pytest.raises(StoreError, match=r"got nope://x: Protocol not known: nope\."):
        Store("nope://x", "smoke")


@pytest.fixture
def s3(monkeypatch):
    """A server that speaks S3."""
    pytest.importorskip("moto")
    s3fs = pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(name, value)
    # fsspec reads the environment once, when it is imported.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < end
        time.sleep(0.1)
    s3fs.S3FileSystem(endpoint_url=url).mkdir("lab")
    yield "s3://lab/runs"
    server.terminate()
    server.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_launchers_share_a_study_in_an_s3_bucket(tmp_path, s3):
    table = smoke_table()
    path = tmp_path / "smoke.toml"
    path.write_text(to_toml(table))
    words = ["run", str(path), "--store", s3, "--wandb", "disabled", "--processes", "1"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for output in outputs:
        assert "8 of 8 runs finished" in output
        assert "s3://lab/runs/smoke" in output
    local = [*words[:3], str(tmp_path / "runs"), *words[4:]]
    subprocess.run([sys.executable, "-m", "benchmarks", *local], cwd=ROOT, check=True)
    script = (
        "import json, sys\nfrom benchmarks.store import Store\n"
        "from tests.benchmarks.studies import comparable\n"
        "print(json.dumps([comparable(r) for r in Store(sys.argv[1], 'smoke').records()]))"
    )
    read = subprocess.run(
        [sys.executable, "-c", script, s3], cwd=ROOT, check=True, capture_output=True, text=True
    )
    whole = [comparable(record) for record in Store(tmp_path / "runs", "smoke").records()]
    assert json.loads(read.stdout) == json.loads(json.dumps(whole))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_s3_bucket_lets_one_of_many_claim(s3):
    test_of_many_who_claim_at_once_one_gets_it(s3)
