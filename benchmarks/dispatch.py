"""Runs a study on this machine: processes that take one run after the other.

Each run is claimed in the store, trained in a worker process, and its record stored by that worker.
The parent trains nothing: it hands out runs, opens the evaluation of a method once its strength is
chosen, and shows what happens. A run whose worker dies (out of memory, killed) goes on in another
one from the state it has kept; after the third death it becomes a failed record. On Ctrl-C or
SIGTERM the runs at work keep their state and end, and a second call goes on from there. So it does
after a SIGKILL, from the states kept before.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Literal

from benchmarks import provenance
from benchmarks.data import DataError
from benchmarks.exits import STOPPED
from benchmarks.record import Record, RecordError
from benchmarks.selection import Plan
from benchmarks.store import Store, StoreError
from benchmarks.study import RunConfig
from benchmarks.view import Estimate, View

__all__ = [
    "Dispatcher",
    "Interrupted",
    "Settings",
    "StopSignals",
    "default_processes",
    "do_run",
    "run_plan",
]

Mode = Literal["offline", "online", "disabled"]

GRACE_SECONDS = 20.0
BUSY_SECONDS = 2.0
DEATHS = 3
"""So many processes may die over a run before it is given up."""

Work = tuple[str, RunConfig]


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop, by Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class Settings:
    """Where and how runs are done; nothing here changes a number.

    Attributes:
        store: The store's folder, or its URL.
        processes: Runs at a time.
        device: Where tensors live, as torch writes it.
        data_root: Folder of data sets that are not embedded, None for the default.
        wandb: Whether runs are mirrored to Weights & Biases, and how.
        wandb_folder: Where the mirror keeps its files.
        checkpoint_every: Seconds of work inside a task that a run may lose.
        commit: Revision of the checkout that started the study, which records name.
    """

    store: str
    processes: int
    device: str = "cpu"
    data_root: Path | None = None
    wandb: Mode = "offline"
    wandb_folder: Path = Path("runs/wandb")
    checkpoint_every: float = 120.0
    commit: str | None = None


def default_processes(threads: int) -> int:
    """Say how many runs this machine does at a time.

    Args:
        threads: Threads of one run.

    Returns:
        As many as leave each its threads, at least 1.
    """
    return max(1, provenance.num_cores() // threads)


class StopSignals:
    """Notes Ctrl-C and SIGTERM, and wakes who waits for something else.

    Nothing is raised from a signal's handler: what is raised there is lost where Python happens to
    be in a finalizer, and would cut off whatever else is at work. A second signal does raise, for
    the case that the first is not looked at. A signal that the process was started to ignore, as a
    shell does with Ctrl-C for what runs in its background, stays ignored.
    """

    def __init__(self) -> None:
        self.reader, self._writer = multiprocessing.Pipe(duplex=False)
        self._name: str | None = None

    def check(self) -> None:
        """Leave with :class:`Interrupted` if a signal came."""
        if self._name is not None:
            raise Interrupted(self._name)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals until the block ends."""

        def note(number: int, frame: FrameType | None) -> None:
            self.check()
            self._name = signal.Signals(number).name
            self._writer.send_bytes(b"")

        with _handled(note, [n for n in _STOPPING if signal.getsignal(n) != signal.SIG_IGN]):
            yield


@dataclass
class Dispatcher:
    """What every way of running a study has in common.

    Args:
        plan: Takes up the records as they come.
        store: Where records are kept.
        settings: Where and how.
        view: Is told what happens.
        estimate: Learns from the records.
        signals: Looked at between two runs.
    """

    plan: Plan
    store: Store
    settings: Settings
    view: View
    estimate: Estimate
    signals: StopSignals = field(default_factory=StopSignals)
    queue: deque[Work] = field(default_factory=deque)
    waiting: list[tuple[float, Work]] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Do all runs of the plan that have no record."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what is at work."""
        raise NotImplementedError

    def begin(self) -> None:
        """Queue what can start."""
        self.queue.extend(self.plan.pending().items())
        records = self.plan.records.values()
        failed = sum(record.status != "finished" for record in records)
        self.view.start(len(records), self.plan.num_runs(), self.settings.processes, failed)

    def wake(self) -> None:
        """Queue again what another worker was at a while ago."""
        now = time.monotonic()
        self.queue.extend(work for when, work in self.waiting if when <= now)
        self.waiting = [(when, work) for when, work in self.waiting if when > now]

    def take_answer(self, work: Work, answer: tuple[str, str]) -> None:
        """Take what :func:`do_run` returned, or "stopped" where it kept its state and left.

        Raises:
            StoreError: If the run could not be done for a reason that others would share.
        """
        kind, payload = answer
        if kind == "busy":
            self.waiting.append((time.monotonic() + BUSY_SECONDS, work))
        elif kind == "stopped":
            self.queue.appendleft(work)
        elif kind == "error":
            raise StoreError(payload)
        else:
            self.note(Record.from_json(payload, "a worker's answer"))

    def note(self, record: Record) -> None:
        """Take up a record, and queue what it opens."""
        opened = self.plan.add(record)
        if opened:
            queued = opened.keys() | dict(self.queue).keys()
            self.queue = deque(work for work in self.plan.pending().items() if work[0] in queued)
        self.estimate.add(record)
        self.view.ended(record, len(self.plan.records), self.plan.num_runs(), self._time_left())

    def _time_left(self) -> float | None:
        kinds = [(c.part, c.method) for c in self.plan.pending().values()]
        kinds += [kind for kind, count in self.plan.waiting().items() for _ in range(count)]
        return self.estimate.total(kinds, self.settings.processes)

    def lost(self, work: Work, how: str) -> None:
        """Run again what a process has died over, or make a failed record of it.

        Args:
            work: The run.
            how: How the process ended, to follow "ended with".
        """
        id, config = work
        self.deaths[id] += 1
        if self.deaths[id] < DEATHS:
            self.queue.appendleft(work)
            return
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
                "message": f"The process of this run ended with {how}, the {DEATHS}. time; it may "
                "have run out of memory or been killed.",
                "traceback": "",
            },
            seconds={"total": 0.0},
            versions=provenance.versions(),
            code_version=self.plan.code_version,
            commit=self.settings.commit,
            device=self.settings.device,
            threads=config.threads,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.store.write(record)
        self.note(record)


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    work: Work | None = None


@dataclass
class _Processes(Dispatcher):
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> None:
        self.begin()
        while self.queue or self.waiting or any(worker.work for worker in self.workers):
            self._hand_out()
            self._wait()
            self.signals.check()

    def _hand_out(self) -> None:
        self.wake()
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
                self._bury(idle)
        self.view.running(worker.work[1] for worker in self.workers if worker.work)

    def _start_worker(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.settings), daemon=True)
        resource_tracker.ensure_running()  # which sets the mask anew where it starts
        # The worker is born with Ctrl-C held back, until it ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        worker = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _wait(self) -> None:
        at_work = {worker.connection: worker for worker in self.workers if worker.work}
        places = [*at_work, self.signals.reader]
        for connection in wait(places, timeout=BUSY_SECONDS if self.waiting else None):
            if connection is self.signals.reader:
                return
            worker = at_work[connection]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, ConnectionError):
                self._bury(worker)
                continue
            work, worker.work = worker.work, None
            if work is not None:
                self.take_answer(work, answer)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join(GRACE_SECONDS)
        self.workers.remove(worker)
        work, worker.work = worker.work, None
        code = worker.process.exitcode
        if work is None:
            return
        if code == STOPPED:
            self.queue.appendleft(work)
            return
        how = f"code {code}"
        if code is not None and code < 0:
            how = f"signal {-code} ({signal.Signals(-code).name})"
        self.lost(work, how)

    def stop(self) -> None:
        """End all workers, by force where they do not end by themselves."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                if worker.work is None:
                    worker.connection.send(None)
                else:
                    worker.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self.workers.clear()


def run_plan(
    plan: Plan,
    store: Store,
    settings: Settings,
    view: View,
    estimate: Estimate,
    kind: Callable[..., Dispatcher] = _Processes,
) -> None:
    """Do all runs of a plan that have no record.

    Args:
        plan: Takes up the records as they come.
        store: Where records are kept.
        settings: Where and how.
        view: Is told what happens.
        estimate: Learns from the records.
        kind: Who does them: processes of this machine, or a cluster.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM; all workers have ended, finished records are stored.
        StoreError: If the store cannot be written to; all workers have ended.
    """
    dispatcher = kind(plan, store, settings, view, estimate)
    with dispatcher.signals.noted():
        try:
            dispatcher.run()
        finally:
            with _handled(signal.SIG_IGN, _STOPPING):
                dispatcher.stop()
                view.stop()


@contextlib.contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
    numbers: Iterable[signal.Signals],
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


_STOPPING = (signal.SIGINT, signal.SIGTERM)


class _StopRequest:
    """Notes a SIGTERM while a run is at work, which then keeps its state; leaves at once else."""

    def __init__(self) -> None:
        self.at_work = False
        self.came = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not self.at_work:
            # An ordinary exit, so that what libraries hold is given back.
            sys.exit(STOPPED)


def _work(connection: Connection, settings: Settings) -> None:
    """Take runs from the parent until it says stop or is gone."""
    request = _StopRequest()
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, request.note)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        if work is None:
            return
        id, config = work
        request.at_work = True
        answer = do_run(id, config, settings, stopping=lambda: request.came)
        with contextlib.suppress(BrokenPipeError):  # the parent was killed; the record is stored
            connection.send(answer)
        request.at_work = False
        if request.came:
            sys.exit(STOPPED)


def do_run(
    id: str, config: RunConfig, settings: Settings, stopping: Callable[[], bool] = lambda: False
) -> tuple[str, str]:
    """Do one run, unless another worker is at it, and store its record.

    Args:
        id: The run's id.
        config: Its configuration.
        settings: Where and how.
        stopping: Asked now and then: whether to keep the run's state and leave with ``SystemExit``.

    Returns:
        "record" and the record as JSON; or "busy"; or "error" and a sentence.
    """
    try:
        record = _do(id, config, Store(settings.store, config.study), settings, stopping)
    except (StoreError, RecordError, DataError) as error:
        return "error", str(error)
    if record is None:
        return "busy", ""
    _mirror(record, settings)
    return "record", record.to_json()


def _do(
    id: str, config: RunConfig, store: Store, settings: Settings, stopping: Callable[[], bool]
) -> Record | None:
    from benchmarks.run import execute

    if config.key(provenance.code_version()) != id:
        raise StoreError(
            "The sources that this process has read are not those that the study was started "
            "with. Run it again, and have the same checkout on every machine."
        )
    with store.claim(id) as claim:
        if claim is None:
            return None
        record = store.read(id)
        if record is not None:
            return record
        checkpoint = store.checkpoint(id)
        record = execute(
            config,
            device=settings.device,
            data_root=settings.data_root,
            checkpoint=checkpoint,
            checkpoint_every=settings.checkpoint_every,
            stopping=stopping,
        )
        record = replace(record, commit=settings.commit)
        if not claim.held():
            return None
        store.write(record)
        # The last state of a run that failed or diverged is kept.
        if record.status == "finished":
            checkpoint.remove()
    return record


def _mirror(record: Record, settings: Settings) -> None:
    if settings.wandb == "disabled":
        return
    try:
        from benchmarks.tracking.client import mirror
    except ImportError as error:
        print(f"The run is not mirrored to wandb: {error}.", file=sys.stderr)
        return
    mirror(record, settings.wandb, settings.wandb_folder)
