"""Runs a study on this machine: processes that take one run after the other.

Each run is claimed in the store, trained in a worker process, and its record stored by that worker.
The parent trains nothing: it hands out runs, opens the evaluation of a method once its strength is
chosen, and shows what happens. A worker that dies (out of memory, killed) costs its one run, which
becomes a failed record; a stop by Ctrl-C or SIGTERM costs the runs at work, and a second call goes
on from the records.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Literal

from benchmarks import provenance
from benchmarks.data import DataError
from benchmarks.record import Record, RecordError
from benchmarks.selection import Plan
from benchmarks.store import Store, StoreError
from benchmarks.study import RunConfig
from benchmarks.view import Estimate, View

__all__ = ["Interrupted", "Settings", "default_processes", "run_plan"]

Mode = Literal["offline", "online", "disabled"]

GRACE_SECONDS = 5.0
BUSY_SECONDS = 2.0


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop, by Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class Settings:
    """Where and how runs are done; nothing here changes a number.

    Attributes:
        store: The store's folder.
        processes: Runs at a time.
        device: Where tensors live, as torch writes it.
        data_root: Folder of data sets that are not embedded, None for the default.
        wandb: Whether runs are mirrored to Weights & Biases, and how.
    """

    store: Path
    processes: int
    device: str = "cpu"
    data_root: Path | None = None
    wandb: Mode = "offline"


def default_processes(threads: int) -> int:
    """Say how many runs this machine does at a time.

    Args:
        threads: Threads of one run.

    Returns:
        As many as leave each its threads, at least 1.
    """
    return max(1, provenance.num_cores() // threads)


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    work: tuple[str, RunConfig] | None = None


@dataclass
class _Dispatcher:
    plan: Plan
    store: Store
    settings: Settings
    view: View
    estimate: Estimate
    queue: deque[tuple[str, RunConfig]] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    busy: list[tuple[float, tuple[str, RunConfig]]] = field(default_factory=list)

    def run(self) -> None:
        self.queue.extend(self.plan.pending().items())
        total = self.plan.num_runs()
        self.view.start(len(self.plan.records), total, self.settings.processes)
        while self.queue or self.busy or any(worker.work for worker in self.workers):
            self._hand_out()
            self._wait()

    def _hand_out(self) -> None:
        now = time.monotonic()
        ready = [work for when, work in self.busy if when <= now]
        self.busy = [(when, work) for when, work in self.busy if when > now]
        self.queue.extend(ready)
        while self.queue:
            idle = next((worker for worker in self.workers if worker.work is None), None)
            if idle is None and len(self.workers) < self.settings.processes:
                idle = self._start_worker()
            if idle is None:
                break
            idle.work = self.queue.popleft()
            try:
                idle.connection.send(idle.work)
            except (BrokenPipeError, ConnectionError):
                self._lost(idle)
        self.view.running(worker.work[1] for worker in self.workers if worker.work)

    def _start_worker(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self.store.root, self.settings), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _wait(self) -> None:
        at_work = {worker.connection: worker for worker in self.workers if worker.work}
        for connection in wait(list(at_work), timeout=BUSY_SECONDS if self.busy else None):
            worker = at_work[connection]  # type: ignore[index]
            try:
                kind, payload = worker.connection.recv()
            except (EOFError, ConnectionError):
                self._lost(worker)
                continue
            work, worker.work = worker.work, None
            if kind == "busy" and work is not None:
                self.busy.append((time.monotonic() + BUSY_SECONDS, work))
            elif kind == "error":
                raise StoreError(payload)
            elif kind == "record":
                self._note(Record.from_json(payload, "a worker's answer"))

    def _lost(self, worker: _Worker) -> None:
        """Make a failed record of the run whose worker has died."""
        worker.process.join(GRACE_SECONDS)
        self.workers.remove(worker)
        if worker.work is None:
            return
        id, config = worker.work
        code = worker.process.exitcode
        how = f"signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else code
        record = Record(
            id=id,
            study=config.study,
            part=config.part,
            method=config.method,
            strength=config.strength,
            seed=config.seed,
            role=config.role,
            config=config.to_table(),
            status="failed",
            error={
                "type": "WorkerDied",
                "message": f"The process of this run ended with {how}; it may have run out of "
                "memory or been killed.",
                "traceback": "",
            },
            seconds={"total": 0.0},
            versions=provenance.versions(),
            code_version=self.plan.code_version,
            commit=provenance.commit(),
            device=self.settings.device,
            threads=config.threads,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.store.write(record)
        self._note(record)

    def _note(self, record: Record) -> None:
        self.queue.extend(
            (id, config)
            for id, config in self.plan.add(record).items()
            if id not in self.plan.records
        )
        self.estimate.add(record)
        self.view.ended(record, len(self.plan.records), self.plan.num_runs(), self._time_left())

    def _time_left(self) -> float | None:
        kinds = [(c.part, c.method) for c in self.plan.pending().values()]
        kinds += [kind for kind, count in self.plan.waiting().items() for _ in range(count)]
        return self.estimate.total(kinds, self.settings.processes)

    def stop(self) -> None:
        """End all workers, by force where they do not end by themselves."""
        idle = [worker for worker in self.workers if worker.work is None]
        for worker in idle:
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        for worker in self.workers:
            if worker.work is not None:
                worker.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self.workers.clear()


def run_plan(plan: Plan, store: Store, settings: Settings, view: View, estimate: Estimate) -> None:
    """Do all runs of a plan that have no record.

    Args:
        plan: Takes up the records as they come.
        store: Where records are kept.
        settings: Where and how.
        view: Is told what happens.
        estimate: Learns from the records.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM; all workers have ended, finished records are stored.
        StoreError: If the store cannot be written to; all workers have ended.
    """
    dispatcher = _Dispatcher(plan, store, settings, view, estimate)
    with _stopped_by_signals():
        try:
            dispatcher.run()
        finally:
            with _signals_ignored():
                dispatcher.stop()
                view.stop()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM)


def _work(connection: Connection, root: Path, settings: Settings) -> None:
    """Take runs from the parent until it says stop or is gone."""
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        if work is None:
            return
        id, config = work
        try:
            answer = _do(id, config, Store(root, config.study), settings)
        except (StoreError, RecordError, DataError) as error:
            answer = "error", str(error)
        connection.send(answer)


def _leave(number: int, frame: FrameType | None) -> None:
    # An ordinary exit, so that what libraries hold is given back.
    sys.exit(128 + number)


def _do(id: str, config: RunConfig, store: Store, settings: Settings) -> tuple[str, str]:
    from benchmarks.run import execute

    if config.key(provenance.code_version()) != id:
        raise StoreError("The sources changed while the study ran. Run it again.")
    with store.claim(id) as ours:
        if not ours:
            return "busy", ""
        record = store.read(id)
        if record is None:
            checkpoint = store.checkpoint(id)
            record = execute(
                config,
                device=settings.device,
                data_root=settings.data_root,
                checkpoint=checkpoint,
            )
            store.write(record)
            checkpoint.unlink(missing_ok=True)
    _mirror(record, settings)
    return "record", record.to_json()


def _mirror(record: Record, settings: Settings) -> None:
    if settings.wandb == "disabled":
        return
    try:
        from benchmarks import tracking
    except ImportError as error:
        print(f"The run is not mirrored to wandb: {error}.", file=sys.stderr)
        return
    tracking.mirror(record, settings.wandb, settings.store / "wandb")
