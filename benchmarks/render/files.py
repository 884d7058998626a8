"""Folders of files, written and compared as a whole."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.files import write_atomic

__all__ = ["differences", "replace_folder"]


Files = Iterable[tuple[str, bytes]]


def replace_folder(folder: Path, files: Files, owned: tuple[str, ...]) -> None:
    """Write files into a folder and remove what an earlier report left in it.

    Args:
        folder: Where.
        files: Path within the folder, and content, of each.
        owned: Folders within it in which nothing else may stay.
    """
    written = set()
    for name, content in files:
        path = folder / name
        written.add(name)
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
            path.chmod(0o644)  # reports are served to others
    for name in owned:
        for path in sorted((folder / name).glob("*")):
            if path.is_file() and path.relative_to(folder).as_posix() not in written:
                path.unlink()


def differences(folder: Path, files: Files, owned: tuple[str, ...]) -> list[str]:
    """Tell how a folder differs from what it should hold.

    Args:
        folder: Where.
        files: Path within the folder, and content, of each.
        owned: Folders within it in which nothing else may be.

    Returns:
        A sentence a file; none where all is as it should be.
    """
    found, produced = [], set()
    for name, content in files:
        path = folder / name
        produced.add(name)
        if not path.is_file():
            found.append(f"{path} is missing.")
        elif path.read_bytes() != content:
            found.append(f"{path} differs from what its records produce.")
    found.sort()
    for name in owned:
        found += [
            f"{path} is not produced by the records."
            for path in sorted((folder / name).glob("*"))
            if path.relative_to(folder).as_posix() not in produced
        ]
    return found
