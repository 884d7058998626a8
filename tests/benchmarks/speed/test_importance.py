import json
import math

import pytest
import torch
from torch import nn

from benchmarks.speed import importance
from benchmarks.speed.importance import Case


def _small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3))


@pytest.fixture
def small(monkeypatch):
    case = Case("small", "A small net", _small, (3, 5, 5), 6, 2, peers=True)
    monkeypatch.setattr(importance, "CASES", (case,))
    monkeypatch.setattr(importance, "PRODUCTS", {"a layer": (6, 7, 5)})
    monkeypatch.setattr(importance, "_peak_memory", lambda case, method: 1)
    return case


@pytest.mark.filterwarnings("ignore")  # peers warn
def test_every_method_is_timed_and_agrees(small):
    result = importance.measure(rounds=2, peer_rounds=1, progress=False)
    json.dumps(result)
    (case,) = result["cases"]
    methods = case["methods"]
    assert {"ours", "plain", "one-at-a-time", "vmap"} <= methods.keys()
    assert len(methods["ours"]["seconds"]) == 2
    assert len(methods["vmap"]["seconds"]) == 1
    assert methods["plain"]["ratio"] == 1
    assert methods["plain"]["relative_error"] is None
    for name, method in methods.items():
        assert name == "plain" or method["relative_error"] < 1e-4, name
    assert case["profile"]["ours"][0]["share"] > 0


def test_products_by_themselves_compute_what_they_say(monkeypatch):
    x, delta = torch.randn(4, 5, 7), torch.randn(4, 5, 6)
    out, total = torch.empty(6, 7), torch.zeros(6, 7)
    each = torch.einsum("nlo,nli->noi", delta, x)
    importance._whole(x, delta, out)
    torch.testing.assert_close(out, each.sum(0), rtol=1e-4, atol=1e-5)
    importance._apart(x, delta, out)
    torch.testing.assert_close(out, each[-1], rtol=1e-4, atol=1e-5)
    importance._magnitudes(x, delta, total)
    torch.testing.assert_close(total, each.abs().sum(0), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(importance, "PRODUCTS", {"a layer": (6, 7, 5)})
    (found,) = importance.measure_products(samples=4, rounds=2).values()
    assert found["positions"] == 5
    assert min(found["batch"], found["each"], found["magnitudes"]) > 0


def test_unknown_cases_are_named(small):
    with pytest.raises(ValueError, match="Expected `names` to be among small, got large"):
        importance.measure(["large"])
    with pytest.raises(ValueError, match="Expected `peer_rounds` to be 1 to 2, got 3"):
        importance.measure(rounds=2, peer_rounds=3)


def test_differences_are_relative_and_defined_where_importance_is_zero():
    ours = {"a": torch.tensor([3.0, 4.0]), "key": torch.zeros(2)}
    same = {name: value.clone() for name, value in ours.items()}
    assert importance._relative_error(None, ours) is None
    assert importance._relative_error(same, ours) == 0
    off = same | {"a": torch.tensor([3.0, 4.5])}
    assert importance._relative_error(off, ours) == pytest.approx(0.1)
    rounded = same | {"key": torch.tensor([1e-6, 0.0])}
    assert importance._relative_error(rounded, ours) == pytest.approx(2e-7)
    nothing = {"key": torch.zeros(2)}
    assert importance._relative_error(nothing, nothing) == 0
    assert importance._relative_error({"key": torch.ones(2)}, nothing) == math.inf
    broken = same | {"key": torch.tensor([math.nan, 0.0])}
    assert math.isnan(importance._relative_error(broken, ours))


def test_every_network_has_importance_to_compare():
    for case in importance.CASES:
        torch.manual_seed(0)
        head = list(case.make().modules())[-1]
        assert isinstance(head, nn.Linear)
        assert head.weight.abs().sum() > 0, case.name
