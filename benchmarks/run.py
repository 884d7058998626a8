"""One run: a configuration in, a record out.

The seed of a run fixes the stream, the initial weights, the order of the data, its augmentation and
what a network draws while it trains, each through random numbers of its own. So two methods of the
same seed see the same things in the same order, whatever either draws in between, and what is
measured is the method.

The accuracy matrix is measured here, on whole mini-batches, with one pass a row: on validation data
where a strength is chosen, which never looks at test data, and on test data where it is reported.
"""

import contextlib
import copy
import dataclasses
import hashlib
import math
import os
import random
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios import DatasetExperience
from avalanche.benchmarks.utils import (
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    TaskLabels,
)
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from benchmarks import methods, models, provenance, streams
from benchmarks.checkpoint import (
    Keeper,
    Place,
    Positioned,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    random_state,
)
from benchmarks.continual_selection import Outcome, learn
from benchmarks.data import DataError
from benchmarks.measures import Measures
from benchmarks.methods._unlabelled import Unlabelled
from benchmarks.record import Record
from benchmarks.storage import StoreError
from benchmarks.streams import Split, Stream
from benchmarks.study import RunConfig, Training
from mas_avalanche.guard import DivergenceError
from mas_avalanche.inspect import importance_histograms
from mas_avalanche.penalty import StabilityWarning
from mas_avalanche.tensor_batches import BatchDataset, BatchSource, TensorBatches, batch_source

__all__ = ["derive_seed", "execute", "experiences"]

EVALUATION_BATCH = 512
EVALUATION_BYTES = 2**26
CACHE_BYTES = 2**28


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Make the seed of one purpose from the seed of a run.

    Args:
        seed: Seed of the run.
        purpose: What the random numbers are for.
        index: Position of the task they are for.

    Returns:
        A seed below 2**63 that tells nothing about those of other purposes.

    Example:
        >>> derive_seed(1, "order", 0) == derive_seed(1, "order", 1)
        False
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def experiences(stream: Stream) -> list[DatasetExperience]:
    """Wrap the training data of a stream for Avalanche.

    Args:
        stream: Tasks in the order of training.

    Returns:
        One experience a task, with ``task_labels`` (the task's position where the task is known at
        test time, else 0) and ``classes_in_this_experience``.
    """
    datasets, classes = [], []
    for position, task in enumerate(stream.tasks):
        label = position if stream.scenario == "task" else 0
        datasets.append(_dataset(task.train, task, label))
        classes.append(sorted(set(task.train.y.tolist())))
    wrapped = list(benchmark_from_datasets(train=datasets).streams["train"])
    for position, (experience, seen) in enumerate(zip(wrapped, classes, strict=True)):
        label = position if stream.scenario == "task" else 0
        experience.task_label = label
        experience.task_labels = [label]
        experience.classes_in_this_experience = seen
    return wrapped


def _dataset(split: Split, task: streams.Task, label: int) -> Any:
    data = BatchDataset(split.x, split.y, transform=task.transform, augment=task.augment)
    return TaskAwareSupervisedClassificationDataset(
        [data],
        data_attributes=[
            DataAttribute(split.y.tolist(), "targets"),
            TaskLabels(ConstantSequence(label, len(split))),
        ],
    )


def execute(
    config: RunConfig,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    checkpoint: Place | None = None,
    checkpoint_every: float = 120.0,
    stopping: Callable[[], bool] = lambda: False,
) -> Record:
    """Train and measure one configuration.

    Whatever goes wrong inside becomes a record: status "diverged" when loss or weights are no
    longer finite, "failed" for any other error, in both cases with what had been measured.

    Args:
        config: The whole configuration.
        device: Where tensors live, as torch writes it.
        data_root: Folder of data sets that are not embedded.
        checkpoint: Place that keeps the state after tasks and inside them. A run that finds its own
            goes on from there and ends with the record of the uninterrupted run, but for times and
            memory. The caller removes it. Methods whose plugins have no ``state_dict`` keep none.
        checkpoint_every: Seconds of work inside a task that may be lost, see :class:`Keeper`.
        stopping: Asked after every mini-batch and task: whether to keep the state and leave with
            ``SystemExit``.

    Returns:
        The record. The random state of the process is left as it was.

    Raises:
        DataError: If the data set is missing or damaged: that tells nothing about the method.
        StoreError: If the state cannot be kept: neither does that.
    """
    id = config.key(provenance.code_version())
    keeper = None
    if checkpoint is not None:
        keeper = Keeper(checkpoint, id, checkpoint_every, stopping)
    trial = _Trial(config, device, data_root, keeper)
    status, error = "finished", None
    provenance.reset_peak_memory(device)
    with _settings(config.threads, device):
        try:
            trial.train()
        except (DataError, StoreError):
            raise
        except DivergenceError as caught:
            status, error = "diverged", _describe(caught)
        except Exception as caught:
            status, error = "failed", _describe(caught)
    return Record(
        id=id,
        study=config.study,
        part=config.part,
        method=config.method,
        strength=config.strength,
        seed=config.seed,
        role=config.role,
        config=config.to_table(),
        status=status,  # type: ignore[arg-type]
        error=error,
        seconds={"total": trial.elapsed(), **trial.seconds},
        peak_memory_bytes=provenance.peak_memory(device),
        versions=provenance.versions(),
        code_version=provenance.code_version(),
        commit=provenance.commit(),
        device=device,
        processor=provenance.processor(device),
        threads=config.threads,
        started=trial.started,
        **trial.findings(),
    )


def _describe(error: Exception) -> dict[str, str]:
    trace = "".join(traceback.format_exception(error))
    # Records are published: where this machine keeps its files is nobody's business.
    for folder in (sysconfig.get_paths()["purelib"], str(provenance.ROOT)):
        trace = trace.replace(f"{folder}{os.sep}", "")
    return {"type": type(error).__name__, "message": str(error), "traceback": trace}


@contextlib.contextmanager
def _settings(threads: int, device: str) -> Iterator[None]:
    """Fix threads and determinism; give back the process's settings and random states."""
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        random.getstate(),
        np.random.get_state(),
    )
    cuda = torch.device(device).type == "cuda"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    try:
        with torch.random.fork_rng([device] if cuda else []), warnings.catch_warnings():
            # What it announces is recorded as a diverged run when it comes.
            warnings.simplefilter("ignore", StabilityWarning)
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        random.setstate(before[3])
        np.random.set_state(before[4])


def _reseed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@dataclass
class _Trial:
    """The state of one run, from which the record is made at whatever point it ends."""

    config: RunConfig
    device: str
    data_root: Path | None
    keeper: Keeper | None = None
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    begin: float = field(default_factory=time.perf_counter)
    earlier: float = 0.0
    task_begin: float = 0.0
    spent: float = 0.0
    stream: Stream | None = None
    model: nn.Module | None = None
    plugins: list[Any] = field(default_factory=list)
    split: str = ""
    rows: list[list[float]] = field(default_factory=list)
    initial: list[float] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"training": [], "consolidation": [], "evaluation": []}
    )
    history: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    importance: dict[str, Any] = field(default_factory=dict)
    measures: Measures | None = None

    def train(self) -> None:
        config = self.config
        root = {} if self.data_root is None else {"data_root": self.data_root}
        stream = streams.build(config.stream, config.seed, **config.stream_options, **root)
        self.stream = stream
        method = methods.get(config.registered)
        self.plugins = method.make(config.strength, **config.method_options)
        _reseed(derive_seed(config.seed, "initialisation"))
        model = models.build(config.model, stream, config.model_options).to(self.device)
        # Convolutions of few channels take about two thirds of the time in this layout.
        model = model.to(memory_format=torch.channels_last)
        self.model = model
        tasks = experiences(stream)
        probe = _Probe(stream, self.device)
        self.split = "test" if config.role == "evaluation" else "validation"
        for position, experience in enumerate(tasks):
            subset = config.subset if position == 0 else ()
            experience.unlabelled = Unlabelled(stream.tasks[position], self.split, tuple(subset))
        self.initial = probe.accuracy(model, self.split)
        self.measures = Measures(
            config.measure, config.subset, probe.batches, self.split, len(tasks)
        )
        self.measures.before(model)
        strategy = self._strategy(model, self.plugins, self.history, config.training)
        if method.joint:
            strategy.joint_tasks = tasks
            tasks = [_union(tasks)]
        first = self._resume(strategy, tasks)
        if self.keeper is not None:
            state = partial(self._state, strategy, inside=True)
            strategy.after_iteration = partial(self.keeper.keep, state, inside=True)
        for position, experience in enumerate(tasks[first:], start=first):
            strategy.position = position
            strategy = self._learn(strategy, experience, probe)
            if self.keeper is not None and position + 1 < len(tasks):
                self.keeper.keep(partial(self._state, strategy, inside=False), inside=False)

    def elapsed(self) -> float:
        """Return the seconds spent so far, those before an interruption included."""
        return self.earlier + time.perf_counter() - self.begin

    def _state(self, strategy: "_Strategy", *, inside: bool) -> dict[str, Any] | None:
        if not all(hasattr(plugin, "state_dict") for plugin in self.plugins):
            return None
        return {
            "done": strategy.position + (not inside),
            "model": strategy.model.state_dict(),
            "plugins": [plugin.state_dict() for plugin in self.plugins],
            "measured": {name: getattr(self, name) for name in _MEASURED},
            "measures": None if self.measures is None else self.measures.state,
            "elapsed": self.elapsed(),
            "spent": time.perf_counter() - self.task_begin if inside else 0.0,
            "inside": strategy.inside_state() if inside else None,
        }

    def _resume(self, strategy: "_Strategy", tasks: Sequence[DatasetExperience]) -> int:
        """Take up the state that an interrupted run has left; return the tasks it had done."""
        state = None if self.keeper is None else self.keeper.take(self.device)
        if state is None:
            return 0
        done: int = state["done"]
        for experience in tasks[:done]:
            strategy.experience = experience
            strategy.model = strategy.model_adaptation()
        strategy.experience = None
        strategy.clock.train_exp_counter = done
        self._load_plugins(state)
        self._load_measured(state)
        if state["inside"] is None:
            strategy.model.load_state_dict(state["model"])
        else:
            strategy.resume_inside = partial(self._load_inside, strategy, state)
        return done

    def _load_plugins(self, state: Mapping[str, Any]) -> None:
        for plugin, kept in zip(self.plugins, state["plugins"], strict=True):
            plugin.load_state_dict(kept)

    def _load_measured(self, state: Mapping[str, Any]) -> None:
        for name, value in state["measured"].items():
            kept_here = getattr(self, name)
            if isinstance(kept_here, list):
                kept_here[:] = value
            elif isinstance(kept_here, dict):
                kept_here.update(value)
            else:
                setattr(self, name, value)
        if self.measures is not None:
            self.measures.state = state["measures"]
        self.earlier = state["elapsed"]
        self.spent = state["spent"]

    def _load_inside(self, strategy: "_Strategy", state: Mapping[str, Any]) -> None:
        # Once more: the hooks at the start of a task and of an epoch have changed what they know.
        strategy.model.load_state_dict(state["model"])
        self._load_plugins(state)
        strategy.load_inside_state(state["inside"])

    def _strategy(
        self,
        model: nn.Module,
        plugins: Sequence[Any],
        history: list[dict[str, Any]],
        training: Training,
    ) -> "_Strategy":
        names = [] if self.stream is None else [task.name for task in self.stream.tasks]
        return _Strategy(
            config=dataclasses.replace(self.config, training=training),
            model=model,
            optimizer=_optimizer(model, training),
            plugins=[*_schedule(training), _Watch(history, names, plugins), *plugins],
            device=self.device,
        )

    def _learn(
        self, strategy: "_Strategy", experience: DatasetExperience, probe: "_Probe"
    ) -> "_Strategy":
        """Train on a task and measure what came of it; return the strategy that goes on."""
        if self.config.selection is None:
            spent = self._fit(strategy, experience)
        else:
            strategy, spent = self._select(strategy, experience, probe)
        for what, seconds in spent.items():
            self.seconds[what].append(seconds)
        begin = time.perf_counter()
        self.rows.append(probe.accuracy(strategy.model, self.split))
        held = next((p.importance for p in self.plugins if getattr(p, "importance", None)), None)
        if self.measures is not None:
            joint = range(len(strategy.joint_tasks))
            self.measures.after(strategy.model, held, joint or [strategy.position])
        self.seconds["evaluation"].append(time.perf_counter() - begin)
        if held and self.config.role == "evaluation" and self.stream is not None:
            name = self.stream.tasks[strategy.position].name
            self.importance[name] = _summarise(held)
        return strategy

    def _fit(self, strategy: "_Strategy", experience: DatasetExperience) -> dict[str, float]:
        """Train on a task; return the seconds of training and of consolidation."""
        self.task_begin, self.spent = time.perf_counter() - self.spent, 0.0
        strategy.train(experience, eval_streams=[], reset_optimizer_state=True)
        seconds = time.perf_counter() - self.task_begin
        consolidation = strategy.consolidation_seconds
        return {"training": seconds - consolidation, "consolidation": consolidation}

    def _select(
        self, strategy: "_Strategy", experience: DatasetExperience, probe: "_Probe"
    ) -> tuple["_Strategy", dict[str, float]]:
        """Choose learning rate and strength for a task; take over the training that is kept.

        Each training starts from copies of model and plugins, with the same random numbers.
        """
        config, method = self.config, methods.get(self.config.registered)
        if config.selection is None:
            raise RuntimeError("Expected `selection` in the configuration, got none.")
        positions = range(len(probe.stream.tasks)) if method.joint else [strategy.position]

        def train(rate: float, strength: float | None) -> Outcome[_Learner]:
            learner = self._copy(strategy, method, rate, strength)
            try:
                learner.spent = self._fit(learner.strategy, experience)
            except DivergenceError:
                return Outcome(None, None)
            found = probe.pooled_accuracy(learner.strategy.model, "validation", positions)
            return Outcome(learner, found)

        begin = time.perf_counter()
        found = learn(
            train,
            learning_rate=config.training.learning_rate,
            strength=self.selection[-1]["strength"] if self.selection else config.strength,
            constants=config.selection,
        )
        kept, chosen = found
        search = time.perf_counter() - begin - (sum(kept.spent.values()) if kept else 0.0)
        self.selection.append(dataclasses.replace(chosen, seconds=search).to_table())
        if kept is None:
            raise DivergenceError(
                f"No training on task {strategy.position + 1} that could be kept stayed finite."
            )
        self.model, self.plugins = kept.strategy.model, kept.plugins
        self.history += kept.history
        return kept.strategy, kept.spent

    def _copy(
        self, strategy: "_Strategy", method: methods.Method, rate: float, strength: float | None
    ) -> "_Learner":
        """Copy what has been learned, to train it further with another rate and strength.

        Without the strength that its method has, the copy has no plugins: plain fine-tuning.
        """
        model, plugins = copy.deepcopy((strategy.model, self.plugins))
        if strength is not None:
            method.set_strength(plugins, strength)
        elif method.strength is not None:
            plugins = []
        history: list[dict[str, Any]] = []
        training = dataclasses.replace(self.config.training, learning_rate=rate)
        copied = self._strategy(model, plugins, history, training)
        copied.position = strategy.position
        copied.joint_tasks = strategy.joint_tasks
        copied.clock.train_exp_counter = strategy.position
        if self.keeper is not None:
            # A task is begun anew: nothing is kept inside it, but a run that is stopped leaves.
            copied.after_iteration = partial(self.keeper.keep, lambda: None, inside=True)
        return _Learner(copied, plugins, history)

    def findings(self) -> dict[str, Any]:
        """Return what the record takes over from the stream, the model and the measurements."""
        found: dict[str, Any] = {
            "accuracy": {self.split: tuple(map(tuple, self.rows))} if self.rows else {},
            "initial_accuracy": {self.split: tuple(self.initial)} if self.initial else {},
            "selection": tuple(self.selection),
            "history": tuple(self.history),
            "importance": self.importance or None,
            **({} if self.measures is None else self.measures.findings()),
        }
        if self.stream is not None:
            tasks = self.stream.tasks
            found["task_names"] = tuple(task.name for task in tasks)
            found["stream"] = {
                "scenario": self.stream.scenario,
                "description": self.stream.description,
                "stand_in_for": self.stream.stand_in_for,
                "num_classes": [task.num_classes for task in tasks],
                "num_train": [len(task.train) for task in tasks],
                "num_test": [len(task.test) for task in tasks],
                "input_shape": list(self.stream.input_shape),
            }
        if self.model is not None:
            trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            stored = sum(plugin.num_stored() for plugin in self.plugins)
            found["parameters"] = {"trainable": trainable, "stored_extra": stored}
        return found


@dataclass
class _Learner:
    """One of the trainings among which a run chooses."""

    strategy: "_Strategy"
    plugins: list[Any]
    history: list[dict[str, Any]]
    spent: dict[str, float] = field(default_factory=dict)


_MEASURED = ("started", "initial", "rows", "seconds", "selection", "history", "importance")


def _summarise(importance: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sum the importance in each layer, weight and bias together, and count its magnitudes.

    Heads that no data has reached are left out.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, value in importance.items():
        # Avalanche's own plugins wrap their tensors; `data` is the plain tensor of either.
        layers.setdefault(name.rpartition(".")[0] or name, []).append(value.data.flatten())
    joined = {name: torch.cat(values).cpu() for name, values in layers.items()}
    reached = {name: value for name, value in joined.items() if bool((value > 0).any())}
    if not reached:
        return {}
    histograms = importance_histograms(reached, bins=16)
    return {
        name: {
            "sum": float(value.double().sum()),
            "num_parameters": value.numel(),
            "histogram": {
                "counts": histograms[name].counts,
                "edges": [round(edge, 3) for edge in histograms[name].edges],
                "num_zero": histograms[name].num_zero,
            },
        }
        for name, value in reached.items()
    }


def _optimizer(model: nn.Module, training: Training) -> Optimizer:
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        # Not fused: torch's fused form fails where weights get their first gradient at other times,
        # as the heads of a joint run do.
        return SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=training.momentum)
    kind = Adam if training.optimizer == "adam" else AdamW
    return kind(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def _schedule(training: Training) -> list[SupervisedPlugin]:
    return [] if training.decay_every is None else [_Schedule(training)]


def _union(tasks: Sequence[DatasetExperience]) -> DatasetExperience:
    """Join the data of all tasks into one experience."""
    joined = tasks[0].dataset
    for experience in tasks[1:]:
        joined = joined.concat(experience.dataset)
    union = next(iter(benchmark_from_datasets(train=[joined]).streams["train"]))
    union.task_labels = sorted({label for task in tasks for label in task.task_labels})
    union.classes_in_this_experience = sorted(
        {label for task in tasks for label in task.classes_in_this_experience}
    )
    return union


class _Strategy(TensorBatches, SupervisedTemplate):  # type: ignore[misc]
    """Avalanche's supervised training with random numbers that depend on nothing but the seed."""

    _stop_training: bool

    def __init__(
        self,
        *,
        config: RunConfig,
        model: nn.Module,
        optimizer: Optimizer,
        plugins: Sequence[SupervisedPlugin],
        device: str,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=config.training.batch_size,
            train_epochs=config.training.epochs,
            eval_mb_size=EVALUATION_BATCH,
            device=device,
            plugins=plugins,
            evaluator=_silent_evaluator(),
        )
        self.seed = config.seed
        self.position = 0
        self.joint_tasks: Sequence[DatasetExperience] = ()
        self.consolidation_seconds = 0.0
        self.after_iteration: Callable[[], None] | None = None
        self.resume_inside: Callable[[], None] | None = None

    def make_train_dataloader(self, **kwargs: Any) -> None:
        self.batch_generator = torch.Generator()
        self.batch_generator.manual_seed(derive_seed(self.seed, "order", self.position))
        if len({task.task_label for task in self.joint_tasks}) > 1:
            self.dataloader = _OneTaskABatch(
                [
                    batch_source(task.dataset.train())
                    .augmented(self.batch_generator)
                    .on(self.device)
                    for task in self.joint_tasks
                ],
                self.train_mb_size,
                self.batch_generator,
            )
        else:
            super().make_train_dataloader(**kwargs)
        self.dataloader = Positioned(self.dataloader, self.batch_generator)

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        # After the plugins' hooks, so that what one of them draws shifts no dropout.
        _reseed(derive_seed(self.seed, "training", self.position))

    def _before_training_epoch(self, **kwargs: Any) -> None:
        super()._before_training_epoch(**kwargs)
        if self.resume_inside is not None:
            self.resume_inside()
            self.resume_inside = None

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        # As Avalanche's, but that the clock counts, which an interrupted task sets forward.
        while self.clock.train_exp_epochs < self.train_epochs:
            self._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)

    def _after_training_iteration(self, **kwargs: Any) -> None:
        super()._after_training_iteration(**kwargs)
        if self.after_iteration is not None:
            self.after_iteration()

    def _after_training_exp(self, **kwargs: Any) -> None:
        begin = time.perf_counter()
        super()._after_training_exp(**kwargs)
        self.consolidation_seconds = time.perf_counter() - begin

    def inside_state(self) -> dict[str, Any]:
        """Return what is needed beside weights and plugins to go on after this mini-batch."""
        counts = {name: n for name, n in vars(self.clock).items() if isinstance(n, int)}
        watch = self._watch()
        parameters = self.model.named_parameters()
        return {
            "clock": counts,
            "data": self.dataloader.position(self.clock.train_epoch_iterations),
            "optimizer": optimizer_state(self.optimizer, self.model),
            "random": random_state(self.device),
            "frozen": [name for name, p in parameters if not p.requires_grad],
            "watch": {"total": watch.total, "count": watch.count, "penalty": watch.penalty},
        }

    def load_inside_state(self, state: Mapping[str, Any]) -> None:
        """Go on after the mini-batch at which :meth:`inside_state` was called."""
        for holder, kept in ((self.clock, state["clock"]), (self._watch(), state["watch"])):
            for name, value in kept.items():
                setattr(holder, name, value)
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        self.dataloader.resume(
            state["data"], partial(load_random_state, state["random"], self.device)
        )

    def _watch(self) -> "_Watch":
        return next(plugin for plugin in self.plugins if isinstance(plugin, _Watch))


def _silent_evaluator() -> EvaluationPlugin:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No loggers specified")
        return EvaluationPlugin(collect_all=False)


class _Schedule(SupervisedPlugin):  # type: ignore[misc]
    """Lowers the learning rate within each task; the next one starts at the full rate again.

    The rate depends on the number of the epoch alone, and the full rate lies with the optimizer's
    groups, so that a run that goes on inside a task needs nothing of this plugin.

    Args:
        training: Says when and by how much.
    """

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        for group in strategy.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        share = self.training.share(strategy.clock.train_exp_epochs)
        for group in strategy.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        for group in strategy.optimizer.param_groups:
            group["lr"] = group["initial_lr"]


class _OneTaskABatch:
    """Mini-batches of one task each, all tasks mixed in random order, each sample once an epoch.

    Args:
        sources: The data of each task.
        batch_size: Samples a mini-batch; the last one of a task may be smaller.
        generator: Source of the order.
    """

    def __init__(
        self, sources: Sequence[BatchSource], batch_size: int, generator: torch.Generator
    ) -> None:
        self.sources = sources
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return sum(math.ceil(len(source) / self.batch_size) for source in self.sources)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = []
        for source in self.sources:
            order = torch.randperm(len(source), generator=self.generator).tolist()
            batches += [
                (source, order[start : start + self.batch_size])
                for start in range(0, len(order), self.batch_size)
            ]
        for i in torch.randperm(len(batches), generator=self.generator).tolist():
            source, chosen = batches[i]
            yield source.__getitems__(chosen)


class _Watch(SupervisedPlugin):  # type: ignore[misc]
    """Notes the loss of the task by epoch, and ends a run that is no longer finite.

    It comes before the method's plugins, so what it reads in ``before_backward`` is the loss of
    the task alone.

    Args:
        history: Rows are appended to it.
        names: Names of the tasks, for messages.
        plugins: The method's plugins, whose penalty is read at the end of each epoch.
    """

    def __init__(
        self, history: list[dict[str, Any]], names: Sequence[str], plugins: Sequence[Any]
    ) -> None:
        super().__init__()
        self.history = history
        self.names = names
        self.penalties = [getattr(plugin, "penalty", plugin) for plugin in plugins]
        self.total = 0.0
        self.count = 0
        self.penalty = 0.0
        self.is_last = False

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.total, self.count, self.penalty = 0.0, 0, 0.0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        # The value costs a walk over the weights: it is read in an epoch's last iteration alone.
        self.is_last = strategy.clock.train_epoch_iterations == len(strategy.dataloader) - 1
        for penalty in self.penalties:
            if hasattr(penalty, "track_value"):
                penalty.track_value = self.is_last

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self._add(strategy, float(strategy.loss.detach()))

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self._check(strategy, float(strategy.loss.detach()))

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.is_last:
            self.penalty = sum(float(p.value) for p in self.penalties if hasattr(p, "value"))

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.history.append(
            {
                "task": strategy.position,
                "epoch": strategy.clock.train_exp_epochs,
                "task_loss": self.total / max(self.count, 1),
                "penalty": self.penalty,
            }
        )
        for name, parameter in strategy.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                when = self._when(strategy)
                raise DivergenceError(f"The weights `{name}` were no longer finite {when}.")

    def _add(self, strategy: Any, loss: float) -> None:
        self._check(strategy, loss)
        self.total += loss
        self.count += 1

    def _check(self, strategy: Any, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(f"The loss became {loss} {self._when(strategy)}.")

    def _when(self, strategy: Any) -> str:
        epoch = strategy.clock.train_exp_epochs + 1
        return (
            f"in iteration {strategy.clock.train_epoch_iterations + 1} of epoch {epoch} on task "
            f"{strategy.position + 1} ({self.names[strategy.position]})"
        )


class _Probe:
    """Measures a model on every task of a stream without changing it.

    Args:
        stream: The tasks.
        device: Where the model lives.
    """

    def __init__(self, stream: Stream, device: str) -> None:
        self.stream = stream
        self.device = device
        self.cache: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
        self.cached_bytes = 0

    def accuracy(self, model: nn.Module, split: str) -> list[float]:
        """Return the accuracy on every task, 0..1.

        Args:
            model: Left as it is.
            split: "test" or "validation".
        """
        counts = self._counts(model, split, range(len(self.stream.tasks)))
        return [right / count if count else 0.0 for right, count in counts]

    def pooled_accuracy(self, model: nn.Module, split: str, positions: Sequence[int]) -> float:
        """Return the accuracy on the samples of some tasks taken together, 0..1.

        Args:
            model: Left as it is.
            split: "test" or "validation".
            positions: The tasks.
        """
        counts = self._counts(model, split, positions)
        count = sum(count for _, count in counts)
        return sum(right for right, _ in counts) / count if count else 0.0

    @torch.no_grad()
    def _counts(
        self, model: nn.Module, split: str, positions: Sequence[int]
    ) -> list[tuple[int, int]]:
        with models.evaluation_mode(model):
            return [self._count(model, split, position) for position in positions]

    def _count(self, model: nn.Module, split: str, position: int) -> tuple[int, int]:
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        count = 0
        for x, y in self.batches(split, position):
            output = model(x, position) if isinstance(model, MultiTaskModule) else model(x)
            right += (output.argmax(dim=1) == y).sum()
            count += len(y)
        return int(right), count

    def batches(self, split: str, position: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the mini-batches of a task in the order of the data, kept while there is room.

        Args:
            split: "train", "validation" or "test".
            position: The task.
        """
        key = (split, position)
        if key in self.cache:
            yield from self.cache[key]
            return
        task = self.stream.tasks[position]
        data: Split = getattr(task, split)
        sample_bytes = 4 * math.prod(self.stream.input_shape)
        size = min(EVALUATION_BATCH, max(1, EVALUATION_BYTES // sample_bytes))
        num_bytes = sample_bytes * len(data)
        keep = self.cached_bytes + num_bytes <= CACHE_BYTES
        kept = []
        for start in range(0, len(data), size):
            x = task.transform(data.x[start : start + size].to(self.device))
            batch = (x, data.y[start : start + size].to(self.device))
            if keep:
                kept.append(batch)
            yield batch
        if keep:
            self.cache[key] = kept
            self.cached_bytes += num_bytes
