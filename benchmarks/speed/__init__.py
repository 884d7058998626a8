"""Timings: what exactness and the penalty cost, and how fast training is, each in one run."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page.

    Args:
        arguments: Words after ``speed``.

    Returns:
        The exit code.
    """
    # A process that measures the memory of one method must not load the others' libraries.
    from benchmarks.speed import cli

    return cli.main(arguments)
