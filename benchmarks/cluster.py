"""Runs a study on a Ray cluster: a run is a task that Ray places, again if its node is lost.

Plan, store and records are those of :mod:`benchmarks.dispatch`; Ray only decides where a run is
done. Every node needs the same packages and has to reach the store: a folder that all mount, or a
URL. The checkout's two packages are sent along.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from benchmarks import provenance
from benchmarks.dispatch import (
    BUSY_SECONDS,
    GRACE_SECONDS,
    Dispatcher,
    Settings,
    Work,
    do_run,
)
from benchmarks.study import Part, RunConfig

__all__ = ["START", "Cluster", "ClusterError", "connected", "gpus_of", "num_slots"]

START = "local"
"""Address that starts a cluster on this machine."""

AT_A_TIME = 1000
"""Tasks given to Ray before the first has ended; what waits there makes a cluster grow."""

SENT = ("benchmarks", "mas_avalanche")


class ClusterError(RuntimeError):
    """Ray is missing or the cluster cannot be joined; the message says what to do."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Start a cluster on this machine or join one, until the block ends.

    Args:
        address: "local" to start one; else where it is, as Ray writes it: "auto", "host:6379" or
            "ray://host:10001".

    Yields:
        The module ``ray``, connected.

    Raises:
        ClusterError: If Ray is not installed or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "Expected Ray to be installed for --ray, and it is not. Install the extra on every "
            "node: pip install -e '.[ray]'"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    others = sorted(path.name for path in provenance.ROOT.iterdir() if path.name not in SENT)
    _check_answers(address)
    new: dict[str, Any] = {"num_cpus": provenance.num_cores(), "include_dashboard": False}
    try:
        ray.init(
            address=address,
            runtime_env={
                "working_dir": str(provenance.ROOT),
                "excludes": [*(f"/{name}" for name in others), "__pycache__"],
                "env_vars": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
            },
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(new if address == START else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _absent(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ask whether anything listens there, as Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _absent(address, error) from error


def _absent(address: str, error: Exception) -> ClusterError:
    reason = str(error).partition("\n")[0].rstrip(".")
    return ClusterError(
        f"Expected to find a Ray cluster at {address}, got: {reason}. Start one with "
        "`ray start --head`, or leave the address out to start one on this machine."
    )


def num_slots(ray: Any, threads: int, gpus: float = 0.0) -> int:
    """Say how many runs the cluster does at a time, as it is now.

    Args:
        ray: The module, connected.
        threads: Threads of one run.
        gpus: Share of a GPU, or number of them, that one run takes.
    """
    found = ray.cluster_resources()
    slots = found.get("CPU", 1.0) // threads
    if gpus:
        slots = min(slots, found.get("GPU", 0.0) / gpus)
    return max(1, int(slots))


def gpus_of(part: Part) -> float:
    """Say what a run of a part takes of the GPUs where it is trained on one."""
    return part.gpus or 1.0


@dataclass
class Cluster(Dispatcher):
    """Hands a study's runs to Ray.

    Args:
        ray: The module, connected.
    """

    ray: Any = None
    at_work: dict[Any, Work] = field(default_factory=dict)

    def run(self) -> None:
        """Do all runs of the plan that have no record.

        Raises:
            ClusterError: If the cluster is gone, or a node cannot do runs at all.
        """
        # What is repeated, and how often, depends on how a run was lost: see `_lost`.
        task = self.ray.remote(max_retries=0)(_do_on_node)
        gpus = {part.name: gpus_of(part) for part in self.plan.study.parts}
        on_gpu = self.settings.device.startswith("cuda")
        self.begin()
        while self.queue or self.waiting or self.at_work:
            self.wake()
            while self.queue and len(self.at_work) < AT_A_TIME:
                id, config = self.queue.popleft()
                placed = task.options(
                    name=f"{config.study} {config.part} {config.method} {id}",
                    num_cpus=config.threads,
                    num_gpus=gpus[config.part] if on_gpu else 0,
                )
                self.at_work[placed.remote(id, config, self.settings)] = id, config
            self._wait()
            self.signals.check()

    def _wait(self) -> None:
        placed = [config for _, config in self.at_work.values()]
        self.view.running(placed[: self.settings.processes])
        if not self.at_work:
            time.sleep(BUSY_SECONDS)
            return
        # Not without end, so that a signal is noticed.
        ended, _ = self.ray.wait(list(self.at_work), timeout=BUSY_SECONDS)
        for task in ended:
            work = self.at_work.pop(task)
            try:
                answer = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                self._lost(work, error)
                continue
            self.take_answer(work, answer)

    def _lost(self, work: Work, error: Exception) -> None:
        """Run again what a node was lost with; count what a process died over by itself."""
        exceptions = self.ray.exceptions
        if isinstance(error, (exceptions.NodeDiedError, exceptions.ObjectLostError)):
            self.waiting.append((time.monotonic() + BUSY_SECONDS, work))
        elif isinstance(error, (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)):
            self.lost(work, type(error).__name__)
        else:
            # Other runs would meet it too: the cluster is gone, or a node lacks a package.
            cause = getattr(error, "cause", None) or error
            reason = str(cause).strip().partition("\n")[0].rstrip(".")
            raise ClusterError(
                f"Expected the cluster to do runs, got {type(cause).__name__}: {reason}. "
                "Every node needs the same packages and has to "
                "reach the store; the same command goes on from what is recorded."
            ) from error

    def stop(self) -> None:
        """Have the runs at work keep their state and end; the cluster itself goes on."""
        for task in self.at_work:
            self.ray.cancel(task)
        if self.at_work:
            self.ray.wait(list(self.at_work), num_returns=len(self.at_work), timeout=GRACE_SECONDS)
        self.at_work.clear()


def _do_on_node(id: str, config: RunConfig, settings: Settings) -> tuple[str, str]:
    """Do a run in a process of Ray, which cancels it by an interrupt."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    if threading.current_thread() is not threading.main_thread():
        return do_run(id, config, settings)
    before = signal.signal(signal.SIGINT, note)
    try:
        return do_run(id, config, settings, stopping=lambda: came)
    except SystemExit:
        return "stopped", ""
    finally:
        signal.signal(signal.SIGINT, before)
