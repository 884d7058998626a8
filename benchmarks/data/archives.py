"""Unpacking archives that nobody vouches for.

Only regular files and folders are written, only below the folder given, and never more bytes or
files than expected. Links, devices, absolute paths and ".." end the unpacking with an error, and
nothing of the archive is left behind.
"""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from benchmarks.data.errors import UnsafeArchive

__all__ = ["unpack"]

_CHUNK = 1 << 20
_MAX_FILES = 200_000


def unpack(
    archive: Path,
    into: Path,
    *,
    max_bytes: int,
    max_files: int = _MAX_FILES,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive.

    Files that are already there under the same names are replaced; others are left alone.

    Args:
        archive: The archive.
        into: Folder to unpack into; it is made where missing.
        max_bytes: Most bytes that may come out.
        max_files: Most files and folders that may come out.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The number of files written.

    Raises:
        UnsafeArchive: If the archive is damaged or holds anything that is refused.
    """
    into.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into))
    try:
        try:
            count = _write_members(archive, scratch, max_bytes, max_files, progress)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise UnsafeArchive(
                f"Expected {archive.name} to be a readable archive, got: {error}."
            ) from error
        _move_into_place(scratch, into)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def _write_members(
    archive: Path,
    scratch: Path,
    max_bytes: int,
    max_files: int,
    progress: Callable[[int], None] | None,
) -> int:
    files = members = written = 0
    for name, is_folder, source in _members(archive):
        members += 1
        if members > max_files:
            raise UnsafeArchive(
                f"Expected {archive.name} to hold at most {max_files:,} files, got more."
            )
        target = _inside(scratch, name, archive)
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with closing(source()) as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                written += len(chunk)
                if written > max_bytes:
                    raise UnsafeArchive(
                        f"Expected {archive.name} to unpack to at most {max_bytes:,} bytes, "
                        f"got more at {name!r}."
                    )
                writer.write(chunk)
                if progress is not None:
                    progress(len(chunk))
        files += 1
    return files


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], IO[bytes]]]]:
    """Go through an archive: name, whether it is a folder, and a function that opens it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(archive, info.filename, "is not a regular file")
                yield info.filename, info.is_dir(), partial(packed.open, info)
        return
    with tarfile.open(archive, mode="r:*") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refused(archive, member.name, "is a link or a device, not a regular file")
            try:
                tarfile.data_filter(member, "/nowhere")
            except tarfile.FilterError as error:
                raise _refused(archive, member.name, f"is refused: {error}") from error
            yield member.name, member.isdir(), partial(_opened, tar, member)


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{member.name!r} cannot be read")
    return source


def _inside(scratch: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise _refused(archive, name, "does not stay below its folder")
    if path.parts and path.parts[0].endswith(":"):
        raise _refused(archive, name, "names a drive")
    target = scratch.joinpath(*path.parts)
    if not target.resolve().is_relative_to(scratch.resolve()):
        raise _refused(archive, name, "does not stay below its folder")
    return target


def _refused(archive: Path, name: str, why: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"Expected {archive.name} to hold plain files and folders only, got {name!r}, which {why}."
        " Nothing was unpacked."
    )


def _move_into_place(scratch: Path, into: Path) -> None:
    for folder, _, files in os.walk(scratch):
        target = into / Path(folder).relative_to(scratch)
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            (Path(folder) / file).replace(target / file)
