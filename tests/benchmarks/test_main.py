import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import provenance
from benchmarks.__main__ import main
from benchmarks.record import to_lines
from benchmarks.selection import Plan
from benchmarks.store import Store
from tests.benchmarks.studies import smoke_study, smoke_table, to_toml
from tests.benchmarks.test_record import make_record


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "smoke.toml"
    path.write_text(to_toml(smoke_table()))
    return path


@pytest.fixture
def call(study_file, tmp_path, capsys):
    def call(command, *words, study=study_file):
        places = ["--store", str(tmp_path / "runs")]
        if command in ("report", "bench"):
            places += ["--out", str(tmp_path / "reports")]
        code = main([command, *([str(study)] if study else []), *places, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_whole_path_from_a_study_file_to_a_checked_report(call, tmp_path):
    code, out, _ = call("run", "--dry-run")
    assert code == 0
    assert "8 of 8 runs to do, nothing of the kind has run yet" in out
    assert "then 2 x digits: mas, with the strength that is chosen" in out

    code, out, err = call("bench", "--processes", "2", "--wandb", "disabled")
    assert code == 0, err
    assert "8 of 8 runs finished" in out
    assert f"The report lies at {tmp_path}/reports/smoke/README.md" in out
    for name in ("README.md", "index.html", "records.jsonl"):
        assert (tmp_path / "reports" / "smoke" / name).stat().st_size > 0

    before = (tmp_path / "reports" / "smoke" / "README.md").read_bytes()
    code, out, _ = call("run", "--processes", "2", "--wandb", "disabled")
    assert code == 0
    assert "8 of 8 runs finished" in out
    assert "[" not in out, "a finished run was run again"
    call("report")
    assert (tmp_path / "reports" / "smoke" / "README.md").read_bytes() == before
    code, out, _ = call("run", "--dry-run")
    assert "0 of 8 runs to do." in out

    (tmp_path / "reports" / "smoke" / "tables" / "runs.csv").unlink()
    (tmp_path / "reports" / "smoke" / "tables" / "runs.csv").mkdir()
    code, _, err = call("report")
    assert code == 2
    assert "to be a folder that can be written to, got: [Errno 21] Is a directory" in err
    assert "Traceback" not in err


def finish_all(study, store, **changes):
    plan = Plan(study, provenance.code_version())
    while pending := plan.pending():
        for id, config in pending.items():
            split = "validation" if config.role == "selection" else "test"
            record = make_record(
                config,
                id=id,
                code_version=plan.code_version,
                accuracy={split: ((1.0, 0.5), (0.75, 1.0))},
                **(changes if config.role == "evaluation" and config.method == "mas" else {}),
            )
            store.write(record)
            plan.add(record)
    return plan


FAILURE = {"status": "failed", "error": {"type": "E", "message": "oh", "traceback": ""}}


def test_the_exit_code_says_that_a_run_failed(call, tmp_path):
    finish_all(smoke_study(), Store(tmp_path / "runs", "smoke"), **FAILURE)
    code, out, _ = call("run", "--wandb", "disabled")
    assert code == 1
    assert "6 of 8 runs finished" in out
    assert "2 evaluation runs failed." in out
    code, out, _ = call("run", "--retry-failed", "--dry-run")
    assert code == 0
    assert "2 of 8 runs to do, about 1.5 s with" in out


def test_records_of_other_code_are_counted_in_words(call, tmp_path, monkeypatch):
    finish_all(smoke_study(), Store(tmp_path / "runs", "smoke"))
    monkeypatch.setattr(provenance, "code_version", lambda: "0123456789abcdef")
    code, out, _ = call("run", "--dry-run")
    assert code == 0
    assert "8 records are left alone: made by other code than the present 0123456789abcdef" in out
    assert "8 of 8 runs to do" in out


def test_records_that_the_study_no_longer_declares_are_counted_in_words(call, tmp_path, study_file):
    finish_all(smoke_study(), Store(tmp_path / "runs", "smoke"))
    table = smoke_table()
    table["parts"]["digits"]["grid"] = {"mas": [1.0, 0.2]}
    study_file.write_text(to_toml(table))
    _, out, _ = call("run", "--dry-run")
    assert "3 records are left alone: the study no longer declares such runs." in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3\n", "Unknown key `epoch`"),
        ("title = ", "to be a TOML file"),
    ],
)
def test_a_mistake_in_the_study_is_one_sentence(call, study_file, text, message):
    study_file.write_text(text if text.endswith("= ") else text + study_file.read_text())
    code, _, err = call("run")
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_store_is_one_sentence_and_nothing_is_lost(call, tmp_path):
    store = Store(tmp_path / "runs", "smoke")
    plan = finish_all(smoke_study(), store)
    path = Path(store.where(next(iter(plan.records))))
    path.write_text(path.read_text()[:100])
    code, _, err = call("run")
    assert code == 2
    assert str(path) in err
    assert "cut off or damaged" in err
    assert len(list(path.parent.glob("*.json"))) == 8


def test_a_record_of_another_format_is_refused(call, tmp_path):
    store = Store(tmp_path / "runs", "smoke")
    plan = finish_all(smoke_study(), store)
    path = Path(store.where(next(iter(plan.records))))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    code, _, err = call("run")
    assert code == 2
    assert "older format 0" in err


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "Expected --device to be cpu, cuda or cuda:NUMBER, got gpu."),
        ("mps", "Expected --device to be cpu, cuda or cuda:NUMBER, got mps."),
        ("cuda:99", "Expected --device to be there, got cuda:99: torch sees"),
    ],
)
def test_a_device_that_there_is_not_is_one_sentence(call, tmp_path, device, message):
    code, _, err = call("run", "--device", device)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_store_is_one_sentence(call, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, _, err = call("run", "--wandb", "disabled")
    assert code == 2
    assert "Expected to" in err
    assert "choose another --store" in err


def test_nothing_to_report_is_one_sentence(call):
    code, _, err = call("report")
    assert code == 2
    assert "got none. Run it first: python -m benchmarks run smoke" in err


def test_report_needs_a_study_or_all(call):
    code, _, err = call("report", study=None)
    assert code == 2
    assert "either a STUDY or --all" in err


@pytest.mark.parametrize("words", [["run"], ["run", "x", "--processes", "0"], ["fly"]])
def test_a_wrong_call_exits_with_two(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_commands_of_other_modules_get_their_own_words(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", "--help"])
    assert caught.value.code == 0
    assert "benchmarks data" in capsys.readouterr().out


def test_two_reports_are_put_side_by_side(tmp_path, capsys):
    for name, accuracy in (("first", 0.75), ("second", 0.5)):
        plan = finish_all(smoke_study(), Store(tmp_path / name, "smoke"))
        records = [
            replace(
                record,
                accuracy=dict.fromkeys(record.accuracy, ((1.0, 0.5), (accuracy, 1.0))),
            )
            for record in plan.records.values()
        ]
        (tmp_path / name / "records.jsonl").write_bytes(b"".join(to_lines(records)))
    into = tmp_path / "both"
    places = [str(tmp_path / name) for name in ("first", "second")]
    assert main(["report", *places, "--into", str(into)]) == 0
    assert f"The comparison lies at {into}/README.md" in capsys.readouterr().out
    assert "−12.5" in (into / "README.md").read_text(encoding="utf-8")
    assert main(["report", places[0], str(tmp_path / "nowhere"), "--into", str(into)]) == 2
    assert "nowhere" in capsys.readouterr().err
