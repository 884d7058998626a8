"""The store: a folder with one file a record, written whole or not at all.

A record lies at ``<store>/<study>/<id>.json``, where the id is a hash of the run's whole
configuration and of the code that can change results. So a finished run is found again, and one
whose configuration or code has changed is another run.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.files import write_atomic
from benchmarks.record import Record, RecordError, table_key

__all__ = ["Store", "StoreError"]

MAX_BYTES = 2**26
"""Longest file that is read as a record."""


class StoreError(RuntimeError):
    """The store cannot be read or written; the message says where and what to do."""


class Store:
    """The records of one study in a folder.

    Args:
        root: The store's folder; it is made when it is first written to.
        study: Name of the study.
    """

    def __init__(self, root: str | Path, study: str) -> None:
        self.root = Path(root)
        self.study = study
        self.folder = self.root / study

    def prepare(self) -> None:
        """Make the folder and see that it can be written to.

        Raises:
            StoreError: If it cannot.
        """
        with self._explained("prepare"):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".probe"
            write_atomic(probe, "")
            probe.unlink(missing_ok=True)

    def path(self, id: str) -> Path:
        """Say where a record lies or would lie."""
        return self.folder / f"{id}.json"

    def write(self, record: Record) -> Path:
        """Keep a record, in place of one of the same run.

        Returns:
            Where it lies.

        Raises:
            StoreError: If it cannot be written; what was there before is as it was.
        """
        path = self.path(record.id)
        with self._explained("write to"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, record.to_json() + "\n")
        return path

    def read(self, id: str) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
            StoreError: If the file cannot be read.
            RecordError: If it is no record, or not that of the run its name stands for.
        """
        path = self.path(id)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise RecordError(
                    f"Expected {path} to be a record, got a file of more than {MAX_BYTES} bytes."
                )
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise RecordError(
                f"Expected {path} to hold text, got other bytes. Delete it and run the study again."
            ) from error
        except OSError as error:
            raise StoreError(f"Expected to read {path}, got: {error.strerror or error}.") from error
        record = Record.from_json(text, str(path))
        if record.id != id or table_key(record.config, record.code_version) != id:
            raise RecordError(
                f"Expected {path} to hold the record of the run it is named after, got one whose "
                "configuration has another hash. It was changed or renamed: delete it and run the "
                "study again."
            )
        return record

    def records(self) -> list[Record]:
        """Return all records of the study, in the order of their ids.

        Raises:
            StoreError: If the folder or a file cannot be read.
            RecordError: If a file in it is no record.
        """
        if not self.folder.exists():
            return []
        with self._explained("read"):
            ids = sorted(path.stem for path in self.folder.glob("*.json"))
        found = [self.read(id) for id in ids]
        return [record for record in found if record is not None]

    def checkpoint(self, id: str) -> Path:
        """Say where an unfinished run keeps its state."""
        return self.folder / ".checkpoints" / f"{id}.pt"

    def remove(self, id: str) -> None:
        """Forget a record.

        Raises:
            StoreError: If it cannot be removed.
        """
        with self._explained("remove a record from"):
            self.path(id).unlink(missing_ok=True)

    @contextmanager
    def claim(self, id: str) -> Iterator[bool]:
        """Claim a run for this process, so that no other one does it at the same time.

        The claim ends with the block, and with the process however it ends.

        Args:
            id: The run's id.

        Yields:
            Whether the run is ours; False where another process is at it.

        Raises:
            StoreError: If the store cannot be written to.
        """
        folder = self.folder / ".claims"
        with self._explained("write to"):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / id
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"Expected to {action} the store {self.folder}, got: {error.strerror or error}. "
                "Records written before are whole; make room or choose another --store, and run "
                "again: what is finished is not repeated."
            ) from error
