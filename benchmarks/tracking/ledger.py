"""Which records were mirrored to a folder, so that none is mirrored twice."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.files import write_atomic


@dataclass(frozen=True)
class Entry:
    """One mirrored record.

    Args:
        digest: Hash of the record's values.
        mode: "offline" or "online".
        files: wandb's folder of the run, relative to the mirror's folder.
    """

    digest: str
    mode: str
    files: str


def read(folder: Path, run_id: str) -> Entry | None:
    """Look a record up.

    Args:
        folder: The mirror's folder.
        run_id: The record's id.

    Returns:
        The entry, or None where there is none or its run is gone or the entry is unreadable.
    """
    try:
        entry = Entry(**json.loads(_path(folder, run_id).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # no entry costs a second mirror under the same id, nothing else
    return entry if entry.mode == "online" or (folder / entry.files).is_dir() else None


def write(folder: Path, run_id: str, entry: Entry) -> None:
    """Enter a record, whole or not at all.

    Args:
        folder: The mirror's folder.
        run_id: The record's id.
        entry: What was mirrored.
    """
    path = _path(folder, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asdict(entry)))


def is_sent(folder: Path, entry: Entry) -> bool:
    """Say whether wandb has marked an offline run as sent.

    Args:
        folder: The mirror's folder.
        entry: The run.

    Returns:
        True where the marker lies beside the run's file.
    """
    return any((folder / entry.files).glob("*.wandb.synced"))


def _path(folder: Path, run_id: str) -> Path:
    return folder / "mirrored" / f"{run_id}.json"
