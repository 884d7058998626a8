"""Sending offline runs to a stand-in server."""

import shutil
import subprocess
import sys

import pytest

from benchmarks.__main__ import main
from benchmarks.tracking import client, sync
from benchmarks.tracking.client import mirror
from benchmarks.tracking.offline import is_finished, offline_runs
from tests.benchmarks.tracking.test_mirror import make_record
from tests.wandb_files import service_processes, wait_until
from tests.wandb_server import failing, hanging, refusing, serve


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    for name in ("aa", "bb"):
        assert mirror(make_record(id=name), "offline", folder) == "written"
    client.leave()
    return folder


@pytest.fixture
def folder(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    copy = tmp_path / "store" / "wandb"
    shutil.copytree(kept, copy)
    yield copy
    assert wait_until(lambda: not service_processes(), 10)


def test_finished_runs_are_sent_once(folder, monkeypatch, capsys):
    with serve() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        assert main(["sync", "--store", str(folder.parent)]) == 0
        assert "2 of 2 runs sent." in capsys.readouterr().out
        sent = {run: dict(lines) for run, lines in standing.lines.items()}
        assert sorted(sent) == ["aa", "bb"]
        assert [len(lines) for lines in sent.values()] == [7, 7]
        assert standing.runs["aa"]["groupName"] == "embedded"
        assert standing.finished == {"aa": 0, "bb": 0}
        assert "record-aa" in standing.artifacts
        assert main(["sync", "--folder", str(folder)]) == 0
        assert "2 were sent before" in capsys.readouterr().out
        assert standing.lines == sent


def test_a_run_that_is_cut_off_is_left_alone(folder, capsys):
    run = offline_runs(folder)[0]
    (path,) = run.folder.glob("*.wandb")
    path.write_bytes(path.read_bytes()[:-20])
    assert not is_finished(path)
    assert sync.main(["--folder", str(folder), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1 finished offline runs to send" in printed
    assert "1 are left alone" in printed
    assert str(run.folder) not in printed


def test_a_file_of_another_kind_is_no_finished_run(tmp_path):
    (tmp_path / "run-x.wandb").write_bytes(b"something else")
    assert not is_finished(tmp_path / "run-x.wandb")


def test_nothing_to_send(tmp_path, capsys):
    assert sync.main(["--folder", str(tmp_path)]) == 0
    assert "0 finished offline runs" in capsys.readouterr().out


def test_a_server_that_refuses_is_said(folder, monkeypatch, capsys):
    with refusing() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        assert sync.main(["--folder", str(folder)]) == 1
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_of_a_study_is_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    command = ["--folder", str(tmp_path), "--report", "embedded"]
    with serve() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        # In a process of its own: wandb keeps the address and key it has seen first.
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "sync", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "W&B Report: http" in done.stdout
    (report,) = standing.reports
    assert report["entityName"] == "me"
    for word in ("continual/average_accuracy", "training/penalty", "evaluation"):
        assert word in report["spec"]


def test_a_report_without_its_package_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sync.page, "is_available", lambda: False)
    assert sync.main(["--folder", str(tmp_path), "--report", "embedded"]) == 1
    assert "pip install wandb-workspaces" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("server", [hanging, failing])
def test_a_bad_server_is_said_in_bounded_time(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(sync, "_START_SECONDS", 10.0)
    monkeypatch.setattr(sync, "_RUN_SECONDS", 1.0)
    with server() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        assert sync.main(["--folder", str(folder)]) == 1
    assert f"stay in {folder}" in capsys.readouterr().err
    assert not any(run.sent for run in offline_runs(folder))
