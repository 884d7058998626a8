"""Find the offline runs that are finished and not yet sent.

A `.wandb` file is a header of 7 bytes and then a log in LevelDB's framing (blocks of 32 KiB; each
piece with checksum, length and kind); the pieces join to protocol buffers. A run is finished when
its last words, an exit record, are in the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _PIECE = 7, 32768, 7
_WHOLE, _FIRST, _LAST = 1, 2, 4


@dataclass(frozen=True)
class OfflineRun:
    """A run in wandb's folder.

    Args:
        folder: Where its files are.
        run_id: Its id.
        finished: Whether its training has ended.
        sent: Whether wandb has marked it as sent.
    """

    folder: Path
    run_id: str
    finished: bool
    sent: bool


def offline_runs(folder: Path) -> list[OfflineRun]:
    """List the offline runs in a folder.

    Args:
        folder: The folder given to the mirror or the logger; wandb's files are in `wandb` of it.

    Returns:
        The runs, oldest first.
    """
    return [
        OfflineRun(
            folder=path.parent,
            run_id=path.stem.removeprefix("run-"),
            finished=is_finished(path),
            sent=path.with_name(path.name + ".synced").exists(),
        )
        for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    ]


def is_finished(path: Path) -> bool:
    """Say whether a run has ended.

    Args:
        path: A `.wandb` file.

    Returns:
        Whether an exit record is in it; False for a file of another kind.
    """
    from wandb.proto import wandb_internal_pb2

    new_record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made at run time
    for message in _messages(path.read_bytes()):
        record = new_record()
        record.ParseFromString(message)
        if record.WhichOneof("record_type") == "exit":
            return True
    return False


def _messages(data: bytes) -> Iterator[bytes]:
    if data[:4] != b":W&B":
        return
    position, pending = _HEADER, b""
    while position + _PIECE <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _PIECE:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _PIECE
        piece = data[position : position + length]
        position += length
        if len(piece) < length or kind == 0:
            return  # cut off, or zeros written ahead
        pending = piece if kind in (_WHOLE, _FIRST) else pending + piece
        if kind in (_WHOLE, _LAST):
            yield pending
