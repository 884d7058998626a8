"""What computes nothing imports nothing that computes: seconds and memory at every start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.store import Store
from tests.benchmarks.studies import smoke_study, smoke_table, to_toml
from tests.benchmarks.test_main import finish_all

HEAVY = ("torch", "torchvision", "avalanche", "mas_avalanche", "sklearn", "scipy.stats", "ray")

CALLS = """
import json, sys
from benchmarks.__main__ import main

heavy, calls = json.loads(sys.argv[1])
found = {}
for words in calls:
    try:
        code = main(words)
    except SystemExit as leave:
        code = leave.code
    found[" ".join(words)] = [code, [name for name in heavy if name in sys.modules]]
print(json.dumps(found))
"""

REGISTRIES = """
import json, sys
from benchmarks import methods, models, streams

for name in methods.names():
    methods.get(name).options()
for name in streams.names():
    streams.options(name)
for name in models.names():
    models.options(name)
heavy = json.loads(sys.argv[1])
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def last_line(code, given):
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def places(tmp_path):
    path = tmp_path / "smoke.toml"
    path.write_text(to_toml(smoke_table()))
    finish_all(smoke_study(), Store(tmp_path / "runs", "smoke"))
    return str(path), str(tmp_path / "runs"), str(tmp_path / "reports")


def test_listing_resuming_and_reporting_import_no_torch(places):
    study, store, reports = places
    calls = [
        ["--help"],
        ["bench", "--help"],
        ["data", "list"],
        ["sync", "--store", store],
        ["run", study, "--store", store, "--dry-run"],
        ["run", study, "--store", store],
        ["report", study, "--store", store, "--out", reports],
    ]
    found = last_line(CALLS, [HEAVY, calls])
    assert found == {" ".join(words): [0, []] for words in calls}
    assert (Path(reports) / "smoke" / "README.md").is_file()


def test_methods_streams_and_models_are_described_without_torch():
    assert last_line(REGISTRIES, HEAVY) == []
