"""One process at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; other processes wait until it is let go or its holder is gone.

    On Windows there is no lock: whatever is written under it is renamed into place whole, so that
    two processes do the same work twice and nothing worse.

    Args:
        path: The lock file. It stays behind, empty.

    Yields:
        Nothing, with the lock held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
