"""The process that talks to wandb, so that nothing that happens there can reach a training.

It is run as a file of its own and imports nothing of this package: requests come as lines of JSON
on standard input, one answer each goes out as a line of JSON. Its parent may kill it at any
moment. When standard input closes, the open run is finished: also a training that was killed
leaves a finished run behind.

Requests: ``open``, ``log``, ``final``, ``summary``, ``config``, ``artifact``, ``close``.
Values that are no numbers are dictionaries with the key ``kind``: ``histogram``, ``table``,
``heat_map``.
"""

import io
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ORPHAN_SECONDS = 60.0
_NOTE_SECONDS = 5.0
_SETTINGS = {
    "silent": True,
    "console": "off",  # progress bars would be stored line by line
    "symlink": False,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,  # this process has neither the training's arguments nor its environment
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 15.0,
}


class Session:
    """At most one open run, and what is known of it."""

    def __init__(self) -> None:
        self._run: Any = None
        self._final: dict[str, Any] = {}
        self._logged: dict[str, list[Any]] = {}  # last axis value and value, by name
        self._earlier: dict[str, float] = {}  # last axis value of a run that is resumed, by name
        self._note: Path | None = None
        self._noted = 0.0

    def do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry one request out and return its answer."""
        answer: dict[str, Any] | None = getattr(self, f"_do_{request['do']}")(request)
        return answer or {}

    def end(self) -> None:
        """Finish a run whose parent went away without a word, as a failed one."""
        if self._run is not None:
            self._do_close({"exit_code": 1})

    def _do_open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        os.environ["WANDB_DATA_DIR"] = request["data"]
        self._run = _start(request)
        run = self._run
        for axis, patterns in request["axes"].items():
            run.define_metric(axis, hidden=True)
            for pattern in patterns:
                run.define_metric(pattern, step_metric=axis)
        resumed = bool(getattr(run, "resumed", False)) or request["resume"]
        self._final, self._logged = {}, {}
        self._note = Path(request["folder"], "wandb", f"logged-{run.id}.json")
        self._earlier = self._read_note(request["axes"]) if resumed else {}
        summary = dict(run.summary)
        return {
            "resumed": resumed,
            "digest": str(summary.get("record_digest", "")),
            "files": str(_folder_of(run)),
        }

    def _do_config(self, request: Mapping[str, Any]) -> None:
        self._run.config.update(request["values"], allow_val_change=True)

    def _do_log(self, request: Mapping[str, Any]) -> None:
        axis, at = request["axis"], request["at"]
        row = {}
        for name, value in request["values"].items():
            known = self._logged.get(name)
            if known == [at, value] or at <= self._earlier.get(name, float("-inf")):
                continue
            self._logged[name] = [at, value]
            row[name] = _value(value)
        if row:
            self._run.log({axis: at, **row})
        if request.get("note") and time.monotonic() > self._noted + _NOTE_SECONDS:
            self._write_note()

    def _do_final(self, request: Mapping[str, Any]) -> None:
        self._final |= request["values"]

    def _do_summary(self, request: Mapping[str, Any]) -> None:
        self._run.summary.update(request["values"])

    def _do_artifact(self, request: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(
            request["name"], type=request["type"], metadata=request["metadata"]
        )
        for name, text in request["files"].items():
            with artifact.new_file(name, encoding="utf-8") as file:
                file.write(text)
        self._run.log_artifact(artifact)

    def _do_close(self, request: Mapping[str, Any]) -> None:
        run, self._run = self._run, None
        files = _folder_of(run)
        try:
            final = {name: _value(value) for name, value in self._final.items()}
            if final:
                run.log(final)
            if self._logged:
                self._write_note()
        finally:
            run.finish(exit_code=request["exit_code"])
        if not any(files.glob("*.wandb")):
            raise OSError(f"wandb left no file in {files}")

    def _read_note(self, axes: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Find how far each metric of a resumed run had come."""
        summary = dict(self._run.summary)
        earlier = {
            name: summary[axis]
            for axis, patterns in axes.items()
            for name in summary
            if axis in summary and any(name.startswith(p.rstrip("*")) for p in patterns)
        }
        if self._note is not None and self._note.is_file():
            with self._note.open(encoding="utf-8") as file:
                earlier |= json.load(file)
        return earlier

    def _write_note(self) -> None:
        if self._note is None:
            return
        self._noted = time.monotonic()
        last = self._earlier | {name: at for name, (at, _) in self._logged.items()}
        temporary = self._note.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(last, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._note)


def _start(request: Mapping[str, Any]) -> Any:
    import wandb

    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    known = wandb.Settings.model_fields
    wanted = _SETTINGS | {"x_stats_pid": os.getppid()} | request["settings"]
    settings = {
        name: value
        for name, value in wanted.items()
        if name in known or name in request["settings"]
    }
    return wandb.init(
        id=request["id"],
        project=request["project"],
        entity=request["entity"],
        name=request["name"],
        group=request["group"],
        job_type=request["job_type"],
        tags=request["tags"],
        config=request["config"],
        dir=str(folder),
        mode=request["mode"],
        # A new offline file is the whole run: sending it starts at row 0, also a second time.
        resume="allow" if request["resume"] or request["mode"] == "online" else None,
        settings=wandb.Settings(**settings),
    )


def _folder_of(run: Any) -> Path:
    return Path(run.dir).parent


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    import wandb

    if value["kind"] == "histogram":
        return wandb.Histogram(np_histogram=(value["counts"], value["edges"]))
    if value["kind"] == "table":
        return wandb.Table(columns=value["columns"], data=value["data"])
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(heat_map(value))))


def heat_map(value: Mapping[str, Any]) -> bytes:
    """Draw a matrix of fractions (or of counts, scaled to their largest) as PNG."""
    from matplotlib.figure import Figure

    matrix, rows, columns = value["matrix"], value["rows"], value["columns"]
    height, width = len(matrix), len(columns)
    top = max([1.0, *(entry for row in matrix for entry in row if entry is not None)])
    shown = [[float("nan") if entry is None else entry / top for entry in row] for row in matrix]
    figure = Figure(
        figsize=(min(2.4 + 0.55 * width, 30), min(1.6 + 0.4 * height, 30)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(shown, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(width), columns, rotation=45, ha="right")
    axes.set_yticks(range(height), rows)
    axes.set_xlabel(value["x"])
    axes.set_ylabel(value["y"])
    axes.set_title(value["title"])
    if height * width <= 400:
        scale = 100 if top == 1 else top
        for i, row in enumerate(shown):
            for j, entry in enumerate(row):
                if entry == entry:  # NaN: not evaluated
                    colour = "black" if entry > 0.5 else "white"
                    text = f"{scale * entry:.0f}"
                    axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _leave_after_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(2)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def main() -> None:
    """Answer requests until standard input closes, then finish what is open."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_leave_after_parent, daemon=True).start()
    sys.modules["pandas"] = None  # type: ignore[assignment]  # wandb's tables load it, unused here
    session = Session()
    try:
        for line in sys.stdin.buffer:
            try:
                answer: dict[str, Any] = {"ok": session.do(json.loads(line))}
            except Exception as error:  # the parent says it
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    except BrokenPipeError:
        pass  # nobody reads the answers any more
    limit = threading.Timer(_ORPHAN_SECONDS, os._exit, (1,))
    limit.daemon = True
    limit.start()
    session.end()


if __name__ == "__main__":
    main()
