"""A machine with nothing on it."""

from dataclasses import replace

import pytest

from benchmarks.data import catalogue


@pytest.fixture(autouse=True)
def bare_machine(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for variable in ("MAS_AVALANCHE_DATA", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MAS_AVALANCHE_CACHE", str(home / "cache"))
    for name, entry in catalogue.CATALOGUE.items():
        monkeypatch.setitem(catalogue.CATALOGUE, name, replace(entry, system=()))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "datasets"
    folder.mkdir()
    return folder
