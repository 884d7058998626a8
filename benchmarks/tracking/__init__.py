"""Weights & Biases beside the studies: every record mirrored as a run, never its source.

`client.mirror` hands a finished record to a process of its own, waits a bounded time and never
raises. When wandb is missing, refuses, hangs or finds no disk, that is said once and the study goes
on: the record itself is already stored.
"""
