"""The side of the mirror that lives in the study's process."""

import atexit
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from benchmarks.tracking import ledger
from benchmarks.tracking.content import AXES, Content, content_of, digest_of
from mas_avalanche._wandb_process import (
    Mode,
    WandbError,
    WandbProcess,
    WandbStuckError,
    is_installed,
    open_request,
    open_run,
    short,
)
from mas_avalanche._wandb_process import mode_from_environment as default_mode

__all__ = ["Mode", "Outcome", "default_mode", "leave", "mirror"]

Outcome = Literal["written", "updated", "unchanged", "kept offline", "disabled", "failed"]

_LOGGER = logging.getLogger(__name__)
_WAIT_SECONDS = {"offline": 45.0, "online": 60.0}


class _HasJson(Protocol):
    def to_json(self) -> Any: ...


@dataclass
class _State:
    """What this process has seen of wandb so far."""

    process: WandbProcess | None = None
    said: set[str] = field(default_factory=set)
    unreachable: bool = False
    given_up: bool = False


_state = _State()


def mirror(record: "Mapping[str, Any] | _HasJson", mode: Mode, folder: Path) -> Outcome:
    """Show a finished record to Weights & Biases; never raise and never hang.

    The run's group is the study, its job type the method, its tags the version and the part, its
    id the record's: mirrored again, an unchanged record logs nothing and a changed one takes the
    place of the earlier. A server that cannot be reached is tried once; that record and the later
    ones are kept offline. Waiting ends after 45 seconds, 60 online. Failures are said once, as
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
            f"Weights & Biases has no copy of this record ({short(error)}). "
            "The record itself is stored; the study goes on."
        )
        return "failed"


def _mirror(record: Mapping[str, Any], mode: Mode, folder: Path) -> Outcome:
    if _state.given_up:
        return "failed"
    if not is_installed():
        _say("Weights & Biases is not installed: records are stored, not mirrored.")
        return "failed"
    folder.mkdir(parents=True, exist_ok=True)
    wanted: Mode = "offline" if _state.unreachable else mode
    entry = ledger.read(folder, str(record["id"]))
    same = entry is not None and entry.digest == digest_of(record)
    sent = entry is not None and (entry.mode == "online" or ledger.is_sent(folder, entry))
    if same and entry is not None and (sent or entry.mode == wanted):
        return "unchanged"
    content = content_of(record)
    try:
        answer = _open(content, wanted, folder, resume=sent)
        if answer["why"]:
            _state.unreachable = True
            _say(
                f"Weights & Biases could not be reached ({short(answer['why'])}). Runs are kept in "
                f"{folder}; `python -m benchmarks sync` sends them later."
            )
        outcome = _write(content, answer, wanted)
    except WandbError as error:
        if wanted == "online":
            _state.unreachable = True
            _say(
                f"Weights & Biases failed while sending ({short(error)}). Runs are kept in "
                f"{folder}; `python -m benchmarks sync` sends them later."
            )
            return _mirror(record, mode, folder)
        if not isinstance(error, WandbStuckError):
            raise
        _state.given_up = True
        _say(
            f"Weights & Biases hangs even offline ({short(error)}). "
            "Records are stored; no more are mirrored in this process."
        )
        return "failed"
    files = str(Path(answer["files"]).relative_to(folder))
    ledger.write(folder, content.run_id, ledger.Entry(content.digest, answer["mode"], files))
    if entry is not None and not sent and entry.files != files:
        shutil.rmtree(folder / entry.files, ignore_errors=True)
    return "kept offline" if answer["mode"] != mode else outcome


def _open(content: Content, mode: Mode, folder: Path, *, resume: bool) -> dict[str, Any]:
    request = open_request(
        content.run_id,
        mode,
        folder,
        AXES,
        name=content.name,
        group=content.group,
        job_type=content.job_type,
        tags=list(content.tags),
        config=content.config,
        resume=resume,
    )
    before = _state.process
    _state.process, answer = open_run(request, _WAIT_SECONDS[mode], before)
    if _state.process is not before:
        atexit.register(_state.process.leave)
    return answer


def _write(content: Content, answer: dict[str, Any], mode: Mode) -> Outcome:
    """Fill an open run: a new one whole, a resumed one with what can be written anew."""
    outcome: Outcome = "written"
    requests: list[dict[str, Any]] = []
    if answer["resumed"]:
        outcome = "unchanged" if answer["digest"] == content.digest else "updated"
        requests.append({"do": "config", "values": content.config})
    else:
        requests += [
            {"do": "log", "axis": row.axis, "at": row.at, "values": row.values}
            for row in content.rows
        ]
    if outcome != "unchanged":
        requests += [
            {"do": "final", "values": content.final},
            {"do": "summary", "values": content.summary | {"record_digest": content.digest}},
            {
                "do": "artifact",
                "name": f"record-{content.run_id}",
                "type": "record",
                "metadata": {"digest": content.digest},
                "files": {"record.json": content.artifact},
            },
        ]
    requests.append({"do": "close", "exit_code": int(content.failed)})
    if _state.process is not None:
        try:
            _state.process.ask(requests, _WAIT_SECONDS[mode])
        except WandbError:
            _state.process.kill()  # half a run is open in it
            shutil.rmtree(answer["files"], ignore_errors=True)
            raise
    return outcome


def _values(record: "Mapping[str, Any] | _HasJson") -> Mapping[str, Any]:
    values = record if isinstance(record, Mapping) else record.to_json()
    # Through text once, so that what is sent and what is hashed are plain JSON.
    return cast(
        Mapping[str, Any],
        json.loads(values if isinstance(values, str) else json.dumps(values)),
    )


def _say(sentence: str) -> None:
    if sentence not in _state.said:
        _state.said.add(sentence)
        _LOGGER.warning(sentence)


def leave() -> None:
    """End the process that talks to wandb, if there is one, and forget what was seen of it."""
    if _state.process is not None:
        atexit.unregister(_state.process.leave)
        _state.process.leave()
    _state.process = None
    _state.said.clear()
    _state.unreachable = _state.given_up = False
