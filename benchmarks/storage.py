"""Where a store lies: a plain folder, or any place that fsspec knows by a URL.

Both keep named contents, each written whole or not at all, and both let one worker at a time claim
a name. In a folder a claim is a lock of the operating system, which ends with the process however
it ends. At a URL it is an object that its owner renews; one that is not renewed for two minutes is
free again. The clocks of the machines that share such a store may differ by a minute, not more.
"""

import contextlib
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.files import write_atomic

__all__ = ["Bucket", "Claim", "Folder", "Storage", "StoreError", "open_storage"]

RENEW_SECONDS = 20.0
EXPIRE_SECONDS = 120.0

WHOLE = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "r2", "hf", "memory"}
)
"""Protocols that show an object only once it is whole; elsewhere it is moved into its place."""

EXCLUSIVE = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols that refuse to create an object that exists; elsewhere a claim is looked at again."""

SETTLE_SECONDS = 2.0
CHUNK = 512


class StoreError(RuntimeError):
    """The store cannot be read or written; the message says where and what to do."""


class Claim:
    """A name that is ours until the block ends, or until the claim is lost."""

    def __init__(self, held: Callable[[], bool] = lambda: True) -> None:
        self._held = held

    def held(self) -> bool:
        """Say whether it is still ours; another worker takes a claim that was not renewed."""
        return self._held()


class Storage(Protocol):
    """Named contents in one place."""

    def where(self, name: str = "") -> str:
        """Say where a content lies or would lie."""

    def prepare(self) -> None:
        """Make the place and see that it can be written to."""

    def names(self, ending: str) -> dict[str, int]:
        """Return the names that have an ending, with the size of each in bytes."""

    def size(self, name: str) -> int | None:
        """Return the size of a content in bytes, None where there is none."""

    def read(self, name: str) -> bytes | None:
        """Return a content, None where there is none."""

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Return many contents, those that are gone left out."""

    def write(self, name: str, content: bytes) -> None:
        """Put a content in place of an older one, whole or not at all."""

    def remove(self, name: str) -> None:
        """Forget a content, if there is one."""

    def claim(self, name: str) -> AbstractContextManager[Claim | None]:
        """Claim a name for a block; None where another worker has it."""


def open_storage(root: str | Path, study: str) -> Storage:
    """Open the place of one study's records.

    Args:
        root: A folder, or a URL that fsspec knows; ``file://`` is a folder.
        study: Name of the study.

    Raises:
        StoreError: If the URL's protocol is unknown or the package for it is missing.
    """
    text = str(root)
    protocol, separator, rest = text.partition("://")
    if not separator:
        return Folder(Path(text) / study)
    if protocol in ("file", "local"):
        return Folder(Path(rest) / study)
    return Bucket(text.rstrip("/"), study)


class Folder:
    """A folder of this machine, or one that several machines mount.

    Args:
        path: It is made when it is first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str = "") -> str:
        """Return the path."""
        return str(self.path / name)

    def prepare(self) -> None:
        """Make the folder and write an empty file."""
        self.write(".probe", b"")
        self.remove(".probe")

    def names(self, ending: str) -> dict[str, int]:
        """Return the names of files in the folder."""
        with self._explained("read"):
            if not self.path.exists():
                return {}
            with os.scandir(self.path) as entries:
                return {e.name: e.stat().st_size for e in entries if e.name.endswith(ending)}

    def size(self, name: str) -> int | None:
        """Return the size of a file."""
        with self._explained(f"read {name} in"):
            try:
                return (self.path / name).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """Read a file."""
        with self._explained(f"read {name} in"):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Read one file after the other."""
        for name in names:
            content = self.read(name)
            if content is not None:
                yield name, content

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside and rename it."""
        path = self.path / name
        with self._explained("write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._explained("remove a record from"):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def claim(self, name: str) -> Iterator[Claim | None]:
        """Lock a file; the lock ends with the process."""
        path = self.path / ".claims" / name
        with self._explained("write to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = _lock(path)
        if handle is None:
            yield None
            return
        try:
            yield Claim()
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _error(action, self.where(), error.strerror or error) from error


def _lock(path: Path) -> int | None:
    """Open and lock a file that is at its path once it is locked; None where it is taken."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who had it may have removed the file between the two lines above.
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


class Bucket:
    """A place behind a URL, by fsspec.

    Args:
        url: Of the store, without a slash at its end.
        study: Name of the study: the folder in it.

    Raises:
        StoreError: If the URL's protocol is unknown or the package for it is missing.
    """

    def __init__(self, url: str, study: str) -> None:
        import fsspec

        self.url = f"{url}/{study}"
        try:
            self.fs, self.root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError, TypeError) as error:
            raise StoreError(
                f"Expected --store to be a folder or a URL that fsspec can open, got {url}: "
                f"{error}. A URL needs fsspec and the package for its protocol (s3fs for s3://)."
            ) from error
        protocols = self.fs.protocol
        found = {protocols} if isinstance(protocols, str) else set(protocols)
        self.writes_whole = bool(found & WHOLE)
        self.settle_seconds = 0.0 if found & EXCLUSIVE else SETTLE_SECONDS

    def where(self, name: str = "") -> str:
        """Return the URL."""
        return f"{self.url}/{name}" if name else self.url

    def prepare(self) -> None:
        """Write an empty object."""
        with self._explained("prepare"):
            if not self.writes_whole:
                self.fs.makedirs(self.root, exist_ok=True)
        self.write(".probe", b"")
        self.remove(".probe")

    def names(self, ending: str) -> dict[str, int]:
        """List the objects in the study's folder."""
        with self._explained("read"):
            listed = self._list(self.root)
        return {name: size for name, size in listed.items() if name.endswith(ending)}

    def size(self, name: str) -> int | None:
        """Ask for the size of an object."""
        with self._explained(f"read {name} in"):
            try:
                return int(self.fs.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """Fetch an object."""
        with self._explained(f"read {name} in"):
            try:
                content: bytes = self.fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return content

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Fetch many objects at a time."""
        wanted = list(names)
        for start in range(0, len(wanted), CHUNK):
            paths = {self._path(name): name for name in wanted[start : start + CHUNK]}
            with self._explained("read"):
                found = self.fs.cat(list(paths), on_error="return")
                for content in found.values():
                    gone = isinstance(content, FileNotFoundError)
                    if isinstance(content, Exception) and not gone:
                        raise content
            for path, content in found.items():
                if isinstance(content, bytes):
                    yield paths[path], content

    def write(self, name: str, content: bytes) -> None:
        """Put an object; where the protocol would show it in parts, beside and then moved."""
        path = self._path(name)
        with self._explained("write to"):
            self._put(path, content)

    def remove(self, name: str) -> None:
        """Delete an object."""
        with self._explained("remove a record from"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    @contextmanager
    def claim(self, name: str) -> Iterator[Claim | None]:
        """Create an object that none but us has, and renew it until the block ends.

        A claim that has expired is not taken from its place but followed by one of the next
        number, which only one worker can create; the highest number is the one that counts.
        """
        with self._explained("write to"):
            lease = self._take(name)
        if lease is None:
            yield None
            return
        lease.start()
        try:
            yield Claim(lease.held)
        finally:
            lease.end()

    def _take(self, name: str) -> "_Lease | None":
        folder = self._path(f".claims/{name}")
        numbers = self._numbers(folder)
        if numbers and self._is_fresh(f"{folder}/{numbers[-1]}"):
            return None
        lease = _Lease(self, folder, numbers[-1] + 1 if numbers else 0)
        if not self.writes_whole:
            self.fs.makedirs(folder, exist_ok=True)
        try:
            self.fs.pipe_file(lease.path, _stamp(lease.owner), mode="create")
        except FileExistsError:
            return None
        time.sleep(self.settle_seconds)
        return lease if lease.held() else None

    def _put(self, path: str, content: bytes) -> None:
        if self.writes_whole:
            self.fs.pipe_file(path, content)
            return
        folder, _, last = path.rpartition("/")
        self.fs.makedirs(folder, exist_ok=True)
        beside = f"{folder}/.{last}.{secrets.token_hex(8)}.tmp"
        self.fs.pipe_file(beside, content)
        self.fs.mv(beside, path)

    def _numbers(self, folder: str) -> list[int]:
        return sorted(int(name) for name in self._list(folder) if name.isdecimal())

    def _stamp(self, path: str) -> dict[str, Any] | None:
        """Read a claim; None where it is gone, or nothing that a worker would have written."""
        try:
            stamp = json.loads(self.fs.cat_file(path))
        except (FileNotFoundError, ValueError):
            return None
        fits = isinstance(stamp, dict) and isinstance(stamp.get("renewed"), float)
        return stamp if fits else None

    def _is_fresh(self, path: str) -> bool:
        stamp = self._stamp(path)
        return stamp is not None and abs(time.time() - stamp["renewed"]) < EXPIRE_SECONDS

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _list(self, path: str) -> dict[str, int]:
        try:
            entries = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        files = [entry for entry in entries if entry["type"] == "file"]
        return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in files}

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            # Packages for protocols raise errors of their own kinds beside OSError.
            raise _error(action, self.url, error) from error


def _stamp(owner: str) -> bytes:
    return json.dumps({"owner": owner, "renewed": time.time()}).encode()


class _Lease:
    """A claim at a URL, renewed by a thread."""

    def __init__(self, bucket: Bucket, folder: str, number: int) -> None:
        self.bucket = bucket
        self.folder = folder
        self.number = number
        self.path = f"{folder}/{number}"
        self.owner = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def held(self) -> bool:
        with self.bucket._explained("read"):
            if self.bucket._numbers(self.folder)[-1:] != [self.number]:
                return False
            stamp = self.bucket._stamp(self.path)
        return stamp is not None and stamp.get("owner") == self.owner

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            # A store that is out of reach is asked again; meanwhile the claim may expire.
            with contextlib.suppress(StoreError):
                if not self.held():
                    return
                with self.bucket._explained("write to"):
                    self.bucket._put(self.path, _stamp(self.owner))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        # What cannot be removed expires.
        with contextlib.suppress(StoreError):
            if not self.held():
                return
            with self.bucket._explained("remove a claim from"):
                for number in self.bucket._numbers(self.folder):
                    self.bucket.fs.rm_file(f"{self.folder}/{number}")


def _error(action: str, place: str, reason: Any) -> StoreError:
    return StoreError(
        f"Expected to {action} the store {place}, got: {reason}. "
        "Records written before are whole; make room or choose another --store, and run again: "
        "what is finished is not repeated."
    )
