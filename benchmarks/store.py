"""The store: one content a record, written whole or not at all.

A record lies at ``<store>/<study>/<id>.json``, where the id is a hash of the run's whole
configuration and of the code that can change results. So a finished run is found again, and one
whose configuration or code has changed is another run. The store is a folder or a URL; what it
holds may have been written by others, so records are checked and checkpoints load without running
code.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.record import Record, RecordError, table_key
from benchmarks.storage import Claim, StoreError, open_storage

__all__ = ["CheckpointPlace", "Store", "StoreError"]

MAX_BYTES = 2**26
"""Longest content that is read as a record."""


class Store:
    """The records of one study.

    Args:
        root: The store's folder, made when it is first written to, or a URL that fsspec knows.
        study: Name of the study.

    Raises:
        StoreError: If it is a URL that cannot be opened.
    """

    def __init__(self, root: str | Path, study: str) -> None:
        self.root = str(root)
        self.study = study
        self.storage = open_storage(root, study)

    def prepare(self) -> None:
        """See that the store can be written to, and make its folder.

        Raises:
            StoreError: If it cannot.
        """
        self.storage.prepare()

    def where(self, id: str | None = None) -> str:
        """Say where a record lies or would lie.

        Args:
            id: The record; None for the folder of all.
        """
        return self.storage.where("" if id is None else f"{id}.json")

    def write(self, record: Record) -> str:
        """Keep a record, in place of one of the same run.

        Returns:
            Where it lies.

        Raises:
            StoreError: If it cannot be written; what was there before is as it was.
        """
        self.storage.write(f"{record.id}.json", f"{record.to_json()}\n".encode())
        return self.where(record.id)

    def read(self, id: str) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
            StoreError: If it cannot be read.
            RecordError: If it is no record, or not that of the run its name stands for.
        """
        size = self.storage.size(f"{id}.json")
        if size is None:
            return None
        self._check_size(id, size)
        content = self.storage.read(f"{id}.json")
        return None if content is None else self._parse(id, content)

    def records(self) -> list[Record]:
        """Return all records of the study, in the order of their ids.

        Raises:
            StoreError: If the store cannot be read.
            RecordError: If something in it is no record.
        """
        sizes = self.storage.names(".json")
        for name, size in sizes.items():
            self._check_size(name.removesuffix(".json"), size)
        with _uncollected():
            return [
                self._parse(name.removesuffix(".json"), content)
                for name, content in self.storage.read_all(sorted(sizes))
            ]

    def _check_size(self, id: str, size: int) -> None:
        if size > MAX_BYTES:
            raise RecordError(
                f"Expected {self.where(id)} to be a record, got more than {MAX_BYTES} bytes."
            )

    def _parse(self, id: str, content: bytes) -> Record:
        where = self.where(id)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise RecordError(
                f"Expected {where} to hold text, got other bytes. Delete it and run the study "
                "again."
            ) from error
        record = Record.from_json(text, where)
        if record.id != id or table_key(record.config, record.code_version) != id:
            raise RecordError(
                f"Expected {where} to hold the record of the run it is named after, got one whose "
                "configuration has another hash. It was changed or renamed: delete it and run the "
                "study again."
            )
        return record

    def checkpoint(self, id: str) -> "CheckpointPlace":
        """Return the place where an unfinished run keeps its state."""
        return CheckpointPlace(self, id)

    def remove(self, id: str) -> None:
        """Forget a record.

        Raises:
            StoreError: If it cannot be removed.
        """
        self.storage.remove(f"{id}.json")

    def claim(self, id: str) -> AbstractContextManager[Claim | None]:
        """Claim a run for this process, so that no other one does it at the same time.

        The claim ends with the block. Where the process ends without it, the claim in a folder ends
        with the process, and one at a URL after two minutes.

        Args:
            id: The run's id.

        Returns:
            A context; its value is None where another process is at the run.

        Raises:
            StoreError: On entry, if the store cannot be written to.
        """
        return self.storage.claim(id)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spare the garbage collector from walking over thousands of records again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CheckpointPlace:
    """Where one unfinished run keeps its state in a store.

    Args:
        store: The store.
        id: The run.
    """

    def __init__(self, store: Store, id: str) -> None:
        self.storage = store.storage
        self.name = f".checkpoints/{id}.pt"

    def read(self) -> bytes | None:
        """Return the state that was written last, None where there is none."""
        return self.storage.read(self.name)

    def write(self, content: bytes) -> None:
        """Put a state in place of the one before, whole or not at all."""
        self.storage.write(self.name, content)

    def remove(self) -> None:
        """Forget the state."""
        self.storage.remove(self.name)

    def __str__(self) -> str:
        return self.storage.where(self.name)
