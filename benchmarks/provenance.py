"""Where a result comes from: code, versions, machine, memory."""

import ctypes
import gc
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = [
    "code_version",
    "commit",
    "peak_memory",
    "processor",
    "reset_peak_memory",
    "versions",
]

ROOT = Path(__file__).resolve().parents[1]

SOURCES = (
    "mas_avalanche/**/*.py",
    "benchmarks/streams/**/*.py",
    "benchmarks/methods/**/*.py",
    "benchmarks/data/**/*.py",
    "benchmarks/checkpoint.py",
    "benchmarks/continual_selection.py",
    "benchmarks/measures.py",
    "benchmarks/models.py",
    "benchmarks/run.py",
)
"""What can change the numbers of a run; all else orders, stores, counts or draws them."""

WITHOUT = tuple(f"mas_avalanche/{name}.py" for name in ("metrics", "strategy", "wandb_logger"))

PACKAGES = ("torchvision", "avalanche-lib", "mas-avalanche", "numpy")


@cache
def code_version() -> str:
    """Hash the sources that can change the numbers of a run, committed or not.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        if name not in WITHOUT:
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def commit() -> str | None:
    """Name the checkout's revision, with "-dirty" where a tracked file differs from it.

    Returns:
        The revision, or None where there is no repository.
    """
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return None
    return f"{revision}-dirty" if _git("status", "--porcelain", "-uno") else revision


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    import torch

    # What torch says of itself names its build too.
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def processor(device: str) -> str:
    """Name the processor, or the accelerator where tensors live on one.

    Args:
        device: As torch writes it.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def reset_peak_memory(device: str) -> None:
    """Give back what earlier work left, and start the measurement of memory afresh.

    Where the system does not allow the latter, it counts from the start of the process.

    Args:
        device: As torch writes it.
    """
    import torch

    # Strategies and their plugins refer to each other: without this they wait, with their tensors,
    # for the garbage collector, which counts objects and not bytes.
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def _return_free_memory() -> None:
    # glibc keeps freed memory that lies below a block in use: some hundred MiB more after each run.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def peak_memory(device: str) -> int:
    """Return the greatest memory in bytes: of the accelerator, else of the process.

    Where the measurement cannot start afresh, it counts from the start of the process.

    Args:
        device: As torch writes it.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
