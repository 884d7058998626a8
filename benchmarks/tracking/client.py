"""The side of the mirror that lives in the study's process."""

import atexit
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from benchmarks.tracking import ledger
from benchmarks.tracking.content import content_of, digest_of

Mode = Literal["offline", "online", "disabled"]
Outcome = Literal["written", "updated", "unchanged", "kept offline", "disabled", "failed"]

_LOGGER = logging.getLogger(__name__)
_WAIT_SECONDS = {"offline": 30.0, "online": 60.0}
_LEAVE_SECONDS = 5.0


class _HasJson(Protocol):
    def to_json(self) -> Any: ...


class MirrorError(RuntimeError):
    """The process that talks to wandb answered with an error, or not at all."""


class _StuckError(MirrorError):
    """The process had to be killed."""


@dataclass
class _State:
    """What this process has seen of wandb so far."""

    process: "_Process | None" = None
    said: set[str] = field(default_factory=set)
    unreachable: bool = False
    given_up: bool = False


_state = _State()


def default_mode() -> Mode:
    """Read the mode that the user asked for in the environment.

    Returns:
        The value of WANDB_MODE where it is one of the modes, else "offline".

    Raises:
        ValueError: If WANDB_MODE names no mode.

    Example:
        >>> import os
        >>> os.environ["WANDB_MODE"] = "disabled"
        >>> default_mode()
        'disabled'
    """
    value = os.environ.get("WANDB_MODE") or "offline"
    value = {"run": "online", "dryrun": "offline"}.get(value, value)
    if value not in get_args(Mode):
        raise ValueError(
            f"Expected `WANDB_MODE` to be one of {', '.join(get_args(Mode))}, got {value!r}. "
            "Correct or unset the variable."
        )
    return cast(Mode, value)


def mirror(record: "Mapping[str, Any] | _HasJson", mode: Mode, folder: Path) -> Outcome:
    """Show a finished record to Weights & Biases; never raise and never hang.

    The run's group is the study, its job type the method, its tags the version and the part, its
    id the record's: mirrored again, an unchanged record logs nothing and a changed one takes the
    place of the earlier. A server that cannot be reached is tried once; that record and the later
    ones are kept offline. Waiting ends after 30 seconds, 60 online. Failures are said once, as
    warnings of the logger `benchmarks.tracking`.

    Args:
        record: The record, or its JSON values.
        mode: "offline" writes files that `python -m benchmarks sync` sends later, "online" sends
            now, "disabled" does nothing.
        folder: Where wandb's files go; created when missing.

    Returns:
        What became of it.
    """
    if mode == "disabled":
        return "disabled"
    try:
        return _mirror(_values(record), mode, folder.resolve())
    except Exception as error:  # a tracker must not end a study; the failure is said
        _say(
            f"Weights & Biases has no copy of this record ({_short(error)}). "
            "The record itself is stored; the study goes on."
        )
        return "failed"


def _mirror(record: Mapping[str, Any], mode: Mode, folder: Path) -> Outcome:
    if _state.given_up:
        return "failed"
    if importlib.util.find_spec("wandb") is None:
        _say("Weights & Biases is not installed: records are stored, not mirrored.")
        return "failed"
    folder.mkdir(parents=True, exist_ok=True)
    wanted: Mode = "offline" if _state.unreachable else mode
    entry = ledger.read(folder, str(record["id"]))
    if entry is not None and entry.mode == wanted and entry.digest == digest_of(record):
        return "unchanged"
    content = content_of(record).to_json()
    if wanted == "online":
        try:
            return _ask(content, "online", folder)
        except MirrorError as error:
            _state.unreachable = True
            _drop_partial(folder, content["run_id"])
            _say(
                f"Weights & Biases could not be reached ({_short(error)}). Runs are kept in "
                f"{folder}; `python -m benchmarks sync` sends them later."
            )
    try:
        outcome = _ask(content, "offline", folder)
    except _StuckError as error:
        _state.given_up = True
        _say(
            f"Weights & Biases hangs even offline ({_short(error)}). "
            "Records are stored; no more are mirrored in this process."
        )
        return "failed"
    return outcome if mode == "offline" else "kept offline"


def _values(record: "Mapping[str, Any] | _HasJson") -> Mapping[str, Any]:
    values = record if isinstance(record, Mapping) else record.to_json()
    # Through text once, so that what is sent and what is hashed are plain JSON.
    return cast(
        Mapping[str, Any],
        json.loads(values if isinstance(values, str) else json.dumps(values)),
    )


def _ask(content: dict[str, Any], mode: Mode, folder: Path) -> Outcome:
    if _state.process is None or not _state.process.usable():
        _state.process = _Process()
    request = {"content": content, "mode": mode, "folder": str(folder)}
    return cast(Outcome, _state.process.ask(request, _WAIT_SECONDS[mode]))


def _drop_partial(folder: Path, run_id: str) -> None:
    for partial in (folder / "wandb").glob(f"run-*-{run_id}"):
        shutil.rmtree(partial, ignore_errors=True)


def _say(sentence: str) -> None:
    if sentence not in _state.said:
        _state.said.add(sentence)
        _LOGGER.warning(sentence)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


class _Process:
    """A child that runs `benchmarks.tracking.worker`, with bounded waiting."""

    def __init__(self) -> None:
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._owner = os.getpid()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.tracking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "WANDB_ERROR_REPORTING": "false"},
            start_new_session=True,  # no terminal to ask for a key on, no Ctrl-C halfway
        )
        atexit.register(self.leave)

    def usable(self) -> bool:
        """Say whether requests can be sent from this process (not from a fork of it)."""
        return self._owner == os.getpid() and self._popen.poll() is None

    def ask(self, request: dict[str, Any], seconds: float) -> str:
        """Send one request and wait for its answer."""
        answer: list[dict[str, str]] = []
        thread = threading.Thread(target=self._exchange, args=(request, answer), daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._kill()
            raise _StuckError(f"no answer within {seconds:g} s")
        if not answer:
            code = self._popen.wait()
            raise MirrorError(f"its process ended with code {code}")
        if "error" in answer[0]:
            raise MirrorError(answer[0]["error"])
        return answer[0]["ok"]

    def _exchange(self, request: dict[str, Any], answer: list[dict[str, str]]) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            self._popen.stdin.write(json.dumps(request).encode() + b"\n")
            self._popen.stdin.flush()
            line = self._popen.stdout.readline()
        except (OSError, ValueError):
            return  # the process is gone; the caller sees that there is no answer
        if line:
            answer.append(json.loads(line))

    def leave(self) -> None:
        """Let the process end; kill it when it does not."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.leave)
        try:
            if self._popen.stdin is not None:
                self._popen.stdin.close()
            self._popen.wait(_LEAVE_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._kill()
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _kill(self) -> None:
        # wandb's own service leaves by itself when the process that started it is gone.
        self._popen.kill()
        self._popen.wait()


def leave() -> None:
    """End the process that talks to wandb, if there is one, and forget what was seen of it."""
    if _state.process is not None:
        _state.process.leave()
    _state.process = None
    _state.said.clear()
    _state.unreachable = _state.given_up = False
