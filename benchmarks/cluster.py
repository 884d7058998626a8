"""Runs a study on a Ray cluster: a run is a task that Ray places and, if its node is lost, repeats.

Plan, store and records are those of :mod:`benchmarks.dispatch`; Ray only decides where a run is
done. Every node needs the same packages and has to reach the store: a folder that all mount, or a
URL. The checkout's two packages are sent along.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import provenance
from benchmarks.dispatch import (
    BUSY_SECONDS,
    DEATHS,
    GRACE_SECONDS,
    Dispatcher,
    Work,
    do_run,
)

__all__ = ["START", "Cluster", "ClusterError", "connected", "num_slots"]

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
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ClusterError(
            f"Expected to find a Ray cluster at {address}, got: {reason}. Start one with "
            "`ray start --head`, or leave the address out to start one on this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def num_slots(ray: Any, threads: int) -> int:
    """Say how many runs the cluster does at a time, as it is now.

    Args:
        ray: The module, connected.
        threads: Threads of one run.
    """
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)


@dataclass
class Cluster(Dispatcher):
    """Hands a study's runs to Ray.

    Args:
        ray: The module, connected.
    """

    ray: Any = None
    at_work: dict[Any, Work] = field(default_factory=dict)

    def run(self) -> None:
        """Do all runs of the plan that have no record."""
        ray = self.ray
        task = ray.remote(max_retries=DEATHS - 1, retry_exceptions=False)(do_run)
        gpus = {part.name: part.gpus for part in self.plan.study.parts}
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

    def _wait(self) -> None:
        ray = self.ray
        placed = [config for _, config in self.at_work.values()]
        self.view.running(placed[: self.settings.processes])
        # Not without end, so that a signal is noticed.
        ended, _ = ray.wait(list(self.at_work), timeout=BUSY_SECONDS)
        for task in ended:
            work = self.at_work.pop(task)
            try:
                answer = ray.get(task)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                # Ray has repeated it as often as it may.
                self.deaths[work[0]] = DEATHS - 1
                self.lost(work, type(error).__name__)
                continue
            self.take_answer(work, answer)

    def stop(self) -> None:
        """Have the runs at work end; the cluster itself goes on."""
        for task in self.at_work:
            self.ray.cancel(task)
        if self.at_work:
            self.ray.wait(list(self.at_work), num_returns=len(self.at_work), timeout=GRACE_SECONDS)
        self.at_work.clear()
