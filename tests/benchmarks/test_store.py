import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import files as module
from benchmarks.files import write_atomic
from benchmarks.record import RecordError
from benchmarks.store import Store, StoreError
from tests.benchmarks.studies import smoke_config
from tests.benchmarks.test_record import make_record


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path / "runs", "smoke")
    assert store.records() == []
    record = make_record()
    path = store.write(record)
    assert path == str(tmp_path / "runs" / "smoke" / f"{record.id}.json")
    assert store.read(record.id).to_json() == record.to_json()
    assert [r.id for r in store.records()] == [record.id]
    store.remove(record.id)
    assert store.read(record.id) is None


def test_a_truncated_file_is_named_and_left_in_place(tmp_path):
    store = Store(tmp_path, "smoke")
    path = Path(store.write(make_record()))
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(RecordError, match=f"{path.name}.*cut off or damaged"):
        store.records()
    assert path.exists()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="to hold text, got other bytes"):
        store.records()


def test_a_record_whose_configuration_was_changed_is_refused(tmp_path):
    store = Store(tmp_path, "smoke")
    record = make_record()
    forged = dataclasses.replace(record, config={**record.config, "seed": 99})
    store.write(forged)
    with pytest.raises(RecordError, match="another hash"):
        store.read(record.id)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    store = Store(tmp_path, "smoke")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Records written before"):
        store.write(make_record())
    assert not list(tmp_path.glob("**/*.json"))


def test_a_store_that_cannot_be_written_to_is_said_before_anything_runs(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StoreError, match="Expected to write to the store"):
        Store(blocked, "smoke").prepare()


def test_a_run_is_claimed_by_one_process_at_a_time(tmp_path):
    store = Store(tmp_path, "smoke")
    script = (
        "from benchmarks.store import Store; import sys\n"
        "with Store(sys.argv[1], 'smoke').claim('a') as ours: print(ours is not None)"
    )

    def other():
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        return done.stdout.strip()

    with store.claim("a") as ours, store.claim("b") as also:
        assert ours
        assert also
        assert other() == "False"
    assert other() == "True"


def test_ids_differ_between_configurations():
    assert make_record(smoke_config()).id != make_record(smoke_config(threads=2)).id
