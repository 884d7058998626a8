"""Fetching files over HTTP: resumed when broken off, checked, and never larger than expected.

A transfer is written to ``<name>.part``, with the server's mark of the file's version (ETag or
date) in ``<name>.part.json``. A later call goes on where the bytes end, if the server still has
the same version. The finished file is renamed into place only when its size and checksum are
right.
"""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.errors import TransferError
from benchmarks.data.locks import locked

__all__ = ["fetch", "md5_of"]

_CHUNK = 1 << 18
_TIMEOUT = 30.0
_MAGIC = {
    (".tgz", ".gz"): b"\x1f\x8b",
    (".zip",): b"PK",
}

Progress = Callable[[int, int | None], None]
"""Called with the bytes there are and the bytes there will be (None where unknown)."""


@dataclass
class _Part:
    """What there is of a file so far."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str | None:
        """The server's mark of the version of which these bytes are the beginning."""
        try:
            mark = json.loads(self.state.read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return mark if isinstance(mark, str) else None

    def begin(self, version: str | None) -> None:
        self.discard()
        self.path.touch()
        if version is not None:
            self.state.write_text(json.dumps({"version": version}))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    md5: str | None,
    max_bytes: int,
    attempts: int = 3,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Path:
    """Fetch one file.

    Args:
        urls: Addresses (http or https) of the same file; a later one is tried when an earlier
            one fails.
        target: Where the file goes; if it is there and its checksum is right, nothing is fetched.
        md5: Published checksum; None where none is known.
        max_bytes: Most bytes that are accepted.
        attempts: How often one address is tried, each time going on where the last one ended.
        progress: See :data:`Progress`.
        pause: Seconds between two attempts.

    Returns:
        `target`.

    Raises:
        TransferError: If no address gives the right file; a part that can be continued stays.
    """
    failures = []
    with locked(target.with_name(f".{target.name}.lock")):
        if target.exists() and (md5 is None or md5_of(target) == md5):
            return target
        part = _Part(target.with_name(f"{target.name}.part"))
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise TransferError(f"Expected an http or https address, got {url!r}.")
            try:
                _fetch_one(url, part, max_bytes, attempts, progress, pause)
                _check(part, url, md5, target.name)
            except TransferError as error:
                failures.append(str(error))
                continue
            _finish(part, target)
            return target
    raise TransferError(" ".join(failures))


def md5_of(path: Path) -> str:
    """Compute the checksum of a file.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch_one(
    url: str,
    part: _Part,
    max_bytes: int,
    attempts: int,
    progress: Progress | None,
    pause: float,
) -> None:
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * attempt)
        try:
            total = _continue(url, part, max_bytes, progress)
        except urllib.error.HTTPError as error:
            if error.code in (408, 429) or error.code >= 500:
                problem = f"The server of {url} answered {error.code} {error.reason}."
                continue
            raise TransferError(
                f"The server of {url} answered {error.code} {error.reason}."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            problem = f"The transfer from {url} broke off: {_reason(error)}."
            continue
        if total is None or part.size == total:
            return
        problem = f"The transfer from {url} ended early, after {part.size:,} of {total:,} bytes."
    kept = f" {part.size:,} bytes are kept: the same command goes on from there."
    raise TransferError(problem + (kept if part.size else ""))


def _continue(url: str, part: _Part, max_bytes: int, progress: Progress | None) -> int | None:
    """Fetch what is missing; return the size that the whole file should have."""
    headers = {"User-Agent": "mas-avalanche", "Accept-Encoding": "identity"}
    have, version = part.size, part.version
    if have and version is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        # The part is not a beginning of what the server has now.
        part.discard()
        return _continue(url, part, max_bytes, progress)
    with response:
        offset, total = _span(response)
        if response.status == 206 and offset != have:
            part.discard()
            raise TransferError(f"The server of {url} answered with another part of the file.")
        if response.status != 206:
            part.begin(response.headers.get("ETag") or response.headers.get("Last-Modified"))
        _check_room(url, part, total, max_bytes)
        with part.path.open("ab") as writer:
            done = part.size
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if done > max_bytes:
                    writer.close()
                    part.discard()
                    raise _too_large(url, f"more than {max_bytes:,}", max_bytes)
                writer.write(chunk)
                if progress is not None:
                    progress(done, total)
    return total


def _span(response: Any) -> tuple[int, int | None]:
    """Read where the answer begins and how long the whole file is."""
    if response.status == 206:
        # Content-Range: bytes 100-199/200
        span, _, whole = response.headers.get("Content-Range", "").partition("/")
        start = span.removeprefix("bytes").strip().partition("-")[0]
        return (int(start) if start.isdigit() else -1), (int(whole) if whole.isdigit() else None)
    length = response.headers.get("Content-Length", "")
    return 0, (int(length) if length.isdigit() else None)


def _check_room(url: str, part: _Part, total: int | None, max_bytes: int) -> None:
    if total is None:
        return
    if total > max_bytes:
        part.discard()
        raise _too_large(url, f"{total:,}", max_bytes)
    free = shutil.disk_usage(part.path.parent).free
    if total - part.size > free:
        raise TransferError(
            f"Expected room for {total - part.size:,} bytes in {part.path.parent}, "
            f"got {free:,} free."
        )


def _too_large(url: str, got: str, max_bytes: int) -> TransferError:
    return TransferError(f"Expected {url} to have at most {max_bytes:,} bytes, got {got}.")


def _check(part: _Part, url: str, md5: str | None, name: str) -> None:
    if md5 is not None:
        got = md5_of(part.path)
        if got != md5:
            part.discard()
            raise TransferError(
                f"Expected the file from {url} to have the md5 {md5}, got {got}. It was deleted."
            )
        return
    with part.path.open("rb") as handle:
        start = handle.read(4)
    for endings, magic in _MAGIC.items():
        if name.endswith(endings) and not start.startswith(magic):
            part.discard()
            raise TransferError(
                f"Expected {url} to give an archive, got something else (a web page, perhaps). "
                "It was deleted."
            )


def _finish(part: _Part, target: Path) -> None:
    with part.path.open("rb") as handle:
        os.fsync(handle.fileno())
    part.path.replace(target)
    part.state.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__
