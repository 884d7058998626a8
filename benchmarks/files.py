"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path

__all__ = ["write_atomic"]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, also if the machine stops in between.

    Args:
        path: Destination; its folder exists.
        content: Text is written as UTF-8.

    Raises:
        OSError: If it cannot be written; nothing is left behind, an older file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    # Made by `open`, so that others may read what the umask lets them, unlike a private file.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
