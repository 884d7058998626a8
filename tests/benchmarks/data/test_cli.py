"""The command `python -m benchmarks data`, from the list to a verified set."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import data
from benchmarks.data import catalogue
from benchmarks.data.catalogue import CATALOGUE, Counts, Remote
from benchmarks.streams import names, options
from tests import datasets
from tests.web import serving


@pytest.fixture
def site():
    with serving() as site:
        yield site


def offer(monkeypatch, site, name, content, **changes):
    """Let the catalogue's first archive of a set come from the local server."""
    known = CATALOGUE[name]
    file = known.remotes[0].name
    site.files[f"/{file}"] = content
    remote = replace(
        known.remotes[0],
        urls=(f"{site.url}/{file}",),
        about_bytes=len(content),
        md5=hashlib.md5(content).hexdigest(),
    )
    known = replace(known, remotes=(replace(remote, **changes),), md5=(), counts=None)
    monkeypatch.setitem(catalogue.CATALOGUE, name, known)


def test_list_on_a_machine_with_nothing(capsys, root):
    assert data.main(["list", "--data-root", str(root)]) == 0
    text = capsys.readouterr().out
    for entry in CATALOGUE.values():
        row = next(line for line in text.splitlines() if f"│ {entry.name} " in line)
        assert "missing" in row
        assert entry.home in row
        assert entry.terms in row
        assert re.search(r"\d (MB|GB)( by hand)? +│ [\d.]+ (MB|GB) ", row)
        assert all(note in text for note in (entry.notes, entry.manual))
    assert text.index(str(root)) < text.index(str(Path.home() / "datasets"))
    assert "1.9 GB by hand" in text
    assert "put into the folder stanford_cars" in text


def test_list_shows_what_is_there(capsys, root):
    datasets.write_svhn(root)
    data.main(["list", "--data-root", str(root)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "│ svhn " in line]
    assert "present" in rows[0]


def test_an_archive_is_fetched_unpacked_and_found(site, root, tmp_path, monkeypatch, capsys):
    folder = datasets.write_birds(tmp_path / "made")
    offer(monkeypatch, site, "birds", datasets.tar_of(folder, "CUB_200_2011"))
    assert data.main(["download", "birds", "--data-root", str(root)]) == 0
    out = capsys.readouterr().out
    assert CATALOGUE["birds"].terms in out
    assert f"birds is in {root / 'CUB_200_2011'}" in out
    assert not (root / "CUB_200_2011.tgz").exists()
    assert len(data.load("birds", root, 16).train[1]) == 20
    assert data.main(["download", "birds", "--data-root", str(root)]) == 0
    assert "is already in" in capsys.readouterr().out
    assert len(site.requests) == 1


def test_a_broken_download_goes_on_at_the_next_call(site, root, tmp_path, monkeypatch, capsys):
    folder = datasets.write_birds(tmp_path / "made")
    content = datasets.tar_of(folder, "CUB_200_2011")
    offer(monkeypatch, site, "birds", content)
    monkeypatch.setattr("time.sleep", lambda _: None)
    site.cut = [1000, 0, 0]
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    assert "the same command goes on from there" in capsys.readouterr().err
    assert data.main(["download", "birds", "--data-root", str(root)]) == 0
    assert site.requests[-1][1] == "bytes=1000-"


def test_a_hostile_archive_is_refused(site, root, monkeypatch, capsys):
    offer(monkeypatch, site, "birds", datasets.tar([("../../evil", b"x")]))
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    error = capsys.readouterr().err
    assert "got '../../evil', which is refused" in error
    assert "Nothing was unpacked" in error
    assert not list(root.glob("CUB*"))
    assert f"To get CUB_200_2011.tgz by hand, put it into {root}" in error


def test_an_archive_that_unpacks_to_too_much_is_refused(site, root, monkeypatch, capsys):
    content = datasets.tar([("CUB_200_2011/zeros", bytes(1_000_000))])
    offer(monkeypatch, site, "birds", content, unpacked_bytes=1000)
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    assert "to unpack to at most 1,000 bytes" in capsys.readouterr().err


def test_wrong_bytes_are_refused(site, root, monkeypatch, capsys):
    offer(monkeypatch, site, "birds", b"\x1f\x8b other", md5="0" * 32)
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    assert "to have the md5 000" in capsys.readouterr().err


def test_an_archive_of_something_else_is_still_missing(site, root, monkeypatch, capsys):
    offer(monkeypatch, site, "birds", datasets.tar([("cats/1.jpg", b"x")]))
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    assert "The dataset 'birds' is not in" in capsys.readouterr().err


def test_an_archive_got_by_hand_is_checked_and_unpacked(site, root, tmp_path, monkeypatch, capsys):
    folder = datasets.write_birds(tmp_path / "made")
    content = datasets.tar_of(folder, "CUB_200_2011")
    offer(monkeypatch, site, "birds", content)
    site.files.clear()
    assert data.main(["download", "birds", "--data-root", str(root)]) == 1
    error = capsys.readouterr().err
    assert "answered 404" in error
    assert f"put it into {root}: the same command then unpacks" in error
    assert CATALOGUE["birds"].home in error
    (root / "CUB_200_2011.tgz").write_bytes(content)
    assert data.main(["download", "birds", "--data-root", str(root)]) == 0
    assert f"birds is in {root / 'CUB_200_2011'}" in capsys.readouterr().out


def test_a_set_of_which_a_file_is_gone_says_which(root, capsys):
    for name, gone in (("cifar10", "data_batch_3"), ("mnist", "t10k-labels-idx1-ubyte.gz")):
        folder = datasets.write(name, root)
        (folder / gone).unlink()
        assert data.main(["verify", name, "--data-root", str(root)]) == 1
        words = gone if name == "cifar10" else "t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"
        assert f"{folder} has a part of it and lacks {words}; get it" in capsys.readouterr().err


def test_plain_files_are_fetched_from_the_mirror_that_works(site, root, monkeypatch):
    made = datasets.write_mnist(root.parent / "made")
    remotes = []
    for remote in CATALOGUE["mnist"].remotes:
        site.files[f"/{remote.name}"] = (made / remote.name).read_bytes()
        urls = (f"{site.url}/gone/{remote.name}", f"{site.url}/{remote.name}")
        remotes.append(replace(remote, urls=urls, md5=None))
    known = replace(CATALOGUE["mnist"], remotes=tuple(remotes))
    monkeypatch.setitem(catalogue.CATALOGUE, "mnist", known)
    assert data.main(["download", "mnist", "--data-root", str(root)]) == 0
    assert len(data.load("mnist", root).test[1]) == 20


def test_sets_that_cannot_be_fetched_say_which_files_go_where(root, capsys):
    assert data.main(["download", "cars", "--data-root", str(root)]) == 1
    error = capsys.readouterr().err
    for file in ("cars_train/", "cars_test/", "cars_test_annos_withlabels.mat", "cars_meta.mat"):
        assert file in error
    assert CATALOGUE["cars"].home in error
    assert "about 1.9 GB" in error


@pytest.mark.parametrize("name", datasets.NAMES)
def test_whole_sets_are_verified(name, root, monkeypatch, capsys):
    datasets.write(name, root)
    monkeypatch.setitem(catalogue.CATALOGUE, name, replace(CATALOGUE[name], counts=None, md5=()))
    # Only four of the 102 flowers are there.
    expected = 1 if name == "flowers" else 0
    assert data.main(["verify", name, "--data-root", str(root)]) == expected
    out = capsys.readouterr().out
    assert ("got none for 98 classes, the first number 4" if expected else "Whole and") in out


def test_verify_names_every_damaged_image_and_wrong_count(root, monkeypatch, capsys):
    folder = datasets.write_scenes(root)
    for name in ("gym/Tr 1.jpg", "bakery/Te 0.jpg"):
        path = folder / "Images" / name
        path.write_bytes(path.read_bytes()[:300])
    (folder / "Images" / "gym" / "Tr 2.jpg").write_text("<html>")
    known = replace(CATALOGUE["scenes"], counts=Counts(13, 6, 67))
    monkeypatch.setitem(catalogue.CATALOGUE, "scenes", known)
    assert data.main(["verify", "scenes", "--data-root", str(root)]) == 1
    captured = capsys.readouterr()
    for words in (
        "gym/Tr 1.jpg to be a whole image",
        "bakery/Te 0.jpg to be a whole image",
        "gym/Tr 2.jpg to be a whole image",
        "Expected 13 training samples, got 12.",
        "Expected 67 classes, got 3.",
    ):
        assert words in captured.out
    assert "5 problem(s) found" in captured.err


def test_verify_compares_published_checksums(root, capsys):
    datasets.write_svhn(root)
    assert data.main(["verify", "svhn", "--data-root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "published md5 e26dedcc434d2e4c54c9b2d4a06d8373, got" in out
    assert "Expected 73,257 training samples, got 40." in out


def test_verify_goes_on_after_a_missing_set(root, monkeypatch, capsys):
    datasets.write_scenes(root)
    known = replace(CATALOGUE["scenes"], counts=Counts(12, 6, 3))
    monkeypatch.setitem(catalogue.CATALOGUE, "scenes", known)
    assert data.main(["verify", "birds", "scenes", "--data-root", str(root)]) == 1
    captured = capsys.readouterr()
    assert "birds: The dataset 'birds' is not in" in captured.err
    assert "Whole and readable" in captured.out


def test_an_image_that_is_no_image_of_any_kind(root):
    folder = datasets.write_letters(root)
    Image.new("P", (5, 9)).save(folder / "English/Img/GoodImg/Bmp/Sample011/img011-00001.png")
    assert len(data.load("letters", root, 16).train[1]) == 177


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["download"], ["download", "imagenet"]])
def test_wrong_commands_are_explained(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        data.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m benchmarks data" in capsys.readouterr().err


def test_every_remote_is_bounded():
    for entry in CATALOGUE.values():
        assert entry.remotes or entry.manual
        for remote in entry.remotes:
            assert isinstance(remote, Remote)
            assert remote.about_bytes > 0
            assert (remote.unpack_into is None) == (remote.unpacked_bytes == 0)
            assert all(url.startswith(("http://", "https://")) for url in remote.urls)


def test_every_stream_takes_a_data_root():
    for name in names():
        assert options(name)["data_root"] is None
        json.dumps(options(name))
