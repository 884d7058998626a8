"""Kills a run with SIGKILL at random moments, many times, each time in a process of its own.

Called as ``python -m tests.benchmarks.killing FOLDER METHOD STRENGTH KILLS SEED``. The processes
are forked from one that has imported everything, so that most of their lives is the run itself; a
moment is an amount of processor time, so that it does not depend on what else the machine does.
Prints one JSON object: the number of kills, how many of them came where there was a state to take
up, and for each run that ended whether its record is that of the uninterrupted one.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from benchmarks import provenance
from benchmarks.dispatch import Settings, do_run
from benchmarks.store import Store
from benchmarks.study import RunConfig
from tests.benchmarks.studies import comparable, smoke_config


class Runs:
    """One run, started again and again in a store."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.config = config
        self.settings = Settings(str(folder), 1, wandb="disabled", checkpoint_every=0.0)
        self.id = config.key(provenance.code_version())
        self.store = Store(folder, config.study)
        self.folder = folder / config.study
        self.state = self.folder / ".checkpoints" / f"{self.id}.pt"

    def start(self) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if do_run(self.id, self.config, self.settings)[0] == "record" else 2
            finally:
                os._exit(code)
        return child

    def end(self, child: int) -> tuple[bool, float]:
        """Wait for the process; say whether it was killed, and its processor time in seconds."""
        _, status, usage = os.wait4(child, 0)
        if os.WIFSIGNALED(status):
            return True, 0.0
        if os.WEXITSTATUS(status):
            raise SystemExit(f"a run ended with code {os.WEXITSTATUS(status)}")
        return False, usage.ru_utime + usage.ru_stime

    def wait(self, child: int, seconds: float, *, for_state: bool) -> None:
        """Wait until a process has used so much processor time, or has ended.

        Args:
            child: The process.
            seconds: Counted from the start, or from when there is a state to take up.
            for_state: Whether there has to be a state.
        """
        process = psutil.Process(child)
        start = None
        while process.status() != psutil.STATUS_ZOMBIE:
            times = process.cpu_times()
            used = times.user + times.system
            if start is None and (not for_state or self.state.is_file()):
                start = used if for_state else 0.0
            if start is not None and used - start >= seconds:
                return
            time.sleep(0.002)

    def forget(self) -> dict[str, object]:
        """Return the record, and make the store empty."""
        (record,) = self.store.records()
        shutil.rmtree(self.folder)
        return comparable(record)


def kill_often(runs: Runs, kills: int, seed: int) -> dict[str, object]:
    _, seconds = runs.end(runs.start())
    whole = runs.forget()
    draw, done, resumed, same = random.Random(seed), 0, 0, []
    while done < kills or not same:
        had_state = runs.state.is_file()
        child = runs.start()
        if done < kills:
            # Most of a life may come before the first state, so half of the kills wait for one.
            for_state = draw.random() < 0.5
            most = (0.1 if for_state else 0.6) * seconds
            runs.wait(child, draw.uniform(0.0, most), for_state=for_state)
            time.sleep(draw.uniform(0.0, 0.01))
            os.kill(child, signal.SIGKILL)
        was_killed, _ = runs.end(child)
        if was_killed:
            done += 1
            resumed += had_state
        else:
            same.append(runs.forget() == whole)
    return {"kills": done, "resumed": resumed, "same": same, "status": whole["status"]}


def main() -> None:
    folder, method, strength, kills, seed = sys.argv[1:]
    config = smoke_config(
        method,
        None if strength == "None" else float(strength),
        model_options={"hidden": [16], "dropout": 0.2},
        training={"optimizer": "adam", "learning_rate": 0.01, "epochs": 3, "batch_size": 64},
    )
    print(json.dumps(kill_often(Runs(Path(folder), config), int(kills), int(seed))))


if __name__ == "__main__":
    main()
