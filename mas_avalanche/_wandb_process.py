"""The training's side of the process that talks to wandb: bounded waiting, nothing raised in it."""

import contextlib
import importlib.util
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal, cast, get_args

import psutil

__all__ = [
    "Mode",
    "WandbError",
    "WandbProcess",
    "WandbStuckError",
    "Writer",
    "environment",
    "is_installed",
    "mode_from_environment",
    "open_request",
    "open_run",
    "short",
]

Mode = Literal["offline", "online", "disabled"]

_LOGGER = logging.getLogger("mas_avalanche.wandb")
_LEAVE_SECONDS = 5.0
_OFFLINE_SECONDS = 45.0  # nothing but a slow disk or a busy machine can take it that long
_QUEUE_LENGTH = 20_000


class WandbError(RuntimeError):
    """The process that talks to wandb answered with an error, or not at all."""


class WandbStuckError(WandbError):
    """The process did not answer in time and was killed."""


def mode_from_environment() -> Mode:
    """Read the mode that the user asked for.

    Returns:
        The value of WANDB_MODE where it is set, else "offline".

    Raises:
        ValueError: If WANDB_MODE names no mode.
    """
    value = os.environ.get("WANDB_MODE") or "offline"
    value = {"run": "online", "dryrun": "offline", "shared": "online"}.get(value, value)
    if value not in get_args(Mode):
        raise ValueError(
            f"Expected `WANDB_MODE` to be one of {', '.join(get_args(Mode))}, got {value!r}. "
            "Correct or unset the variable."
        )
    return cast(Mode, value)


def environment(**changes: str) -> dict[str, str]:
    """Give the environment of a process that runs wandb.

    Args:
        **changes: Variables to set.

    Returns:
        This process's variables, without wandb's empty ones: they mean unset here, and an error to
        wandb.
    """
    kept = {k: v for k, v in os.environ.items() if v or not k.startswith("WANDB_")}
    # Without this, wandb asks for a server also offline.
    return kept | {"WANDB_ERROR_REPORTING": "false"} | changes


def is_installed() -> bool:
    """Say whether wandb can be imported, without importing it."""
    return importlib.util.find_spec("wandb") is not None


def open_request(
    run_id: str, mode: Mode, folder: Path, axes: dict[str, tuple[str, ...]], **options: Any
) -> dict[str, Any]:
    """Fill in a request to open a run.

    Args:
        run_id: The run's id.
        mode: "offline" or "online".
        folder: Where wandb's files go.
        axes: Names of the step axes, and the metrics drawn over each (`*` at the end).
        **options: project, entity, name, group, job_type, tags, config, settings, resume.

    Returns:
        The request.
    """
    folder = folder.absolute()
    defaults: dict[str, Any] = dict.fromkeys(("name", "group", "job_type"))
    defaults |= {
        "entity": os.environ.get("WANDB_ENTITY") or None,
        "project": os.environ.get("WANDB_PROJECT") or "mas-avalanche",
        "tags": [],
        "config": {},
        "settings": {},
        "resume": False,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return (
        defaults
        | given
        | {
            "do": "open",
            "id": run_id,
            "mode": mode,
            "folder": str(folder),
            # Offline artifacts wait here until they are sent; wandb's default is elsewhere.
            "data": str(folder / "wandb" / "data"),
            "axes": axes,
        }
    )


class WandbProcess:
    """A child process that runs ``_wandb_worker.py``."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._popen = subprocess.Popen(
            # -P: this package's folder holds modules that must not shadow others.
            [sys.executable, "-P", str(Path(__file__).with_name("_wandb_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,  # no terminal to ask for a key on, no Ctrl-C halfway
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._popen.pid

    def usable(self) -> bool:
        """Say whether it takes requests from this process (not from a fork of it)."""
        return self._owner == os.getpid() and self._popen.poll() is None

    def ask(self, requests: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
        """Send requests and wait for their answers.

        Args:
            requests: Carried out in order; the first error ends it.
            seconds: The longest to wait; then the process is killed.

        Returns:
            The answers.

        Raises:
            WandbStuckError: If there is no answer in time.
            WandbError: If a request fails or the process is gone.
        """
        answers: list[dict[str, Any]] = []
        errors: list[WandbError] = []

        def work() -> None:
            try:
                answers.extend(self.exchange(request) for request in requests)
            except WandbError as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self.kill()
            raise WandbStuckError(f"no answer within {seconds:g} s")
        if errors:
            raise errors[0]
        return answers

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer, however long it takes.

        Args:
            request: What to do.

        Returns:
            The answer.

        Raises:
            WandbError: If the request fails or the process is gone.
        """
        to_child, from_child = self._popen.stdin, self._popen.stdout
        if to_child is None or from_child is None:
            raise WandbError("its process has no pipes")
        try:
            to_child.write(json.dumps(request).encode() + b"\n")
            to_child.flush()
            line = from_child.readline()
        except (OSError, ValueError):
            line = b""
        if not line:
            raise WandbError("its process is gone")
        answer = json.loads(line)
        if "error" in answer:
            raise WandbError(answer["error"])
        return cast(dict[str, Any], answer["ok"])

    def leave(self, seconds: float = _LEAVE_SECONDS) -> None:
        """Let the process end; kill it when it does not.

        Args:
            seconds: The longest to wait.
        """
        if self._owner != os.getpid():
            return
        with contextlib.suppress(OSError):
            if self._popen.stdin is not None:
                self._popen.stdin.close()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def kill(self) -> None:
        """Kill the process and the service that wandb started for it."""
        if self._owner != os.getpid():
            return
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self._popen.pid).children(recursive=True)
        self._popen.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self._popen.wait()
        psutil.wait_procs(children, timeout=_LEAVE_SECONDS)


def open_run(
    request: dict[str, Any], seconds: float, process: WandbProcess | None = None
) -> tuple[WandbProcess, dict[str, Any]]:
    """Open a run, offline where it cannot be opened online.

    Args:
        request: See :func:`open_request`.
        seconds: The longest to wait, once online and once offline.
        process: Where to open it; by default, and where it is gone, a new one.

    Returns:
        The process that holds the run; and the answer, in which ``mode`` is the mode it was opened
        in and ``why`` the reason where that is not the mode asked for.

    Raises:
        WandbError: If it cannot be opened offline either.
    """
    if process is None or not process.usable():
        process = WandbProcess()
    runs = Path(request["folder"], "wandb")
    before = set(runs.glob(f"*run-*-{request['id']}"))
    try:
        answer = process.ask([request], seconds)[0]
    except WandbError as error:
        process.kill()
        for partial in set(runs.glob(f"*run-*-{request['id']}")) - before:
            shutil.rmtree(partial, ignore_errors=True)
        if request["mode"] != "online":
            raise
        offline = request | {"mode": "offline"}
        process, answer = open_run(offline, max(seconds, _OFFLINE_SECONDS))
        return process, answer | {"why": str(error)}
    return process, answer | {"mode": request["mode"], "why": ""}


class Writer:
    """Send requests from a thread, so that whoever hands them over never waits.

    Args:
        request: Opens the run.
        seconds: The longest that opening may take.
    """

    def __init__(self, request: dict[str, Any], seconds: float = _OFFLINE_SECONDS) -> None:
        self.opened: dict[str, Any] | None = None
        self.said: list[str] = []
        self.busy = False
        self._owner = os.getpid()
        self._folder = request["folder"]
        self._seconds = seconds
        self._dropped = 0
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_QUEUE_LENGTH)
        self._process: WandbProcess | None = None
        self._dead = False
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(request,), daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests still reach a run."""
        return not self._dead and self._owner == os.getpid()

    def put(self, request: dict[str, Any]) -> None:
        """Hand a request over, at once.

        Args:
            request: What to do; dropped, and counted, where the queue is full.
        """
        if not self.alive:
            return
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self._dropped += 1

    def wait_until_open(self, seconds: float) -> bool:
        """Wait until the run is open or has failed to open.

        Args:
            seconds: The longest to wait.

        Returns:
            Whether it is open.
        """
        self._settled.wait(seconds)
        return self.opened is not None

    def close(self, exit_code: int | None, seconds: float) -> None:
        """Finish the run, in bounded time.

        Args:
            exit_code: Not 0 marks the run as failed; None: 1 in the middle of training, else 0.
            seconds: The longest to wait for what is still to be sent.
        """
        if self._owner != os.getpid() or not self._thread.is_alive():
            return
        code = int(self.busy) if exit_code is None else exit_code
        with contextlib.suppress(queue.Full):
            self._queue.put({"do": "close", "exit_code": code}, timeout=seconds)
            self._queue.put(None, timeout=seconds)
        self._thread.join(seconds)
        self._dead = True
        if self._thread.is_alive():
            self.say(
                f"Weights & Biases did not finish within {seconds:g} s. What it has is kept in "
                f"{self._folder}/wandb; `wandb sync` with the run's folder sends it later."
            )
            if self._process is not None:
                self._process.kill()
        if self._dropped:
            self.say(f"Weights & Biases was too slow: {self._dropped} rows were not logged.")

    def _work(self, request: dict[str, Any]) -> None:
        try:
            process, answer = open_run(request, self._seconds)
            self._process = process
            if answer["why"]:
                self.say(
                    f"Weights & Biases could not be reached ({short(answer['why'])}). The run is "
                    f"kept in {self._folder}; `wandb sync` sends it later."
                )
            self.opened = answer
            self._settled.set()
            while (item := self._queue.get()) is not None:
                self._try(process, item)
        except (WandbError, OSError) as error:
            self._dead = True
            self.say(f"Weights & Biases has stopped ({short(error)}). Training goes on.")
        finally:
            self._settled.set()
            if self._process is not None:
                self._process.leave()

    def _try(self, process: WandbProcess, request: dict[str, Any]) -> None:
        try:
            process.exchange(request)
        except WandbError as error:
            if not process.usable():
                raise
            self.say(f"Weights & Biases refused a request ({short(error)}). Training goes on.")

    def say(self, sentence: str) -> None:
        """Say something once, as a warning of the logger `mas_avalanche.wandb`.

        Args:
            sentence: What to say.
        """
        if sentence not in self.said:
            self.said.append(sentence)
            _LOGGER.warning(sentence)


def short(error: object) -> str:
    """Put an error on one line of at most 200 characters.

    Args:
        error: An exception or its text.

    Returns:
        The line.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
