"""Time and memory of importance estimation, against a plain pass and against its peers.

The yardstick is a plain mini-batch forward and backward pass: it computes the wrong thing (the
gradient of the mini-batch), but is the least that anyone can pay. Every round times each method
once, in turn, so that a slow spell of the machine hits all; ratios are taken round by round.

Peers that compute the same numbers: one sample at a time, ``torch.func.vmap``, BackPACK's and
Opacus's per-sample gradients (the last two where they are installed). Peak memory is read in a
fresh process for each method.
"""

import argparse
import copy
import importlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from benchmarks.speed.timing import peak_bytes
from mas_avalanche.importance import estimate_importance
from mas_avalanche.per_sample import kernel
from mas_avalanche.per_sample.gradients import Product, Settings

__all__ = ["CASES", "METHODS", "PRODUCTS", "Case", "measure", "measure_products"]

_CHUNK = 8  # samples whose gradients peers hold at a time: 1.8 GB on AlexNet
_TOP = 12  # operations listed in a profile


@dataclass(frozen=True)
class Case:
    """A network and its mini-batches.

    Args:
        name: Short name.
        title: As shown in a report.
        make: Builds the network.
        shape: Shape of one input.
        batch_size: Samples a mini-batch.
        batches: Mini-batches a round.
        peers: Whether peers are timed too.
    """

    name: str
    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    batches: int
    peers: bool = False


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


def _resnet18() -> nn.Module:
    """Build a ResNet-18 for images of 32 x 32: a 3 x 3 stem without pooling."""
    model: nn.Module = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def _vit() -> nn.Module:
    """Build a small vision transformer: 32 x 32 images, patches of 4, 6 blocks of width 192."""
    made: Any = torchvision.models.VisionTransformer(32, 4, 6, 3, 192, 768, num_classes=10)
    # torchvision starts the head at zero: the output, and so all importance, would be exactly 0.
    made.heads.head.reset_parameters()
    model: nn.Module = made
    return model


def _alexnet() -> nn.Module:
    model: nn.Module = torchvision.models.alexnet()
    return model


CASES: tuple[Case, ...] = (
    Case("mlp-128", "MLP 784-400-400-10, batch 128", _mlp, (784,), 128, 40),
    Case("alexnet-32", "AlexNet at 224, batch 32", _alexnet, (3, 224, 224), 32, 2, peers=True),
    Case("alexnet-128", "AlexNet at 224, batch 128", _alexnet, (3, 224, 224), 128, 1),
    Case("resnet18-128", "ResNet-18 at 32, batch 128", _resnet18, (3, 32, 32), 128, 1),
    Case("vit-64", "ViT (6 x 192) at 32, batch 64", _vit, (3, 32, 32), 64, 2),
)


def _ours(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    return estimate_importance(model, batches)


def _ours_without_kernel(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    with _environment(MAS_AVALANCHE_KERNEL="off"):
        return estimate_importance(model, batches)


def _plain(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Take the gradient of each mini-batch, as training does."""
    for x in batches:
        model.zero_grad(set_to_none=True)
        model(x).square().sum().backward()
    model.zero_grad(set_to_none=True)


def _one_at_a_time(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for x in batches:
        for sample in x.split(1):
            output = model(sample).square().sum()
            gradients = torch.autograd.grad(output, list(parameters.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient.abs()
    return _mean(sums, batches)


def _vmap(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def objective(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        output: Tensor = functional_call(model, values, (sample.unsqueeze(0),))
        return output.square().sum()

    per_sample = vmap(grad(objective), in_dims=(None, 0))
    for x in batches:
        for chunk in x.split(_CHUNK):
            for name, gradients in per_sample(parameters, chunk).items():
                sums[name] += gradients.abs().sum(0)
    return _mean(sums, batches)


def _backpack(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    backpack = importlib.import_module("backpack")
    batch_grad = importlib.import_module("backpack.extensions").BatchGrad
    extended = backpack.extend(_out_of_place(model))
    objective = backpack.extend(nn.MSELoss(reduction="sum"))
    sums = {name: torch.zeros_like(p) for name, p in extended.named_parameters()}
    for x in batches:
        for chunk in x.split(_CHUNK):
            extended.zero_grad()
            output = extended(chunk)
            with backpack.backpack(batch_grad()):
                objective(output, torch.zeros_like(output)).backward()
            for name, parameter in extended.named_parameters():
                sums[name] += parameter.grad_batch.abs().sum(0)
                del parameter.grad_batch
    return _mean(sums, batches)


def _opacus(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, Tensor]:
    model = _out_of_place(model)
    wrapped = importlib.import_module("opacus.grad_sample").GradSampleModule(model)
    wrapped.train()  # it looks at nothing in evaluation mode
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x in batches:
        for chunk in x.split(_CHUNK):
            wrapped.zero_grad()
            # Gradients of a mean of the chunk are scaled back by the wrapper.
            wrapped(chunk).square().sum(1).mean().backward()
            given: list[tuple[str, Any]] = list(model.named_parameters())
            for name, parameter in given:
                sums[name] += parameter.grad_sample.abs().sum(0)
                parameter.grad_sample = None
    return _mean(sums, batches)


def _out_of_place(model: nn.Module) -> nn.Module:
    """Copy a model for peers that cannot follow activations written in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010
    return model


def _mean(sums: dict[str, Tensor], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    count = sum(map(len, batches))
    return {name: total / count for name, total in sums.items()}


PRODUCTS: dict[str, tuple[int, int, int]] = {
    "AlexNet, second convolution": (192, 1600, 729),
    "AlexNet, third convolution": (384, 1728, 169),
    "ResNet-18, 128 channels": (128, 1152, 256),
    "ResNet-18, 512 channels": (512, 4608, 16),
    "ViT, wide linear layer": (768, 192, 65),
}
"""Outputs, inputs and positions of layers that see several positions of a sample."""


def measure_products(*, samples: int = 32, rounds: int = 7) -> dict[str, dict[str, Any]]:
    """Time the arithmetic of weight gradients alone: of a mini-batch, and of each sample.

    Args:
        samples: Samples a mini-batch.
        rounds: Rounds of each.

    Returns:
        By layer ``outputs``, ``inputs``, ``positions``, and medians in multiply-adds a second:
        ``batch`` for one product over all samples, ``each`` for one product a sample that nothing
        is taken of, and ``magnitudes`` for ours, which are added up as well.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (outputs, inputs, positions) in PRODUCTS.items():
        x, delta = torch.randn(samples, positions, inputs), torch.randn(samples, positions, outputs)
        total, one = torch.zeros(outputs, inputs), torch.empty(outputs, inputs)
        work = samples * positions * outputs * inputs
        ways = {
            "batch": partial(_whole, x, delta, one),
            "each": partial(_apart, x, delta, one),
            "magnitudes": partial(_magnitudes, x, delta, total),
        }
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                if number:  # the first warms up
                    speeds[way].append(work / (time.perf_counter() - start))
        found[name] = {"outputs": outputs, "inputs": inputs, "positions": positions} | {
            way: statistics.median(values) for way, values in speeds.items()
        }
    return found


def _whole(x: Tensor, delta: Tensor, out: Tensor) -> None:
    torch.mm(delta.flatten(0, 1).t(), x.flatten(0, 1), out=out)


def _apart(x: Tensor, delta: Tensor, out: Tensor) -> None:
    for a, d in zip(x, delta, strict=True):
        torch.mm(d.t(), a, out=out)


def _magnitudes(x: Tensor, delta: Tensor, total: Tensor) -> None:
    Product().add(total, [x], [delta], Settings(power=1, budget=128 * 2**20))


Method = Callable[[nn.Module, Sequence[Tensor]], Mapping[str, Tensor] | None]
METHODS: dict[str, Method] = {
    "ours": _ours,
    "ours-without-kernel": _ours_without_kernel,
    "plain": _plain,
    "one-at-a-time": _one_at_a_time,
    "vmap": _vmap,
    "backpack": _backpack,
    "opacus": _opacus,
}
_PEERS = ("one-at-a-time", "vmap", "backpack", "opacus")


def measure(
    names: Sequence[str] | None = None,
    *,
    rounds: int = 7,
    peer_rounds: int = 3,
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure every case and method.

    Args:
        names: Names of the cases; all by default.
        rounds: Rounds of ours and the plain pass.
        peer_rounds: Of these, rounds in which peers take part too.
        threads: Threads of torch; the present number by default.
        progress: Show a progress bar.

    Returns:
        A dictionary of plain values: for each of the ``cases`` its ``methods``, each with
        ``seconds`` (one a round, for all mini-batches), ``median_seconds``, ``ratio`` (median over
        rounds of its time to the plain pass's), ``peak_bytes`` (beyond model and data),
        ``relative_error`` (largest over tensors, against ours); and ``profile``; beside the cases
        ``products``, see :func:`measure_products`.

    Raises:
        ValueError: If a case is unknown or the numbers of rounds make no sense.
    """
    known = {case.name: case for case in CASES}
    wanted = list(known) if names is None else list(names)
    unknown = sorted(set(wanted) - known.keys())
    if unknown:
        raise ValueError(
            f"Expected `names` to be among {', '.join(known)}, got {', '.join(unknown)}."
        )
    if not 1 <= peer_rounds <= rounds:
        raise ValueError(f"Expected `peer_rounds` to be 1 to {rounds}, got {peer_rounds}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        cases = [known[name] for name in wanted]
        results = [
            _measure_case(case, rounds, peer_rounds)
            for case in tqdm(cases, desc="speed", disable=not progress)
        ]
        return {
            "cases": results,
            "products": measure_products(rounds=rounds),
        }
    finally:
        torch.set_num_threads(before)


def _measure_case(case: Case, rounds: int, peer_rounds: int) -> dict[str, Any]:
    model, batches = _build(case)
    methods = [name for name in METHODS if _takes_part(name, case)]
    first = {name: _time(METHODS[name], model, batches)[1] for name in methods}  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds):
        for name in methods:
            if name not in _PEERS or number < peer_rounds:
                seconds[name].append(_time(METHODS[name], model, batches)[0])
    return {
        "name": case.name,
        "title": case.title,
        "batch_size": case.batch_size,
        "batches": case.batches,
        "parameters": sum(p.numel() for p in model.parameters()),
        "methods": {
            name: {
                "seconds": seconds[name],
                "median_seconds": statistics.median(seconds[name]),
                "ratio": _ratio(seconds[name], seconds["plain"]),
                "peak_bytes": _peak_memory(case.name, name),
                "relative_error": _relative_error(first[name], first["ours"]),
            }
            for name in methods
        },
        "profile": {name: _profile(METHODS[name], model, batches) for name in ("ours", "plain")},
    }


def _build(case: Case) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model = case.make().eval()
    return model, [torch.randn(case.batch_size, *case.shape) for _ in range(case.batches)]


def _takes_part(name: str, case: Case) -> bool:
    if name in ("backpack", "opacus") and importlib.util.find_spec(name) is None:
        return False
    if name == "ours-without-kernel":
        return kernel.load() is not None
    return name not in _PEERS or case.peers


def _time(method: Method, model: nn.Module, batches: Sequence[Tensor]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = method(model, batches)
    return time.perf_counter() - start, result


def _ratio(seconds: Sequence[float], plain: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(seconds, plain, strict=False))


def _relative_error(found: Mapping[str, Tensor] | None, ours: Mapping[str, Tensor]) -> float | None:
    """Give the largest difference over the tensors, each relative to its norm.

    Where that norm is no more than what rounding makes of zero (a key's bias shifts all scores of
    attention alike, so that its importance is exactly 0), it is relative to all tensors' norm.
    """
    if found is None:
        return None
    norms = {name: float(value.norm()) for name, value in ours.items()}
    whole = math.hypot(*norms.values())
    floor = torch.finfo(torch.float32).eps * whole
    errors = []
    for name, value in ours.items():
        difference = float((found[name] - value).norm())
        norm = norms[name] if norms[name] > floor else whole
        errors.append(difference / norm if norm else math.inf if difference else 0.0)
    return float(torch.tensor(errors).max())  # max() would pass over a NaN


def _profile(method: Method, model: nn.Module, batches: Sequence[Tensor]) -> list[dict[str, Any]]:
    """List the operations that take the most time by themselves."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        method(model, batches)
    events = sorted(recorded.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [
        {"operation": e.key, "calls": e.count, "share": e.self_cpu_time_total / total}
        for e in events[:_TOP]
    ]


def _peak_memory(case: str, method: str) -> int | None:
    """Run one method in a fresh process and read what it took beyond model and data."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.speed.importance", "--case", case]
    command += ["--method", method, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    peak: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return peak


def _peak_of(case: Case, method: Method) -> int | None:
    model, batches = _build(case)
    estimate_importance(nn.Linear(2, 2), torch.randn(2, 2))  # libraries are loaded, kernel is there
    return peak_bytes(lambda: method(model, batches))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Peak memory of one method in this process.")
    parser.add_argument("--case", required=True, choices=[case.name for case in CASES])
    parser.add_argument("--method", required=True, choices=list(METHODS))
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    case = next(case for case in CASES if case.name == options.case)
    run = partial(_peak_of, case, METHODS[options.method])
    print(json.dumps({"peak_bytes": run()}))


if __name__ == "__main__":
    _main()
