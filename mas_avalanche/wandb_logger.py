"""An Avalanche logger for Weights & Biases, for any strategy.

Avalanche's own does not run with wandb 0.31. This one gives each training one run with metric
names that do not change from task to task, each drawn over its own step axis, the task's loss and
the penalty apart, the accuracy matrix as table and heat map, and histograms of importance.

wandb runs in a process of its own. A training hands rows over and never waits: a server that
refuses, hangs or fails, or a wandb that crashes, is said once and training goes on. The run is
finished by :meth:`WandBLogger.finish`, at the end of a ``with`` block, when the logger is
garbage-collected, when Python exits, and also when the training is killed.

Example:
    >>> from avalanche.evaluation.metrics import accuracy_metrics
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> with WandBLogger(project="my-project", mode="disabled") as logger:
    ...     evaluator = EvaluationPlugin(
    ...         accuracy_metrics(epoch=True, experience=True, stream=True), loggers=[logger]
    ...     )
"""

import atexit
import copy
import multiprocessing.util
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue
from avalanche.logging import BaseLogger
from torch import Tensor, nn

from mas_avalanche._wandb_process import (
    Mode,
    Writer,
    is_installed,
    mode_from_environment,
    open_request,
)

__all__ = ["WandBLogger"]

_AXES = {
    "iteration": ("train/*", "during/*", "custom/*"),
    "epoch": ("epoch/*",),
    "experiences_trained": ("eval/*", "importance/*", "importance_mean/*"),
}
_LEVELS = ("_MB", "_Epoch", "_RunningEpoch", "_Exp", "_Stream")
_BINS = 64
_MAX_ENTRIES = 1 << 20  # of one parameter that enter its histogram

_writers: "weakref.WeakValueDictionary[str, Writer]" = weakref.WeakValueDictionary()
_exiting = threading.Event()


class WandBLogger(BaseLogger, SupervisedPlugin):  # type: ignore[misc]
    """Log a training to Weights & Biases.

    Give it to the ``EvaluationPlugin`` among its ``loggers``. The run starts with the first
    ``train`` or ``eval`` and stays open over all experiences. Metrics are named

    - ``train/<metric>`` over ``iteration``, at most one row each ``seconds_between_rows``, with
      ``train/task_loss`` (the criterion alone), ``train/penalty`` (what plugins add) and
      ``train/experience``;
    - ``epoch/<metric>`` over ``epoch``, which counts on over experiences;
    - ``eval/<stream>/<metric>`` and ``eval/<stream>/<metric>/experience <number>`` over
      ``experiences_trained``; evaluations in the middle of an experience are ``during/<stream>/…``
      over ``iteration``;
    - ``importance/<parameter>``, histograms of log10 of the positive importance of a plugin that
      has one, and ``importance_mean/<parameter>``, over ``experiences_trained``;
    - ``accuracy_matrix/<stream>`` and ``accuracy_heat_map/<stream>``, written at the end, where
      accuracy is measured by experience.

    The logger can be pickled, as checkpoints do: when training goes on from a checkpoint, the
    run is resumed under the same id and rows that it already has are left out. A deep copy gets
    a run of its own.

    Args:
        project: wandb's project; by default WANDB_PROJECT, else "mas-avalanche".
        entity: User or team; by default WANDB_ENTITY, else wandb's default.
        name: The run's name; by default wandb makes one up.
        group: What the run belongs to, such as a study.
        job_type: What kind of run it is, such as a method.
        tags: Words to filter by, such as a version.
        config: The run's configuration; it is added to what is read off the strategy.
        run_id: Id of the run, to resume an earlier one; by default a new one.
        mode: "offline", "online" or "disabled"; by default WANDB_MODE, else "offline".
        folder: Where wandb's files go, in a folder ``wandb`` of it.
        seconds_between_rows: Least time between two rows of ``train/…``; 0 logs each iteration.
        histograms: Whether importance is logged.
        finish_seconds: The longest that :meth:`finish` waits for a slow server.
        settings: Further settings for ``wandb.Settings``.

    Attributes:
        run_id: Id of the run.
        seconds_spent: What logging has cost the training so far.

    Raises:
        ValueError: If ``mode`` is unknown or a time is negative.
        ModuleNotFoundError: If wandb is not installed and ``mode`` is not "disabled".
    """

    _writer: Writer | None
    _closer: "weakref.finalize[Any, Any] | None"
    _tracked: list[Any]
    _next_row: float

    def __init__(
        self,
        project: str | None = None,
        *,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        mode: Mode | None = None,
        folder: str | Path = ".",
        seconds_between_rows: float = 1.0,
        histograms: bool = True,
        finish_seconds: float = 60.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.mode: Mode = mode_from_environment() if mode is None else mode
        _check(self.mode, seconds_between_rows, finish_seconds)
        self.run_id = run_id or secrets.token_hex(4)
        self.folder = Path(folder)
        self.seconds_between_rows = seconds_between_rows
        self.histograms = histograms
        self.finish_seconds = finish_seconds
        self.seconds_spent = 0.0
        self._options = {
            "project": project,
            "entity": entity,
            "name": name,
            "group": group,
            "job_type": job_type,
            "tags": [str(tag) for tag in tags],
            "settings": dict(settings or {}),
        }
        self._config = dict(config or {})
        self._resume = run_id is not None
        self._epochs = 0
        self._experiences = 0
        self._iteration = 0
        self._training = False
        self._metrics: dict[str, Any] = {}
        self._matrices: dict[str, dict[int, dict[int, float]]] = {}
        self._unsupported: set[str] = set()
        self._forget_run()

    def finish(self, exit_code: int | None = None) -> None:
        """Finish the run; logging after that resumes it.

        Args:
            exit_code: Anything but 0 marks the run as failed. By default 1 where training has
                stopped in the middle of an experience, else 0.
        """
        if self._writer is not None and self._closer is not None:
            self._flush_rest()
            self._closer.detach()
            self._writer.close(exit_code, self.finish_seconds)
            self._resume = True
            self._forget_run()

    def log(self, values: Mapping[str, float]) -> None:
        """Log own numbers over the current iteration.

        Args:
            values: Numbers by name; they appear as ``custom/<name>``.
        """
        if self._ensure_open():
            self._put("iteration", self._iteration, _prefixed("custom", values))

    def __enter__(self) -> "WandBLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del error, traceback
        self.finish(None if kind is None else 1)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        started = self._resume or self._writer is not None
        for name in ("_writer", "_closer", "_due", "_next_row", "_tracked"):
            state.pop(name)
        return state | {"_resume": started}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_run()

    def __deepcopy__(self, memo: dict[int, Any]) -> "WandBLogger":
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.run_id, twin._resume = secrets.token_hex(4), False
        return twin

    # What Avalanche calls. Metrics arrive through `log_metrics` just before the callback.

    def log_metrics(self, metric_values: list[MetricValue]) -> None:
        """Keep new metric values until the next row.

        Args:
            metric_values: What the evaluator has computed.
        """
        for metric in metric_values:
            if isinstance(metric.value, dict):
                for key, value in metric.value.items():
                    self._metrics[f"{metric.name}/{key}"] = value
            else:
                self._metrics[metric.name] = metric.value

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Open the run."""
        del args, kwargs
        with self._timed():
            self._ensure_open(strategy)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Note that a training is under way."""
        del strategy, args, kwargs
        self._set_training(True)

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Ask for the penalty's value where this iteration gets a row."""
        del args, kwargs
        self._due = self._writer is not None and time.monotonic() >= self._next_row
        if self._due:
            self._tracked = [penalty for penalty in _penalties(strategy) if not penalty.track_value]
            for penalty in self._tracked:
                penalty.track_value = True

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Log losses and mini-batch metrics, not more often than asked for."""
        del args, kwargs
        self._iteration = int(strategy.clock.train_iterations)
        if not self._due:
            return
        with self._timed():
            values = self._take("train", lambda name: "_MB/" in name and _is_training(name))
            values |= _losses(strategy) | {"train/experience": _number_of(strategy)}
            for penalty in self._tracked:
                penalty.track_value = False
            self._tracked = []
            self._put("iteration", self._iteration, values)
            self._next_row = time.monotonic() + self.seconds_between_rows

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Log the epoch's metrics."""
        del strategy, args, kwargs
        with self._timed():
            self._epochs += 1
            self._put("epoch", self._epochs, self._take("epoch", _is_training))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Log importance and close the experience."""
        del args, kwargs
        with self._timed():
            self._experiences += 1
            self._set_training(False)
            values = self._take("epoch", _is_training)
            if values:
                self._put("epoch", self._epochs, values)
            if self._writer is not None and self.histograms:
                self._put("experiences_trained", self._experiences, _importance(strategy))

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Open the run where an evaluation comes first."""
        del args, kwargs
        with self._timed():
            self._ensure_open(strategy)

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Log the evaluation and the accuracy matrix so far."""
        del strategy, args, kwargs
        with self._timed():
            if self._training:
                values = self._take("during", lambda name: not _is_training(name))
                self._put("iteration", self._iteration, values)
                return
            self._note_accuracies()
            values = self._take("eval", lambda name: not _is_training(name))
            self._put("experiences_trained", self._experiences, values)

    # Below: how it is done.

    def _forget_run(self) -> None:
        self._writer = None
        self._closer = None
        self._due = False
        self._next_row = 0.0
        self._tracked = []

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds_spent += time.perf_counter() - start

    def _ensure_open(self, strategy: Any = None) -> bool:
        if self.mode == "disabled" or self._writer is not None:
            return self._writer is not None
        earlier = _writers.get(self.run_id)
        if earlier is not None:  # a checkpoint loaded beside the training that wrote it
            earlier.close(0, self.finish_seconds)
        read = {} if strategy is None else _describe(strategy)
        request = open_request(
            self.run_id,
            self.mode,
            self.folder,
            _AXES,
            config=_plain(read | self._config),
            resume=self._resume,
            **self._options,
        )
        self._writer = _writers[self.run_id] = Writer(request)
        self._closer = weakref.finalize(self, _close, self._writer, self.finish_seconds)
        # Registered after weakref's own handler, so that it runs before it.
        atexit.register(_exiting.set)
        # A child of multiprocessing leaves without those handlers.
        multiprocessing.util.Finalize(None, self._closer, exitpriority=10)
        for stream in self._matrices:
            self._put_matrix(stream)
        return True

    def _set_training(self, value: bool) -> None:
        self._training = value
        if self._writer is not None:
            self._writer.busy = value

    def _put(self, axis: str, at: int, values: Mapping[str, Any]) -> None:
        if self._writer is not None and values:
            request = {"do": "log", "axis": axis, "at": at, "values": dict(values), "note": True}
            self._writer.put(request)

    def _take(self, prefix: str, wanted: Any) -> dict[str, Any]:
        """Take the pending metrics that a row wants, under their stable names."""
        names = [name for name in self._metrics if wanted(name)]
        row: dict[str, Any] = {}
        for name in names:
            value = self._convert(name, self._metrics.pop(name))
            key = _stable(prefix, name)
            if isinstance(value, dict) and value["kind"] == "heat_map":
                if self._writer is not None and prefix != "during":
                    self._writer.put({"do": "final", "values": {key: value}})
            elif value is not None:
                row[key] = value
        return row

    def _convert(self, name: str, value: Any) -> Any:
        if isinstance(value, AlternativeValues):
            value = value.best_supported_value(float, int, Tensor)
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            if value.numel() == 1:
                return value.item()
            if value.ndim == 2:
                return _matrix_picture(value, name)
            return _histogram(value.flatten().double())
        try:
            return float(value)
        except (TypeError, ValueError):
            self._unsupported.add(name)
            return None

    def _note_accuracies(self) -> None:
        """Copy the accuracies by experience into the matrix of their stream."""
        for name, value in self._metrics.items():
            metric, stream, experience = _parts(name)
            if metric == "Top1_Acc_Exp" and experience is not None and not _is_training(name):
                rows = self._matrices.setdefault(stream, {})
                rows.setdefault(self._experiences, {})[experience] = float(value)
        for stream in self._matrices:
            self._put_matrix(stream)

    def _put_matrix(self, stream: str) -> None:
        if self._writer is None:
            return
        rows = self._matrices[stream]
        columns = sorted({experience for row in rows.values() for experience in row})
        labels = [f"{count} trained" for count in sorted(rows)]
        matrix = [[rows[count].get(column) for column in columns] for count in sorted(rows)]
        names = [f"experience {column}" for column in columns]
        data = [[label, *row] for label, row in zip(labels, matrix, strict=True)]
        picture = {"kind": "heat_map", "matrix": matrix, "rows": labels, "columns": names}
        picture |= {"x": "accuracy on", "y": "after", "title": f"Accuracy on {stream}"}
        values = {
            f"accuracy_matrix/{stream}": {
                "kind": "table",
                "columns": ["after", *names],
                "data": data,
            },
            f"accuracy_heat_map/{stream}": picture,
        }
        self._writer.put({"do": "final", "values": values})

    def _flush_rest(self) -> None:
        self._put("epoch", self._epochs, self._take("epoch", _is_training))
        self._put("experiences_trained", self._experiences, self._take("eval", lambda name: True))
        if self._unsupported and self._writer is not None:
            self._writer.say(
                "Weights & Biases was not given these metrics, which are neither numbers nor "
                f"tensors: {', '.join(sorted(self._unsupported))}."
            )


def _close(writer: Writer, seconds: float) -> None:
    """Finish the run of a logger that is gone, or of a Python that exits."""
    crashed = _exiting.is_set() and getattr(sys, "last_value", None) is not None
    writer.close(1 if crashed else None, seconds)


def _check(mode: str, seconds_between_rows: float, finish_seconds: float) -> None:
    if mode not in ("offline", "online", "disabled"):
        raise ValueError(
            f"Expected `mode` to be 'offline', 'online' or 'disabled', got {mode!r}. "
            "Offline runs can be sent later."
        )
    for name, value in (
        ("seconds_between_rows", seconds_between_rows),
        ("finish_seconds", finish_seconds),
    ):
        if not value >= 0:
            raise ValueError(f"Expected `{name}` to be at least 0, got {value}.")
    if mode != "disabled" and not is_installed():
        raise ModuleNotFoundError(
            "Expected `wandb` to be installed, found no such package. "
            "Run `pip install mas-avalanche[wandb]`, or give mode='disabled'."
        )


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _parts(name: str) -> tuple[str, str, int | None]:
    """Split Avalanche's name of a metric: `Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001`."""
    metric, *rest = name.split("/")
    streams = [word for word in rest if word.endswith("_stream")]
    numbers = [word[3:] for word in rest if word.startswith("Exp") and word[3:].isdigit()]
    return metric, streams[0] if streams else "", int(numbers[0]) if numbers else None


def _is_training(name: str) -> bool:
    return "/train_phase" in name


def _stable(prefix: str, name: str) -> str:
    """Name a metric without the task that happens to be current."""
    metric, stream, experience = _parts(name)
    for level in _LEVELS:
        metric = metric.removesuffix(level)
    words = [prefix, metric] if prefix in ("train", "epoch") else [prefix, stream, metric]
    if experience is not None and prefix in ("eval", "during"):
        words.append(f"experience {experience:02d}")
    return "/".join(word for word in words if word)


def _penalties(strategy: Any) -> list[Any]:
    found = [getattr(plugin, "penalty", None) for plugin in strategy.plugins]
    return [penalty for penalty in found if hasattr(penalty, "track_value")]


@torch.no_grad()
def _losses(strategy: Any) -> dict[str, float]:
    """Separate the criterion from what plugins add, inside the loss or beside it."""
    total = float(strategy.loss)
    task = float(strategy.criterion())
    beside = sum(float(penalty.value) for penalty in _penalties(strategy))
    return {"train/task_loss": task, "train/penalty": total - task + beside}


def _number_of(strategy: Any) -> int:
    experience = strategy.experience
    return int(getattr(experience, "current_experience", strategy.clock.train_exp_counter))


@torch.no_grad()
def _importance(strategy: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for plugin in strategy.plugins:
        importance = getattr(plugin, "importance", None)
        if not isinstance(importance, Mapping):
            continue
        for name, tensor in importance.items():
            flat = tensor.detach().flatten()
            flat = flat[:: -(-flat.numel() // _MAX_ENTRIES) or 1].double().cpu()
            row[f"importance_mean/{name}"] = float(flat.mean()) if flat.numel() else 0.0
            positive = flat[(flat > 0) & flat.isfinite()]
            if positive.numel():
                row[f"importance/{name}"] = _histogram(positive.log10())
    return row


def _histogram(values: Tensor) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, _BINS, low, high)
    edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
    return {"kind": "histogram", "counts": counts.tolist(), "edges": edges.tolist()}


def _matrix_picture(values: Tensor, name: str) -> dict[str, Any]:
    rows, columns = ([str(number) for number in range(size)] for size in values.shape)
    picture = {"kind": "heat_map", "matrix": values.double().tolist(), "rows": rows}
    return picture | {"columns": columns, "x": "", "y": "", "title": name.split("/")[0]}


def _describe(strategy: Any) -> dict[str, Any]:
    """Read a strategy's hyper-parameters."""
    names = ("train_mb_size", "train_epochs", "eval_mb_size", "device")
    config = {name: getattr(strategy, name) for name in names if hasattr(strategy, name)}
    config["strategy"] = type(strategy).__name__
    model, optimizer = strategy.model, strategy.optimizer
    if isinstance(model, nn.Module):
        config["model"] = type(model).__name__
        config["trainable_parameters"] = sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        )
    config["optimizer"] = {"name": type(optimizer).__name__, **getattr(optimizer, "defaults", {})}
    config["plugins"] = {
        type(plugin).__name__: _numbers(plugin)
        for plugin in strategy.plugins
        if plugin is not strategy.evaluator and not type(plugin).__module__.endswith("clock")
    }
    return config


def _numbers(plugin: Any) -> dict[str, Any]:
    kinds = (bool, int, float, str)
    values = {
        name: value
        for name, value in vars(plugin).items()
        if not name.startswith("_") and (value is None or isinstance(value, kinds))
    }
    for name in ("lambda_reg", "ewc_lambda", "si_lambda"):
        if isinstance(getattr(plugin, name, None), float | int):
            values[name] = getattr(plugin, name)
    return values


def _plain(value: Any) -> Any:
    """Keep what JSON can hold; name the rest."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
