"""``python -m benchmarks sync``: send runs that were kept offline to Weights & Biases.

wandb's own command sends them, a few at a time and in bounded time; what it has sent it marks, so
that nothing is sent twice and a second call goes on from there. What it shares with the package is
imported where something is sent: listing needs no torch.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.study import load
from benchmarks.tracking import page
from benchmarks.tracking.offline import OfflineRun, offline_runs

__all__ = ["main", "sync", "write_report"]

_BATCH = 10
_START_SECONDS = 60.0
_RUN_SECONDS = 30.0
_DEFAULT_SERVER = "https://api.wandb.ai"


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says.

    Args:
        arguments: Words after ``sync``.

    Returns:
        0 when nothing is left to send, 1 when something is.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sync",
        description="Send runs that were kept offline to Weights & Biases.",
        epilog="Log in first with `wandb login`, or set WANDB_API_KEY. WANDB_BASE_URL names a "
        "server of your own.",
    )
    parser.add_argument(
        "--store", type=Path, default=Path("runs"), help="folder of records (default: runs)"
    )
    parser.add_argument("--folder", type=Path, help="wandb's folder (default: wandb in the store)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent")
    parser.add_argument(
        "--report",
        metavar="STUDY",
        help="then write a W&B Report of the study (needs the package wandb-workspaces)",
    )
    options = parser.parse_args(arguments)
    code = sync(options.folder or options.store / "wandb", dry_run=options.dry_run)
    if options.report is None or options.dry_run:
        return code
    return max(code, write_report(options.report))


def sync(folder: Path, *, dry_run: bool = False) -> int:
    """Send the finished offline runs of a folder and say what happened.

    Args:
        folder: The folder given to the mirror or to `WandBLogger`.
        dry_run: Whether to list the runs and send nothing.

    Returns:
        0 when nothing is left to send, 1 when something is.
    """
    if importlib.util.find_spec("wandb") is None:
        print("Weights & Biases is not installed: `pip install wandb`.", file=sys.stderr)
        return 1
    runs = offline_runs(folder)
    waiting = [run for run in runs if run.finished and not run.sent]
    _say_left_out(folder, runs, waiting)
    if dry_run or not waiting:
        for run in waiting:
            print(run.folder)
        return 0
    why = _unreachable()
    if why:
        print(f"{why} Nothing is sent; the runs stay in {folder}.", file=sys.stderr)
        return 1
    for batch in _batches(waiting):
        why = _send(batch)
        if why:
            break
    left = [run for run in offline_runs(folder) if run.finished and not run.sent]
    print(f"{len(waiting) - len(left)} of {len(waiting)} runs sent.")
    if left:
        reason = f" ({why})" if why else ""
        print(
            f"{len(left)} stay in {folder}{reason}. The same command tries again.",
            file=sys.stderr,
        )
    return int(bool(left))


def write_report(study: str) -> int:
    """Write a W&B Report of a study and say where it is.

    Args:
        study: Name of the study, or its file.

    Returns:
        0 when it is written, else 1.
    """
    if not page.is_available():
        print(
            "Writing a W&B Report needs the package wandb-workspaces: "
            "`pip install wandb-workspaces`.",
            file=sys.stderr,
        )
        return 1
    declared = load(study)
    why = _unreachable()
    done: list[str] = []
    failed: list[str] = []

    def work() -> None:
        try:
            done.append(page.publish(declared))
        except Exception as error:  # said below
            from mas_avalanche._wandb_process import short

            failed.append(short(error))

    if not why:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(_START_SECONDS)
        why = failed[0] if failed else f"no answer within {_START_SECONDS:g} s"
    if not done:
        print(f"The W&B Report is not written: {why}", file=sys.stderr)
        return 1
    print(f"W&B Report: {done[0]}")
    return 0


def _say_left_out(folder: Path, runs: list[OfflineRun], waiting: list[OfflineRun]) -> None:
    sent = sum(run.sent for run in runs)
    running = sum(not run.finished and not run.sent for run in runs)
    print(f"{len(waiting)} finished offline runs to send in {folder}.")
    if sent:
        print(f"{sent} were sent before.")
    if running:
        print(f"{running} are left alone: not finished, or cut off when their training was killed.")


def _batches(runs: list[OfflineRun]) -> list[list[OfflineRun]]:
    return [runs[start : start + _BATCH] for start in range(0, len(runs), _BATCH)]


def _unreachable() -> str:
    """Ask the server for anything at all; a hanging one must not cost minutes."""
    server = os.environ.get("WANDB_BASE_URL") or _DEFAULT_SERVER
    try:
        with urllib.request.urlopen(f"{server}/healthz", timeout=10):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers; whether it takes runs is for wandb to find out
    except (OSError, ValueError) as error:
        from mas_avalanche._wandb_process import short

        return f"{server} cannot be reached ({short(error)})."


def _send(runs: list[OfflineRun]) -> str:
    """Let wandb send some runs; return why it could not, else nothing."""
    from mas_avalanche._wandb_process import environment, short

    command = [sys.executable, "-m", "wandb", "sync", *(str(run.folder) for run in runs)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(WANDB_MODE="online"),
        start_new_session=True,  # no terminal to ask for a key on
    )
    seconds = _START_SECONDS + _RUN_SECONDS * len(runs)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"wandb did not finish within {seconds:g} s"
    except KeyboardInterrupt:
        _kill(process)
        raise
    if process.returncode != 0:
        return short(output.strip().splitlines()[-1] if output.strip() else "wandb gave no reason")
    return ""


def _kill(process: subprocess.Popen[str]) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        if child.is_running():
            child.kill()
    process.communicate()
