"""Datasets that cannot be shipped: what they are, where they lie, how they are fetched and read.

``catalogue`` says what each set is, ``places`` where it is looked for, ``transfer`` and
``archives`` fetch and unpack it, ``readers`` read its own files, ``cache`` decodes it once to
arrays, ``verify`` checks it, and ``cli`` is the command ``python -m benchmarks data``.
"""

from collections.abc import Sequence

from benchmarks.data.cache import Loaded, load
from benchmarks.data.errors import (
    DamagedData,
    DataError,
    MissingData,
    TransferError,
    UnsafeArchive,
)
from benchmarks.data.places import require

__all__ = [
    "DamagedData",
    "DataError",
    "Loaded",
    "MissingData",
    "TransferError",
    "UnsafeArchive",
    "load",
    "main",
    "require",
]


def main(argv: Sequence[str]) -> int:
    """Run ``data list``, ``data download`` or ``data verify``.

    Args:
        argv: The arguments after ``data``.

    Returns:
        The exit status.
    """
    from benchmarks.data import cli

    return cli.main(argv)
