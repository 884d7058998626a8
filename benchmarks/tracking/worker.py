"""The process that talks to wandb, so that whatever happens there cannot reach a training.

Requests come as lines of JSON on standard input, answers go out as lines of JSON. Whoever started
the process may kill it at any moment: a run that was not finished is not in the ledger and is
mirrored again. Everything else that wandb prints is thrown away.

A request that finds its record unchanged logs nothing. A changed record under the same id replaces
an offline run that was never sent; a run that was sent is resumed, and only its configuration,
summary, matrix and artifact are written anew, never its history.
"""

import base64
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tracking.ledger import Entry, read, write

_INIT_SECONDS = 15.0
_SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,  # the record carries the training's environment, this process has none
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": _INIT_SECONDS,
}


def settings_for(known: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that the installed wandb knows.

    Args:
        known: The fields of the installed `wandb.Settings`.

    Returns:
        Names and values.
    """
    return {name: value for name, value in _SETTINGS.items() if name in known}


def mirror_content(content: Mapping[str, Any], mode: str, folder: Path) -> str:
    """Write one run.

    Args:
        content: A `benchmarks.tracking.content.Content` as JSON values.
        mode: "offline" or "online".
        folder: Where wandb keeps its files.

    Returns:
        "unchanged", "updated" or "written".
    """
    entry = read(folder, content["run_id"])
    sent = entry is not None and (entry.mode == "online" or is_sent(folder / entry.files))
    if entry is not None and entry.digest == content["digest"] and (sent or mode == entry.mode):
        return "unchanged"
    files, resumed = _write_run(content, mode, folder, resume=sent)
    write(folder, content["run_id"], Entry(content["digest"], mode, str(files.relative_to(folder))))
    if entry is not None and not sent:
        shutil.rmtree(folder / entry.files, ignore_errors=True)
    return "updated" if resumed else "written"


def is_sent(files: Path) -> bool:
    """Say whether wandb has marked an offline run as sent.

    Args:
        files: The run's folder.

    Returns:
        True where the marker lies beside the run's file.
    """
    return any(files.glob("*.wandb.synced"))


def _write_run(
    content: Mapping[str, Any], mode: str, folder: Path, resume: bool
) -> tuple[Path, bool]:
    import wandb

    os.environ["WANDB_DATA_DIR"] = str(folder / "artifacts")
    run: Any = wandb.init(
        id=content["run_id"],
        project=os.environ.get("WANDB_PROJECT") or "mas-avalanche",
        name=content["name"],
        group=content["group"],
        job_type=content["job_type"],
        tags=list(content["tags"]),
        config=content["config"],
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        # Offline and never sent: the file is the whole run, and sending it starts at row 0.
        resume="allow" if resume or mode == "online" else None,
        settings=wandb.Settings(**settings_for(wandb.Settings.model_fields)),
    )
    resumed = resume or bool(run.resumed)
    try:
        if resumed:
            run.config.update(content["config"], allow_val_change=True)
        _log(wandb, run, content, history=not resumed)
        _add_artifact(wandb, run, content)
    except BaseException:
        run.finish(exit_code=1)
        raise
    files = Path(run.settings.sync_dir)
    run.finish(exit_code=int(content["failed"]))
    if not any(files.glob("*.wandb")):
        raise OSError(f"wandb left no file in {files}")
    return files, resumed


def _log(wandb: Any, run: Any, content: Mapping[str, Any], history: bool) -> None:
    if history:
        for axis, patterns in content["axes"].items():
            run.define_metric(axis, hidden=True)
            for pattern in patterns:
                run.define_metric(pattern, step_metric=axis)
        rows = [dict(row) for row in content["rows"]]
        for index, name, counts, edges in content["histograms"]:
            rows[index][name] = wandb.Histogram(np_histogram=(counts, edges))
        for row in rows:
            run.log(row)
    columns, data = content["table"]
    if data:
        image = io.BytesIO(base64.b64decode(content["heat_map"]))
        run.log(
            {
                "accuracy_matrix": wandb.Table(columns=columns, data=data),
                "accuracy_heat_map": wandb.Image(_open_image(image)),
            }
        )
    run.summary.update(content["summary"] | {"record_digest": content["digest"]})


def _open_image(data: io.BytesIO) -> Any:
    from PIL import Image

    return Image.open(data)


def _add_artifact(wandb: Any, run: Any, content: Mapping[str, Any]) -> None:
    artifact = wandb.Artifact(
        f"record-{content['run_id']}", type="record", metadata={"digest": content["digest"]}
    )
    with artifact.new_file("record.json") as file:
        file.write(content["artifact"])
    run.log_artifact(artifact)


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin.buffer:
        yield json.loads(line)


def _leave_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def main() -> None:
    """Answer requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    for request in _requests():
        try:
            folder = Path(request["folder"])
            answer = {"ok": mirror_content(request["content"], request["mode"], folder)}
        except Exception as error:  # handed to the parent, which says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
