import dataclasses
import json
from unittest import mock

import pytest

from benchmarks.record import (
    FORMAT,
    Overlap,
    Probes,
    Record,
    RecordError,
    SubsetAccuracy,
    read_lines,
    to_lines,
)
from tests.benchmarks.studies import smoke_config


def make_record(config=None, **changes):
    config = config or smoke_config()
    fields = {
        "id": config.key("code"),
        "study": config.study,
        "part": config.part,
        "method": config.method,
        "strength": config.strength,
        "seed": config.seed,
        "role": config.role,
        "config": config.to_table(),
        "status": "finished",
        "task_names": ("a", "b"),
        "accuracy": {"test": ((1.0, 0.5), (0.75, 1.0))},
        "seconds": {"total": 1.5},
        "code_version": "code",
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**fields, **changes})


def test_a_record_survives_json_to_the_bit():
    record = make_record(accuracy={"test": ((1 / 3, 0.1), (0.2, 1.0))})
    again = Record.from_json(record.to_json())
    assert again.to_json() == record.to_json()
    assert again.accuracy == record.accuracy
    assert again.task_names == ("a", "b")


def test_what_was_measured_beside_accuracy_survives_json():
    record = make_record(
        overlap=(Overlap("trunk", 9, ((1.0, None), (None, 1.0))),),
        probes=Probes((0.5, 0.5), (1.0, 0.75), (0.75, 0.75)),
        subset=SubsetAccuracy((1, 2), 4, 6, (1.0, 0.5), (1.0, 0.25)),
    )
    assert Record.from_json(record.to_json()) == dataclasses.replace(record, config=mock.ANY)


def test_a_record_from_before_these_measurements_is_read():
    text = make_record().to_json()
    assert not {"overlap", "probes", "subset"} & json.loads(text).keys()
    record = Record.from_json(text)
    assert (record.overlap, record.probes, record.subset) == ((), None, None)
    assert record.to_json() == text


def _text(**changes):
    table = json.loads(make_record().to_json())
    return json.dumps({**table, **changes})


def test_a_truncated_record_is_named():
    text = make_record().to_json()
    for cut in (0, 1, len(text) // 2, len(text) - 1):
        with pytest.raises(RecordError, match=r"runs/x\.json to hold one whole JSON record"):
            Record.from_json(text[:cut], "runs/x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "to hold one JSON object"),
        ("{}", "it is no record"),
        (_text(format=FORMAT - 1), f"older format {FORMAT - 1}"),
        (_text(format=FORMAT + 1), f"newer format {FORMAT + 1}.*Update this checkout"),
        (_text(format="1"), "it is no record"),
        (_text(format=True), "it is no record"),
        (_text(color="red"), "Unknown key `color`"),
        (_text(probes={"initial": [1.0]}), "the key `learned` in `probes`"),
        (_text(subset={"in_use": []}), "the key `classes` in `subset`"),
        (
            _text(overlap=[{"layer": "a", "num_compared": 1, "correlation": [["x"]]}]),
            "a finite number, got 'x'",
        ),
        (_text(status="perfect"), "one of finished, failed, diverged; got 'perfect'"),
        (_text(seed="1"), "`seed` in .* a whole number"),
        (_text(accuracy={"test": [[1.0]]}), "to have 2 columns, got 1"),
        (_text(accuracy={"test": [[1.0, 2.0]]}), "to lie between 0 and 1"),
        (_text(accuracy={"test": [[1.0, "x"]]}), "a finite number"),
        (_text().replace("1.5", "NaN"), "NaN is not JSON"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(text, message):
    with pytest.raises(RecordError, match=message):
        Record.from_json(text, "here")


def test_numbers_that_are_not_finite_are_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_record(seconds={"total": float("nan")}).to_json()


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_record().seed = 3


def test_lines_do_not_depend_on_the_order_of_arrival(tmp_path):
    records = [make_record(smoke_config(threads=n), started=f"{n}") for n in (1, 2, 3)]
    content = b"".join(to_lines(records))
    assert b"".join(to_lines(records[::-1])) == content
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    assert b"".join(to_lines(read_lines(path))) == content
    path.write_bytes(content[:-20])
    with pytest.raises(RecordError, match=r"line 3 of .*records\.jsonl"):
        read_lines(path)
