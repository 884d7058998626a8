import os
import shutil
import subprocess

import pytest
import torch
from torch import nn

from mas_avalanche.importance import estimate_importance
from mas_avalanche.per_sample import kernel
from tests import oracles

compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")


@pytest.fixture
def mode(monkeypatch):
    def switch(value):
        monkeypatch.setenv("MAS_AVALANCHE_KERNEL", value)

    return switch


def conv(*arguments, **options):
    return nn.Conv2d(*arguments, **options)


LAYERS = {
    "wide": (lambda: conv(3, 70, 3, padding=1), (3, 5, 6)),
    "long-runs": (lambda: conv(40, 9, 3, stride=2), (40, 9, 9)),
    "many-positions": (lambda: conv(2, 4, 1), (2, 14, 13)),
    "big-window": (lambda: conv(3, 5, 11, stride=4, padding=2), (3, 31, 30)),
    "dilated": (lambda: conv(5, 4, 3, dilation=2), (5, 8, 8)),
    "groups": (lambda: conv(16, 6, 3, groups=2), (16, 6, 5)),
    "cropped": (lambda: conv(4, 5, 2, stride=3), (4, 7, 7)),
    "one-dimension": (lambda: nn.Conv1d(17, 12, 3, padding=1), (17, 9)),
    "three-dimensions": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 4, 5)),
    "sequence": (lambda: nn.Linear(33, 17), (5, 33)),
    "aligned-sequence": (lambda: nn.Linear(64, 8), (150, 64)),
}


@compiler
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_kernel_and_torch_agree_with_one_sample_at_a_time(name, power, mode):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Tanh(), nn.Flatten()).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    expected = oracles.importance(model, x, power=power)
    for value in ("require", "off"):
        mode(value)
        errors = oracles.relative_errors(estimate_importance(model, x, power=power), expected)
        assert max(errors.values()) < 1e-12, (value, errors)


@compiler
def test_single_precision_and_small_budgets_agree(mode):
    model = nn.Sequential(
        conv(3, 9, 3), nn.Tanh(), nn.Flatten(), nn.Unflatten(1, (9, 9)), nn.Linear(9, 3)
    )
    x = torch.randn(6, 3, 5, 5)
    mode("require")
    found = estimate_importance(model, x, memory_budget=1)
    mode("off")
    for budget in (1, 2**27):
        errors = oracles.relative_errors(found, estimate_importance(model, x, memory_budget=budget))
        assert max(errors.values()) < 1e-5


@compiler
def test_channels_last_inputs_agree(mode):
    model = nn.Sequential(conv(3, 4, 3), nn.Tanh()).to(memory_format=torch.channels_last)
    x = torch.randn(3, 3, 6, 5).contiguous(memory_format=torch.channels_last)
    mode("require")
    found = estimate_importance(model, x)
    assert max(oracles.relative_errors(found, oracles.importance(model, x)).values()) < 1e-5


def test_the_kernel_can_be_switched_off(mode):
    mode("off")
    assert kernel.load() is None
    mode("on")
    with pytest.raises(ValueError, match="Expected `MAS_AVALANCHE_KERNEL` to be auto"):
        kernel.load()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel._build.cache_clear()
    yield tmp_path / "mas_avalanche"
    kernel._build.cache_clear()


def test_without_a_compiler_torch_takes_over(fresh, mode, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    mode("auto")
    assert kernel.load() is None
    mode("require")
    with pytest.raises(RuntimeError, match=r"got none\. There is no C\+\+ compiler"):
        kernel.load()


def test_a_failing_compiler_leaves_nothing_behind(fresh, mode, monkeypatch):
    def fail(command, **options):
        if "--version" in command:
            return subprocess.CompletedProcess(command, 0, stdout="1")
        raise subprocess.CalledProcessError(1, command, stderr="broken")

    monkeypatch.setattr(kernel.subprocess, "run", fail)
    monkeypatch.setattr(kernel.shutil, "which", lambda name: name or None)
    mode("require")
    with pytest.raises(RuntimeError, match="broken"):
        kernel.load()
    assert list(fresh.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_folder_that_others_may_write_is_refused(fresh, mode):
    fresh.mkdir(mode=0o700)
    fresh.chmod(0o777)
    mode("require")
    with pytest.raises(RuntimeError, match=r"somebody else|no C"):
        kernel.load()


@compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_pulls_are_those_of_torch(dtype, threads):
    torch.manual_seed(0)
    shapes = [(), (1,), (7, 33), (3, 5, 3, 3), (70_001,)]
    pieces = [tuple(torch.randn(shape, dtype=dtype) for _ in range(4)) for shape in shapes]
    pieces[3] = tuple(t.to(memory_format=torch.channels_last) for t in pieces[3])
    assert all(kernel.alike(*piece) for piece in pieces)
    expected = [g.double() + 0.3 * o.double() * (t - s).double() for t, o, s, g in pieces]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kernel.add_pulls(pieces, 0.3)
    finally:
        torch.set_num_threads(before)
    for (*_, gradient), value in zip(pieces, expected, strict=True):
        tolerance = 1e-14 if dtype is torch.float64 else 1e-6
        torch.testing.assert_close(gradient.double(), value, rtol=tolerance, atol=tolerance)


def test_tensors_of_unlike_layout_are_not_walked_together():
    plain = torch.ones(2, 3, 4, 5)
    assert kernel.alike(plain, plain)
    assert not kernel.alike(plain, plain.double())
    assert not kernel.alike(plain.half(), plain.half())
    assert not kernel.alike(plain, plain[:1])
    assert not kernel.alike(plain, plain.to(memory_format=torch.channels_last))
    assert not kernel.alike(plain[:, :2], plain[:, :2])
    assert not kernel.alike(plain.to("meta"), plain.to("meta"))
