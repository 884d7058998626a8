"""Folders of files, written and compared as a whole."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["differences", "replace_folder", "write_file"]


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: Where; missing folders are made.
        content: What.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def replace_folder(folder: Path, files: Mapping[str, bytes], owned: tuple[str, ...]) -> None:
    """Write files into a folder and remove what an earlier report left in it.

    Args:
        folder: Where.
        files: Content by path within the folder.
        owned: Folders within it in which nothing else may stay.
    """
    for name, content in sorted(files.items()):
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_file(path, content)
    for name in owned:
        for path in sorted((folder / name).glob("*")):
            if path.is_file() and path.relative_to(folder).as_posix() not in files:
                path.unlink()


def differences(folder: Path, files: Mapping[str, bytes], owned: tuple[str, ...]) -> list[str]:
    """Tell how a folder differs from what it should hold.

    Args:
        folder: Where.
        files: Content by path within the folder.
        owned: Folders within it in which nothing else may be.

    Returns:
        A sentence a file; none where all is as it should be.
    """
    found = []
    for name, content in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing.")
        elif path.read_bytes() != content:
            found.append(f"{path} differs from what its records produce.")
    for name in owned:
        found += [
            f"{path} is not produced by the records."
            for path in sorted((folder / name).glob("*"))
            if path.relative_to(folder).as_posix() not in files
        ]
    return found
