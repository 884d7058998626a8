"""Archives that mean harm leave nothing behind."""

import os
import tarfile

import pytest

from benchmarks.data.archives import unpack
from benchmarks.data.errors import UnsafeArchive
from tests.datasets import tar, zipped


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def device(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.FIFOTYPE
    return info


def unpacked(content, tmp_path, name="set.tgz", **limits):
    archive = tmp_path / name
    archive.write_bytes(content)
    into = tmp_path / "inner" / "into"
    count = unpack(archive, into, **({"max_bytes": 10_000} | limits))
    return into, count


@pytest.mark.parametrize("pack", [tar, lambda m: tar(m, "w"), lambda m: tar(m, "w:xz"), zipped])
def test_plain_files_are_unpacked(pack, tmp_path):
    into, count = unpacked(pack([("a/b.txt", b"one"), ("c.txt", b"two")]), tmp_path)
    assert count == 2
    assert (into / "a" / "b.txt").read_bytes() == b"one"
    assert sorted(p.name for p in into.iterdir()) == ["a", "c.txt"]


def test_files_that_were_there_stay_or_are_replaced(tmp_path):
    into = tmp_path / "inner" / "into"
    (into / "a").mkdir(parents=True)
    (into / "a" / "b.txt").write_text("old")
    (into / "a" / "mine.txt").write_text("mine")
    unpacked(tar([("a/b.txt", b"new")]), tmp_path)
    assert (into / "a" / "b.txt").read_text() == "new"
    assert (into / "a" / "mine.txt").read_text() == "mine"


HOSTILE = {
    "climbing": (tar([("fine.txt", b"x"), ("../../evil.txt", b"x")]), "set.tgz", "'../../evil"),
    "absolute": (tar([("/tmp/evil.txt", b"x")]), "set.tgz", "'/tmp/evil"),
    "inner climb": (tar([("a/../../evil.txt", b"x")]), "set.tgz", "got 'a/../../evil"),
    "symbolic link": (
        tar([(link("a", "/etc", tarfile.SYMTYPE), b""), ("a/evil.txt", b"x")]),
        "set.tgz",
        "a link or a device",
    ),
    "hard link": (tar([(link("a", "/etc/passwd", tarfile.LNKTYPE), b"")]), "set.tgz", "a link"),
    "pipe": (tar([(device("a"), b"")]), "set.tgz", "a link or a device"),
    "backslashes": (tar([("..\\evil.txt", b"x")]), "set.tgz", "does not stay below"),
    "drive": (zipped([("C:/evil.txt", b"x")]), "set.zip", "names a drive"),
    "zip climbing": (zipped([("../../evil.txt", b"x")]), "set.zip", "does not stay below"),
    "too large": (tar([("a", b"x" * 20_000)]), "set.tgz", "at most 10,000 bytes, got more"),
    "too large in all": (
        zipped([(f"{i}", b"x" * 4000) for i in range(3)]),
        "set.zip",
        "at most 10,000 bytes, got more at '2'",
    ),
    "bomb": (tar([("zeros", bytes(50_000_000))]), "set.tgz", "at most 10,000 bytes"),
    "not an archive": (b"<html></html>" * 99, "set.tgz", "to be a readable archive, got"),
    "cut short": (tar([("a", os.urandom(9000))])[:-3000], "set.tgz", "to be a readable archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_leave_nothing(case, tmp_path):
    content, name, message = HOSTILE[case]
    with pytest.raises(UnsafeArchive, match=message):
        unpacked(content, tmp_path, name)
    assert not list((tmp_path / "inner" / "into").iterdir())
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_with_a_link_is_refused(tmp_path):
    import zipfile

    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with pytest.raises(UnsafeArchive, match="'a', which is not a regular file"):
        unpacked(zipped([(info, b"/etc")]), tmp_path, "set.zip")


def test_too_many_files_are_refused(tmp_path):
    content = tar([(f"{i}", b"") for i in range(20)])
    with pytest.raises(UnsafeArchive, match="at most 10 files, got more"):
        unpacked(content, tmp_path, max_files=10)
