"""An optional compiled kernel for CPUs: magnitudes are taken before gradients leave the registers.

Without it the per-sample gradients of a convolution are written to memory, read again for their
magnitude and added up, which takes longer than computing them where kernels are large and images
small. The pull of a quadratic penalty is added to gradients in one pass over memory, where torch
needs two and a temporary.

The kernel is compiled on first use if there is a C++ compiler, into the user's cache folder, under
a name that depends on the source, the compiler and the processor; without a compiler the same sums
are computed by torch. The environment variable ``MAS_AVALANCHE_KERNEL`` chooses: ``auto`` (the
default), ``off``, or ``require``, which makes a failure an error.
"""

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mas_avalanche.per_sample.gradients import Convolution, Settings

__all__ = ["add_convolutions", "add_products", "add_pulls", "alike", "load", "usable"]

_LOG = logging.getLogger("mas_avalanche")
_SOURCE = Path(__file__).with_name("kernel.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp")
_NAMES = {torch.float32: "float", torch.float64: "double"}


def usable(x: Tensor, total: Tensor) -> bool:
    """Say whether the kernel can work on these tensors, compiling it if need be."""
    return _of_one_kind(x, total) and load() is not None


def _of_one_kind(first: Tensor, *others: Tensor) -> bool:
    """Say whether tensors are on the CPU and of one type, for which there is a kernel."""
    return (
        first.dtype in _NAMES
        and first.device.type == "cpu"
        and all(t.device.type == "cpu" and t.dtype == first.dtype for t in others)
    )


def add_products(total: Tensor, x: Tensor, delta: Tensor, settings: "Settings") -> None:
    """Add the magnitudes of a linear map's per-sample gradients to ``total``, in place.

    Args:
        total: Accumulator of shape (out, in).
        x: Inputs of shape (N, positions, in).
        delta: Gradients of the outputs, of shape (N, positions, out).
        settings: How magnitudes are taken.
    """
    target = (
        total
        if total.is_contiguous()
        else torch.zeros_like(total, memory_format=torch.contiguous_format)
    )
    features = x.shape[2]
    step = settings.samples(2 * (x[0].numel() + delta[0].numel()), total)
    for a, d in zip(torch.split(x, step), torch.split(delta, step), strict=True):
        if a.stride(2) != 1 or features % _lanes(a.dtype) != 0:
            a = _with_slack(a)
        d = d if d.stride(2) == 1 else d.contiguous()
        positions = [p * a.stride(1) for p in range(a.shape[1])]
        layout = _Layout(positions, [0], features, d.stride(1), target.shape[1])
        _call(target, a, d, layout, settings.power)
    if target is not total:
        total.add_(target)


def add_convolutions(
    total: Tensor, x: Tensor, delta: Tensor, convolution: "Convolution", settings: "Settings"
) -> None:
    """Add the magnitudes of a convolution's per-sample gradients to ``total``, in place.

    Args:
        total: Accumulator of the kernel's shape.
        x: Inputs of shape (N, images of a sample, in, ...).
        delta: Gradients of the outputs, of shape (N, images of a sample, out, ...).
        convolution: The convolution.
        settings: How magnitudes are taken.
    """
    images, positions = x.shape[1], delta.shape[3:]
    rows, channels, *window = convolution.shape
    sides = convolution.sides(x.shape[3:], positions)
    padded = [s + a + b for s, (a, b) in zip(x.shape[3:], sides, strict=True)]
    everything = x.shape[2]
    sums = total.new_zeros(rows, *window, channels)
    # Offsets of positions and of the window's rows in images with channels last.
    steps = [math.prod(padded[i + 1 :]) * everything for i in range(len(padded))]
    strides = [s * n for s, n in zip(steps, convolution.stride, strict=True)]
    dilated = [s * n for s, n in zip(steps, convolution.dilation, strict=True)]
    image = math.prod(padded) * everything
    places = [i * image + o for i in range(images) for o in _offsets(positions, strides)]
    joined = convolution.dilation[-1] == 1 and convolution.groups == 1
    runs = _offsets(window[:-1], dilated[:-1]) if joined else _offsets(window, dilated)
    length = channels * window[-1] if joined else channels
    step = settings.samples(2 * images * (image + delta[0, 0].numel()), total)
    own = rows // convolution.groups
    for a, d in zip(torch.split(x, step), torch.split(delta, step), strict=True):
        a_last = _channels_last(a, sides, padded)
        d_last = _channels_last(d, [(0, 0)] * len(positions), positions)
        for group in range(convolution.groups):
            part = slice(group * own, (group + 1) * own)
            shifted = [r + group * channels for r in runs]
            layout = _Layout(places, shifted, length, rows, sums[0].numel())
            _call(sums[part], a_last, d_last[..., part], layout, settings.power)
    total.add_(sums.movedim(-1, 1))


def alike(first: Tensor, *others: Tensor) -> bool:
    """Say whether the kernel can walk tensors together, number by number, once it is loaded."""
    shape, strides = first.shape, first.stride()
    return (
        _of_one_kind(first, *others)
        and all(t.shape == shape and t.stride() == strides for t in others)
        and (first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last))
    )


def add_pulls(pieces: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], factor: float) -> None:
    r"""Add :math:`c \, \Omega (\theta - \theta^*)` to gradients, in place.

    Args:
        pieces: Parameter, importance, anchor and gradient, each four :func:`alike`, and all of
            one type; at least one piece.
        factor: The factor c.
    """
    pointers = [
        (ctypes.c_void_p * len(pieces))(*[tensor.data_ptr() for tensor in column])
        for column in zip(*pieces, strict=True)
    ]
    thetas, omegas, stars, gradients = pointers
    counts = _integers([piece[0].numel() for piece in pieces])
    function = getattr(_library(), f"add_pulls_{_NAMES[pieces[0][0].dtype]}")
    threads = torch.get_num_threads()
    function(gradients, omegas, thetas, stars, counts, len(pieces), factor, threads)


def _offsets(counts: Sequence[int], strides: Sequence[int]) -> list[int]:
    """List the offsets of a grid's points, the last dimension fastest."""
    offsets = [0]
    for count, stride in zip(counts, strides, strict=True):
        offsets = [o + i * stride for o in offsets for i in range(count)]
    return offsets


def _with_slack(x: Tensor) -> Tensor:
    """Copy a tensor into memory that may be read a little past its end."""
    buffer = x.new_zeros(x.numel() + 4 * _lanes(x.dtype))
    copy = buffer[: x.numel()].view(x.shape)
    copy.copy_(x)
    return copy


def _channels_last(x: Tensor, sides: Sequence[tuple[int, int]], padded: Sequence[int]) -> Tensor:
    """Copy images (N, images, channels, ...) to (N, images, ..., channels), bordered by zeros."""
    n, images, channels, *sizes = x.shape
    count = n * images * math.prod(padded) * channels
    buffer = (
        x.new_zeros(count + 4 * _lanes(x.dtype))
        if any(map(any, sides))
        else x.new_empty(count + 4 * _lanes(x.dtype))
    )
    result = buffer[:count].view(n, images, *padded, channels)
    inner = result
    source = x
    for dim, (before, after) in enumerate(sides):
        inner = inner.narrow(2 + dim, max(before, 0), padded[dim] - max(before, 0) - max(after, 0))
        source = source.narrow(
            3 + dim, max(-before, 0), sizes[dim] - max(-before, 0) - max(-after, 0)
        )
    if len(sizes) == 2 and source.is_contiguous():
        inner_sizes = [
            n * images,
            channels,
            *source.shape[3:],
            math.prod(padded) * channels,
            padded[1] * channels,
        ]
        function = getattr(_library(), f"channels_last_{_NAMES[x.dtype]}")
        function(_pointer(inner), _pointer(source), _integers(inner_sizes), torch.get_num_threads())
    else:
        inner.copy_(source.movedim(2, -1))
    return result


@dataclass(frozen=True)
class _Layout:
    """Where a sample's operands are, as offsets from its first number.

    Args:
        positions: Offset of each position in the input.
        runs: Offset of each run of columns.
        run_length: Columns of a run.
        delta_row: Distance between positions in the output's gradient.
        total_row: Distance between rows of the result.
    """

    positions: Sequence[int]
    runs: Sequence[int]
    run_length: int
    delta_row: int
    total_row: int


def _call(total: Tensor, x: Tensor, delta: Tensor, layout: _Layout, power: int) -> None:
    if x.numel() == 0 or delta.numel() == 0:
        return
    sizes = [
        len(x),
        len(layout.positions),
        len(total),
        len(layout.runs),
        layout.run_length,
        x.stride(0),
        delta.stride(0),
        layout.delta_row,
        layout.total_row,
        power,
        (x[0].numel() + delta[0].numel()) * x.element_size(),
    ]
    function = getattr(_library(), f"add_{_NAMES[x.dtype]}")
    function(
        _pointer(total),
        _pointer(x),
        _pointer(delta),
        _integers(layout.positions),
        _integers(layout.runs),
        _integers(sizes),
        torch.get_num_threads(),
    )


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _integers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _library() -> ctypes.CDLL:
    library = load()
    if library is None:
        raise RuntimeError("Expected the compiled kernel to be there, got none.")
    return library


def _lanes(dtype: torch.dtype) -> int:
    return int(getattr(_library(), f"lanes_{_NAMES[dtype]}")())


def load() -> ctypes.CDLL | None:
    """Load the kernel, compiling it the first time.

    Returns:
        The library; None where it is switched off or there is no way to make it.

    Raises:
        RuntimeError: If it is required and cannot be made.
        ValueError: If the environment variable has an unknown value.
    """
    mode = os.environ.get("MAS_AVALANCHE_KERNEL", "auto")
    if mode not in ("auto", "off", "require"):
        raise ValueError(
            f"Expected `MAS_AVALANCHE_KERNEL` to be auto, off or require, got {mode!r}."
        )
    if mode == "off":
        return None
    library, reason = _build(
        _cache_folder(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))
    )
    if library is None and mode == "require":
        raise RuntimeError(f"Expected the compiled kernel to be there, got none. {reason}")
    return library


@functools.cache  # asked for in every iteration
def _cache_folder(cache: str | None, home: str | None) -> Path:
    del home  # Path.home() reads it
    return Path(cache or Path.home() / ".cache") / "mas_avalanche"


@functools.cache
def _build(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    """Make the library or say why there is none."""
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None
    )
    if compiler is None:
        return None, "There is no C++ compiler."
    try:
        path = _compile(compiler, folder)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        _LOG.info("Sums are computed by torch, as the kernel could not be compiled: %s", reason)
        return None, str(reason)
    for name in _NAMES.values():
        getattr(library, f"add_{name}").argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int64]
        getattr(library, f"add_{name}").restype = None
        getattr(library, f"channels_last_{name}").argtypes = [ctypes.c_void_p] * 3 + [
            ctypes.c_int64
        ]
        getattr(library, f"channels_last_{name}").restype = None
        getattr(library, f"add_pulls_{name}").argtypes = [
            *[ctypes.c_void_p] * 5,
            ctypes.c_int64,
            ctypes.c_double,
            ctypes.c_int64,
        ]
        getattr(library, f"add_pulls_{name}").restype = None
        getattr(library, f"lanes_{name}").restype = ctypes.c_int64
    return library, ""


def _compile(compiler: str, folder: Path) -> Path:
    """Compile into the cache, whole or not at all, in a folder that nobody else may write."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    key = "\0".join(
        [_SOURCE.read_text(), compiler, version.stdout, *_FLAGS, *_processor(), torch.__version__]
    )
    target = folder / f"kernel-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to, or can be written by, somebody else.")
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = Path(scratch) / "kernel.o", Path(scratch) / "kernel.so"
        # Linked without OpenMP's library, so that torch's own threads are used.
        for command in (
            [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(linked)],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        linked.replace(target)
    return target


def _processor() -> Iterator[str]:
    yield platform.machine()
    yield sys.platform
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("flags", "Features", "model name")
        lines = info.read_text().splitlines()
        yield from sorted({line for line in lines if line.startswith(wanted)})
