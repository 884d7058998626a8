"""Read wandb's offline files back without a server.

A `.wandb` file is a 7-byte header (":W&B", magic, version) and then a log in LevelDB's framing:
blocks of 32 KiB, each piece with checksum, length and kind. The pieces join to protocol buffers.
"""

import contextlib
import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    """Yield the protocol buffers of a `.wandb` file, up to where it was cut off."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    assert struct.unpack("<HB", data[4:7]) == (0xBEE1, 0)
    position, pending = 7, b""
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        if position + 7 > len(data):
            return
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        position += 7
        piece = data[position : position + length]
        position += length
        if len(piece) < length:
            return
        pending = piece if kind in (_WHOLE, _FIRST) else pending + piece
        if kind in (_WHOLE, _LAST):
            yield pending


@dataclass
class OfflineRun:
    """What an offline file says."""

    run: Any = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    exit_code: int | None = None


def _set(target: dict[str, Any], items: Any) -> None:
    for item in items:
        path = list(item.nested_key) or [item.key]
        place = target
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = json.loads(item.value_json)


def read_run(path: Path) -> OfflineRun:
    """Read one `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    found = OfflineRun()
    for message in messages(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        found.kinds[kind] += 1
        if kind == "run":
            found.run = record.run
            _set(found.config, record.run.config.update)
        elif kind == "config":
            _set(found.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _set(row, record.history.item)
            found.rows.append(row)
        elif kind == "summary":
            _set(found.summary, record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            found.step_metrics[name] = record.metric.step_metric
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def runs_in(folder: Path) -> list[OfflineRun]:
    """Read all offline runs below a folder, oldest first."""
    paths = sorted(folder.glob("**/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    return [read_run(path) for path in paths]


def service_processes() -> list[int]:
    """List wandb's background services that this process or its children started."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "wandb-core" in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def wait_until(condition: Any, seconds: float) -> bool:
    """Poll until something is so, or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
