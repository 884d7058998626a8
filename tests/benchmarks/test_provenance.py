import gc
import platform
import subprocess

import psutil
import pytest
import torch

from benchmarks import provenance


def version_of(root, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", root)
    provenance.code_version.cache_clear()
    try:
        return provenance.code_version()
    finally:
        provenance.code_version.cache_clear()


def test_the_code_version_follows_what_can_change_results_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "mas_avalanche").mkdir()
    (tmp_path / "benchmarks" / "methods").mkdir(parents=True)
    (tmp_path / "benchmarks" / "render").mkdir()
    source = tmp_path / "mas_avalanche" / "penalty.py"
    source.write_text("a = 1")
    first = version_of(tmp_path, monkeypatch)
    (tmp_path / "benchmarks" / "render" / "page.py").write_text("b = 1")
    (tmp_path / "mas_avalanche" / "wandb_logger.py").write_text("c = 1")
    assert version_of(tmp_path, monkeypatch) == first
    source.write_text("a = 2")
    second = version_of(tmp_path, monkeypatch)
    (tmp_path / "benchmarks" / "methods" / "new.py").write_text("")
    third = version_of(tmp_path, monkeypatch)
    assert len({first, second, third}) == 3


def test_the_commit_says_when_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.commit.cache_clear()
    assert provenance.commit() is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    provenance.commit.cache_clear()
    clean = provenance.commit()
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{clean}-dirty"
    provenance.commit.cache_clear()


def test_memory_and_processor_are_told():
    provenance.reset_peak_memory("cpu")
    before = provenance.peak_memory("cpu")
    held = bytearray(64 * 2**20)
    assert provenance.peak_memory("cpu") >= before + 32 * 2**20
    del held
    assert provenance.processor("cpu")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
def test_what_an_earlier_run_left_does_not_count_in_the_peak_memory_of_a_later_one():
    held, above = [], []
    for _ in range(2048):
        held.append(torch.ones(16 * 1024))  # 64 KiB: below the size that has pages of its own
        above.append(torch.ones(16))
    held[0].itself = held
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        del held
        before = psutil.Process().memory_info().rss
        provenance.reset_peak_memory("cpu")
        assert provenance.peak_memory("cpu") <= before - 64 * 2**20
    finally:
        if was_enabled:
            gc.enable()
    assert len(above) == 2048
