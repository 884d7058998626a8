"""One report of synthetic records for all tests of the folder."""

import pytest

from benchmarks import render
from tests.benchmarks import synthetic


@pytest.fixture(scope="session")
def study():
    return synthetic.study(methods=["naive", "joint", "mas", "ewc"])


@pytest.fixture(scope="session")
def files(study):
    return dict(render.build(study, synthetic.records(study)))


@pytest.fixture(scope="session")
def page(files):
    return files["index.html"].decode()


@pytest.fixture(scope="session")
def readme(files):
    return files["README.md"].decode()
