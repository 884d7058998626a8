"""Two processes, each with its share of the data, end with the importance of one."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from mas_avalanche.importance import estimate_importance
from tests import oracles, processes

pytestmark = processes.MARKS


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def _inputs():
    return torch.randn(14, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _forms(x):
    """Name the forms of data with the arguments they are read with."""
    data = TensorDataset(x)
    return {
        "tensor": (x, {"batch_size": 3}),
        "dataset": (data, {"batch_size": 3}),
        "loader": (DataLoader(data, 3), {}),
        "batches": (list(x.split([5, 1, 8])), {}),
        "max-samples": (x, {"max_samples": 7}),
        "max-samples-of-batches": (list(x.split(3)), {"max_samples": 7}),
        "one-sample": (x[:1], {}),
    }


def _long_inputs():
    return torch.randn(600, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _stops(x):
    """Name ways to stop by precision, with the arguments of each."""
    return {
        "soon": (x, {"tolerance": 0.1, "batch_size": 10}),
        "never": (x, {"tolerance": 1e-9, "batch_size": 10}),
        "stream": (list(x.split(20)), {"tolerance": 1e-9}),  # of unknown length
        "uneven": (list(x[:90].split([60, 2, 20, 2, 3, 2, 1])), {"tolerance": 1e-9}),
        "one-process": (list(x[:7].split(7)), {"tolerance": 0.5}),  # the other has nothing
    }


def _work(rank):
    del rank  # the group knows it
    model, x = _model(), _inputs()
    results = {}
    for name, (data, arguments) in _forms(x).items():
        found = estimate_importance(model, data, **arguments)
        results[name] = (dict(found), found.num_samples)
    sampler = DistributedSampler(TensorDataset(x), shuffle=True)
    loader = DataLoader(TensorDataset(x), 3, sampler=sampler)
    wrapped = DistributedDataParallel(model)
    found = estimate_importance(wrapped, loader)
    results["sampler"] = ({n.removeprefix("module."): v for n, v in found.items()}, 14)
    for name, (data, arguments) in _stops(_long_inputs()).items():
        found = estimate_importance(model, data, **arguments)
        results[name] = (dict(found), found.num_samples, found.relative_error)
    wrapped(x).sum().backward()  # the wrapper still works
    return results


def test_two_processes_end_with_the_importance_of_one(tmp_path):
    both = processes.in_two(_work, tmp_path)
    model, x = _model(), _inputs()
    for name in (*_forms(x), "sampler"):
        count = {"max-samples": 7, "max-samples-of-batches": 7, "one-sample": 1}.get(name, 14)
        expected = oracles.importance(model, x[:count])
        for results in both:
            found, num_samples = results[name]
            assert num_samples == count
            assert max(oracles.relative_errors(found, expected).values()) < 1e-10, name
    _check_stops(both)


def _check_stops(both):
    """Both processes stop together, where one process alone would."""
    model, x = _model(), _long_inputs()
    for name, (data, arguments) in _stops(x).items():
        (found, num_samples, error), (other, *rest) = (results[name] for results in both)
        assert rest == [num_samples, error], name
        assert all(torch.equal(other[n], value) for n, value in found.items()), name
        alone = estimate_importance(model, data, **arguments)
        if name == "soon":
            assert error < 0.1
            assert num_samples < 300
            assert abs(num_samples - alone.num_samples) <= 40
            continue
        assert num_samples == alone.num_samples, name
        assert max(oracles.relative_errors(found, dict(alone)).values()) < 1e-10, name
        assert error == pytest.approx(alone.relative_error, rel=0.25), name
