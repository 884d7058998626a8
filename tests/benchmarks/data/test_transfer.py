"""Downloads against a server that breaks off, lies, and changes its mind."""

import hashlib
import os
import threading

import pytest

from benchmarks.data.errors import TransferError
from benchmarks.data.transfer import fetch
from tests.web import serving

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def site():
    with serving() as site:
        site.files["/set.bin"] = CONTENT
        yield site


def get(site, folder, name="set.bin", **options):
    arguments = {"md5": MD5, "max_bytes": 2 * len(CONTENT), "pause": 0.0} | options
    return fetch([f"{site.url}/{name}"], folder / name, **arguments)


def test_a_file_arrives_whole_and_alone(site, tmp_path):
    seen = []
    path = get(site, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".set.bin.lock", "set.bin"]


def test_a_whole_file_is_not_fetched_again(site, tmp_path):
    get(site, tmp_path)
    get(site, tmp_path)
    assert len(site.requests) == 1


def test_a_damaged_file_is_fetched_again(site, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"half")
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_a_broken_transfer_goes_on_where_it_ended(site, tmp_path):
    site.cut = [300_000, 400_000]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.requests == [
        ("/set.bin", None),
        ("/set.bin", "bytes=300000-"),
        ("/set.bin", "bytes=700000-"),
    ]


def test_a_later_call_goes_on_too(site, tmp_path):
    site.cut = [300_000]
    with pytest.raises(TransferError, match=r"ended early, after 300,000 of 1,024,000 bytes\. 300"):
        get(site, tmp_path, attempts=1)
    assert not (tmp_path / "set.bin").exists()
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == ("/set.bin", "bytes=300000-")


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(site, tmp_path):
    site.cut = [300_000]
    with pytest.raises(TransferError):
        get(site, tmp_path, attempts=1)
    newer = CONTENT[::-1]
    site.files["/set.bin"] = newer
    path = get(site, tmp_path, md5=hashlib.md5(newer).hexdigest())
    assert path.read_bytes() == newer


def test_a_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    mark = hashlib.md5(CONTENT).hexdigest()
    (tmp_path / "set.bin.part.json").write_text(f'{{"version": "\\"{mark}\\""}}')
    assert get(site, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("ranges", "marks"), [(False, True), (True, False)])
def test_without_ranges_or_marks_it_starts_again(site, tmp_path, ranges, marks):
    site.ranges, site.marks = ranges, marks
    site.cut = [300_000]
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_a_transfer_that_never_ends_well_says_so(site, tmp_path):
    site.ranges = False
    site.cut = [100, 100, 100]
    with pytest.raises(TransferError, match="ended early, after 100 of 1,024,000 bytes"):
        get(site, tmp_path)
    assert not (tmp_path / "set.bin").exists()


def test_wrong_bytes_are_refused_and_deleted(site, tmp_path):
    site.files["/set.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(TransferError, match=f"to have the md5 {MD5}, got .* It was deleted"):
        get(site, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".set.bin.lock"]


def test_a_second_address_is_tried(site, tmp_path):
    path = fetch(
        [f"{site.url}/gone.bin", f"{site.url}/set.bin"],
        tmp_path / "set.bin",
        md5=MD5,
        max_bytes=2 * len(CONTENT),
        pause=0.0,
    )
    assert path.read_bytes() == CONTENT


def test_a_dead_link_says_its_status(site, tmp_path):
    with pytest.raises(TransferError, match=r"gone.bin answered 404 Not Found"):
        get(site, tmp_path, name="gone.bin")
    assert len(site.requests) == 1


def test_a_busy_server_is_asked_again(site, tmp_path):
    site.statuses = [503, 503]
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_an_unreachable_server_says_so(tmp_path):
    with pytest.raises(TransferError, match=r"broke off: .*refused"):
        fetch(
            ["http://127.0.0.1:9/x"], tmp_path / "x", md5=None, max_bytes=9, attempts=2, pause=0.0
        )


def test_a_file_announced_too_large_is_not_begun(site, tmp_path):
    with pytest.raises(TransferError, match="at most 1,000 bytes, got 1,024,000"):
        get(site, tmp_path, max_bytes=1000)
    assert [p.name for p in tmp_path.iterdir()] == [".set.bin.lock"]


def test_a_file_that_does_not_say_how_large_it_is_ends_at_the_limit(site, tmp_path):
    site.lengths = False
    with pytest.raises(TransferError, match="at most 300,000 bytes, got more than 300,000"):
        get(site, tmp_path, max_bytes=300_000)
    assert [p.name for p in tmp_path.iterdir()] == [".set.bin.lock"]
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_another_part_than_asked_for_is_thrown_away(site, tmp_path):
    site.cut = [300_000]
    site.shift = 1000
    with pytest.raises(TransferError, match="answered with another part of the file"):
        get(site, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".set.bin.lock"]


def test_a_file_announced_larger_than_the_disk_is_not_begun(site, tmp_path):
    site.announced = 1 << 60
    with pytest.raises(TransferError, match="Expected room for"):
        get(site, tmp_path, max_bytes=1 << 61)


def test_a_web_page_in_place_of_an_archive_is_refused(site, tmp_path):
    site.files["/set.tgz"] = b"<html>Please accept our terms</html>"
    with pytest.raises(TransferError, match="to give an archive, got something else"):
        get(site, tmp_path, name="set.tgz", md5=None)
    assert not (tmp_path / "set.tgz").exists()


def test_other_addresses_than_web_addresses_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(TransferError, match="Expected an http or https address"):
        fetch([secret.as_uri()], tmp_path / "copy", md5=None, max_bytes=9)


def test_two_at_once_fetch_once(site, tmp_path):
    threads = [threading.Thread(target=get, args=(site, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    if os.name == "posix":
        assert len(site.requests) == 1
