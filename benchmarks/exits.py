"""Exit codes that say why a process of a study ended early."""

import signal

__all__ = ["INTERRUPTED", "STOPPED"]

INTERRUPTED = 128 + signal.SIGINT
"""Of a command that was stopped by Ctrl-C or SIGTERM."""

STOPPED = 128 + signal.SIGTERM
"""Of a process that was asked to stop and has kept its state."""
