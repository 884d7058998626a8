"""The mirror of records in Weights & Biases, read back from its offline files."""

import json
import logging
import time
from pathlib import Path

import pytest

from benchmarks.tracking import client
from benchmarks.tracking.client import default_mode, mirror
from benchmarks.tracking.content import content_of
from tests.wandb_files import runs_in, service_processes, wait_until
from tests.wandb_server import failing, hanging, refusing, serve


def make_record(**changes):
    record = {
        "format": 1,
        "id": "00112233445566aa",
        "study": "embedded",
        "part": "digits",
        "method": "mas",
        "strength": 0.25,
        "seed": 3,
        "role": "evaluation",
        "config": {"training": {"epochs": 2, "learning_rate": 0.05}, "model": "mlp"},
        "status": "finished",
        "error": None,
        "stream": {"scenario": "task", "num_classes": [2, 2]},
        "task_names": ["zero/one", "two/three"],
        "accuracy": {"test": [[0.9, 0.4], [0.7, 0.8]], "validation": [[0.9, 0.4], [0.7, 0.8]]},
        "initial_accuracy": {"test": [0.5, 0.45]},
        "seconds": {
            "total": 9.5,
            "training": [1.0, 2.0],
            "consolidation": [0.1, 0.2],
            "evaluation": [0.3, 0.4],
        },
        "peak_memory_bytes": 123456,
        "parameters": {"trainable": 10, "stored_extra": 20},
        "importance": {
            "zero/one": {
                "body.weight": {"sum": 3.0, "histogram": {"counts": [1, 2], "edges": [0, 1, 2]}}
            }
        },
        "history": [
            {"task": 1, "epoch": 1, "task_loss": 0.7, "penalty": 0.0},
            {"task": 1, "epoch": 2, "task_loss": 0.5, "penalty": 0.0},
            {"task": 2, "epoch": 1, "task_loss": 0.6, "penalty": 0.125},
        ],
        "versions": {"mas_avalanche": "0.1.0", "torch": "2.15"},
        "code_version": "abc",
        "commit": None,
        "device": "cpu",
        "processor": "p",
        "threads": 1,
        "started": "2026-01-01T00:00:00Z",
    }
    return record | changes


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """One record mirrored twice, a changed one and another one, all offline."""
    folder = tmp_path_factory.mktemp("mirror")
    outcomes = [mirror(make_record(), "offline", folder) for _ in range(2)]
    failed = make_record(
        id="ffff",
        status="failed",
        error={"type": "ValueError", "message": "no", "traceback": "…"},
        accuracy={"test": [[0.9, 0.4]]},
        importance=None,
    )
    outcomes.append(mirror(failed, "offline", folder))
    outcomes.append(mirror(failed | {"status": "finished"}, "offline", folder))
    yield folder, outcomes
    client.leave()


@pytest.fixture(autouse=True)
def _fresh(request):
    yield
    if "offline" not in request.fixturenames:
        client.leave()
        assert wait_until(lambda: not service_processes(), 10)


def test_a_record_becomes_one_run(offline):
    folder, outcomes = offline
    assert outcomes == ["written", "unchanged", "written", "written"]
    first, second = runs_in(folder)
    assert (first.run.run_id, first.run.run_group, first.run.job_type) == (
        "00112233445566aa",
        "embedded",
        "mas",
    )
    assert list(first.run.tags) == ["v0.1.0", "digits", "evaluation"]
    assert first.exit_code == 0
    assert second.run.run_id == "ffff"
    assert second.exit_code == 0, "the changed record replaced the failed one"


def test_configuration_and_summary(offline):
    run = runs_in(offline[0])[0]
    assert run.config["training"] == {"epochs": 2, "learning_rate": 0.05}
    assert run.config["strength"] == 0.25
    assert run.summary["status"] == "finished"
    assert run.summary["average_accuracy"] == pytest.approx(0.75)
    assert run.summary["forgetting"] == pytest.approx(0.2)
    assert run.summary["backward_transfer"] == pytest.approx(-0.2)
    assert run.summary["seconds_total"] == 9.5


def test_curves_have_their_own_axes(offline):
    run = runs_in(offline[0])[0]
    assert run.step_metrics["continual/*"] == "tasks_trained"
    assert run.step_metrics["training/*"] == "epoch"
    by_task = [row for row in run.rows if "tasks_trained" in row]
    assert [row["tasks_trained"] for row in by_task] == [0, 1, 2]
    assert [row["accuracy/01 zero_one"] for row in by_task] == [0.5, 0.9, 0.7]
    assert "continual/forgetting" not in by_task[1]
    assert by_task[2]["seconds/consolidation"] == 0.2
    by_epoch = [row for row in run.rows if "epoch" in row]
    assert [row["training/task_loss"] for row in by_epoch] == [0.7, 0.5, 0.6]
    assert [row["training/penalty"] for row in by_epoch] == [0.0, 0.0, 0.125]
    assert by_task[1]["importance/body_weight"]["values"] == [1, 2]
    assert not any("epoch" in row for row in by_task)


def test_matrix_as_table_and_picture(offline):
    folder, _ = offline
    run = runs_in(folder)[0]
    (row,) = [row for row in run.rows if "accuracy_matrix" in row]
    (files,) = folder.glob("wandb/offline-run-*-00112233445566aa/files")
    table = json.loads((files / row["accuracy_matrix"]["path"]).read_text())
    assert table["columns"] == ["after", "zero/one", "two/three"]
    assert table["data"] == [
        ["before training", 0.5, 0.45],
        ["1: zero/one", 0.9, 0.4],
        ["2: two/three", 0.7, 0.8],
    ]
    picture = (files / row["accuracy_heat_map"]["path"]).read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_the_record_is_an_artifact(offline):
    run = runs_in(offline[0])[0]
    (artifact,) = [artifact for artifact in run.artifacts if artifact.type == "record"]
    assert artifact.name == "record-00112233445566aa"
    (entry,) = artifact.manifest.contents
    assert json.loads(Path(entry.local_path).read_text()) == make_record()


def test_nothing_of_the_machine_is_told(offline):
    run = runs_in(offline[0])[0]
    assert not {"stats", "output", "output_raw", "environment"} & set(run.kinds)


@pytest.mark.slow
def test_a_killed_process_is_started_again(offline, tmp_path, caplog):
    client._state.process.kill()
    assert mirror(make_record(id="b"), "offline", tmp_path) == "written"
    assert not caplog.records


def test_disabled_touches_nothing(tmp_path):
    assert mirror(make_record(), "disabled", tmp_path / "none") == "disabled"
    assert not (tmp_path / "none").exists()


def test_joint_training_has_one_row_after_all_tasks():
    content = content_of(make_record(method="joint", accuracy={"test": [[0.8, 0.9]]}))
    assert [row.at for row in content.rows if row.axis == "tasks_trained"] == [0, 2]
    assert content.summary["average_accuracy"] == pytest.approx(0.85)


def test_a_run_that_failed_at_once_still_has_content():
    record = make_record(status="failed", accuracy={}, initial_accuracy={}, seconds={}, history=[])
    content = content_of(record)
    assert content.failed
    assert content.final == {}
    assert content.rows == ()


def test_wandb_missing_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(client, "is_installed", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert mirror(make_record(), "offline", tmp_path) == "failed"
        assert mirror(make_record(id="b"), "offline", tmp_path) == "failed"
    assert [record.message for record in caplog.records] == [
        "Weights & Biases is not installed: records are stored, not mirrored."
    ]


def test_no_place_to_write_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert mirror(make_record(), "offline", tmp_path / "file" / "below") == "failed"
    assert "The record itself is stored" in caplog.text


def test_a_record_without_id_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert mirror({"study": "x"}, "offline", tmp_path) == "failed"
    assert "the study goes on" in caplog.text


def test_online_sends_once_and_resumes(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serve() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        assert mirror(make_record(), "online", tmp_path / "one") == "written"
        lines = dict(standing.lines["00112233445566aa"])
        assert mirror(make_record(), "online", tmp_path / "one") == "unchanged"
        assert mirror(make_record(), "online", tmp_path / "two") == "unchanged"
        assert mirror(make_record(device="cuda"), "online", tmp_path / "two") == "updated"
        client.leave()
    assert standing.finished == {"00112233445566aa": 0}
    assert standing.runs["00112233445566aa"]["jobType"] == "mas"
    assert "record-00112233445566aa" in standing.artifacts
    assert standing.summaries["00112233445566aa"]["average_accuracy"] == pytest.approx(0.75)
    later = [row for row in standing.lines["00112233445566aa"].items() if row not in lines.items()]
    assert len(lines) == 7
    assert all("accuracy_matrix" in row for _, row in later)
    assert not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize("server", [hanging, failing, refusing])
def test_a_bad_server_costs_bounded_time_once(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setitem(client._WAIT_SECONDS, "online", 6.0)
    tried, open_run = [], client.open_run

    def note(request, seconds, process=None):
        tried.append(request["mode"])
        return open_run(request, seconds, process)

    monkeypatch.setattr(client, "open_run", note)
    with server() as standing, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        start = time.monotonic()
        assert mirror(make_record(), "online", tmp_path) == "kept offline"
        first = time.monotonic() - start
        assert mirror(make_record(id="second"), "online", tmp_path) == "kept offline"
    assert first < 6 + client._WAIT_SECONDS["offline"]
    assert tried.count("online") == 1, "the server is not tried again"
    assert len(caplog.records) == 1
    assert "python -m benchmarks sync" in caplog.text
    assert {run.run.run_id for run in runs_in(tmp_path)} == {"00112233445566aa", "second"}
    assert not list(tmp_path.glob("wandb/run-*"))


@pytest.mark.slow
def test_no_key_online_keeps_the_record_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with refusing() as standing, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        assert mirror(make_record(), "online", tmp_path) == "kept offline"
    assert "could not be reached" in caplog.text


@pytest.mark.parametrize(
    ("value", "mode"),
    [("", "offline"), ("dryrun", "offline"), ("online", "online"), ("disabled", "disabled")],
)
def test_default_mode(value, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", value)
    assert default_mode() == mode


def test_unknown_default_mode(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="Expected `WANDB_MODE` to be one of"):
        default_mode()
