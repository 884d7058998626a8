"""The Avalanche logger for Weights & Biases, read back from offline files."""

import copy
import json
import logging
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import (
    accuracy_metrics,
    confusion_matrix_metrics,
    loss_metrics,
)
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.utils.data import TensorDataset

from mas_avalanche import MASPlugin, wandb_logger
from mas_avalanche.wandb_logger import WandBLogger
from tests.wandb_files import read_run, runs_in, service_processes, wait_until
from tests.wandb_server import hanging, refusing, serve

ROOT = Path(__file__).parents[2]


def make_benchmark(num_samples=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_samples, 6, generator=generator)
    y = torch.arange(num_samples) % 4
    x[torch.arange(num_samples), y] += 3
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False)


def make_strategy(logger, *metrics, epochs=2, plugins=(), **kwargs):
    metrics = metrics or (
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True),
    )
    model = SimpleMLP(num_classes=4, input_size=6, hidden_size=8)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=32,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(*metrics, loggers=[logger]),
        **kwargs,
    )


def train(strategy, benchmark=None):
    benchmark = benchmark or make_benchmark()
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)


def only(run, axis):
    return [row for row in run.rows if axis in row]


@pytest.fixture(autouse=True)
def _no_service_lingers():
    yield
    assert wait_until(lambda: not service_processes(), 15)


def train_with_everything(logger):
    strategy = make_strategy(
        logger,
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True),
        confusion_matrix_metrics(num_classes=4, stream=True, save_image=False),
        plugins=[MASPlugin(lambda_reg=0.1)],
        eval_every=1,
    )
    benchmark = make_benchmark()
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])
        strategy.eval(benchmark.test_stream)
    return strategy


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A MAS training with an evaluation each epoch, all iterations logged."""
    folder = tmp_path_factory.mktemp("logger")
    torch.manual_seed(0)
    with WandBLogger(
        "project",
        name="name",
        group="study",
        job_type="mas",
        tags=["v1"],
        config={"seed": 7},
        mode="offline",
        folder=folder,
        seconds_between_rows=0,
    ) as logger:
        strategy = train_with_everything(logger)
        logger.log({"own": 3})
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_run(path), path.parent, logger, strategy


def test_one_run_with_its_labels(trained):
    run, _, logger, _ = trained
    assert run.run.run_id == logger.run_id
    assert (run.run.project, run.run.display_name) == ("project", "name")
    assert (run.run.run_group, run.run.job_type) == ("study", "mas")
    assert list(run.run.tags) == ["v1"]
    assert run.exit_code == 0


def test_configuration_is_read_off_the_strategy(trained):
    config = trained[0].config
    assert config["seed"] == 7
    assert config["strategy"] == "Naive"
    assert config["train_mb_size"] == 16
    assert config["optimizer"]["lr"] == 0.05
    assert config["plugins"]["MASPlugin"]["lambda_reg"] == 0.1


def test_each_metric_has_its_axis(trained):
    run = trained[0]
    assert run.step_metrics["train/*"] == "iteration"
    assert run.step_metrics["epoch/*"] == "epoch"
    assert run.step_metrics["eval/*"] == "experiences_trained"
    iterations = [row["iteration"] for row in only(run, "iteration") if "train" in str(row)]
    assert sorted(set(iterations)) == list(range(8))
    epochs = only(run, "epoch")
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert all("epoch/Top1_Acc" in row and "epoch/Loss" in row for row in epochs)


def test_names_do_not_change_from_task_to_task(trained):
    evaluations = [row for row in only(trained[0], "experiences_trained") if "eval" in str(row)]
    keys = "eval/test_stream/Top1_Acc"
    by_count = {row["experiences_trained"]: row for row in evaluations if keys in row}
    assert sorted(by_count) == [0, 1, 2]
    assert f"{keys}/experience 01" in by_count[2]
    assert not any("Task0" in key for row in trained[0].rows for key in row)


def test_evaluations_within_an_experience_stand_apart(trained):
    rows = [row for row in trained[0].rows if any(key.startswith("during/") for key in row)]
    assert rows
    assert all("iteration" in row and "experiences_trained" not in row for row in rows)


def test_nothing_is_logged_twice(trained):
    seen = set()
    for row in trained[0].rows:
        for axis in ("iteration", "epoch", "experiences_trained"):
            if axis in row:
                for key in row:
                    if not key.startswith("_") and key != axis:
                        assert (key, row[axis]) not in seen
                        seen.add((key, row[axis]))


def test_task_loss_and_penalty_are_apart(trained):
    rows = [row for row in only(trained[0], "iteration") if "train/penalty" in row]
    first = [row for row in rows if row["train/experience"] == 0]
    second = [row for row in rows if row["train/experience"] == 1]
    assert len(first) == len(second) == 4
    assert all(row["train/penalty"] == 0 for row in first)
    assert second[0]["train/penalty"] == pytest.approx(0, abs=1e-6)
    assert second[-1]["train/penalty"] > 1e-4
    assert all(row["train/task_loss"] > 0 for row in rows)


def test_matrix_as_table_and_pictures(trained):
    run, folder, *_ = trained
    last = run.rows[-1]
    table = json.loads((folder / "files" / last["accuracy_matrix/test_stream"]["path"]).read_text())
    assert table["columns"] == ["after", "experience 0", "experience 1"]
    assert [row[0] for row in table["data"]] == ["0 trained", "1 trained", "2 trained"]
    evaluations = [row for row in run.rows if "eval/test_stream/Top1_Acc" in row]
    assert table["data"][2][1] == evaluations[-1]["eval/test_stream/Top1_Acc/experience 00"]
    for name in ("accuracy_heat_map/test_stream", "eval/test_stream/ConfusionMatrix"):
        assert (folder / "files" / last[name]["path"]).read_bytes().startswith(b"\x89PNG")


def test_importance_of_each_parameter(trained):
    run = trained[0]
    rows = [row for row in run.rows if any(key.startswith("importance/") for key in row)]
    assert [row["experiences_trained"] for row in rows] == [1, 2]
    histogram = rows[0]["importance/classifier.weight"]
    assert histogram["_type"] == "histogram"
    assert sum(histogram["values"]) == 32
    assert rows[0]["importance_mean/classifier.weight"] > 0


def test_own_numbers(trained):
    assert any(row.get("custom/own") == 3 for row in trained[0].rows)


def test_training_is_the_same_without_it(trained):
    *_, strategy = trained
    torch.manual_seed(0)
    with WandBLogger(mode="disabled") as logger:
        other = train_with_everything(logger)
    for weight, same in zip(strategy.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(weight, same)
    assert not strategy.plugins[0].penalty.track_value


def test_two_runs_at_once_and_a_checkpoint_that_goes_on(tmp_path):
    benchmark = make_benchmark()
    one, other = (
        WandBLogger(mode="offline", folder=tmp_path, seconds_between_rows=0) for _ in range(2)
    )
    first, second = make_strategy(one), make_strategy(other)
    first.train(benchmark.train_stream[0])
    second.train(benchmark.train_stream[0])
    kept = pickle.dumps(one)
    twin = copy.deepcopy(other)
    assert twin.run_id != other.run_id
    first.train(benchmark.train_stream[1])  # goes on after the checkpoint was taken …
    other.finish()
    again = pickle.loads(kept)  # … and is then taken back to it
    first.evaluator.loggers = [again]
    first.clock.train_iterations = 4
    assert again.run_id == one.run_id
    first.train(benchmark.train_stream[1])
    first.train(benchmark.train_stream[0])
    again.finish()
    runs = runs_in(tmp_path)
    assert sorted(run.run.run_id for run in runs) == sorted([one.run_id, one.run_id, other.run_id])
    segments = [run for run in runs if run.run.run_id == one.run_id]
    iterations = [[row["iteration"] for row in only(run, "iteration")] for run in segments]
    assert iterations == [list(range(8)), list(range(8, 12))]
    assert [row["epoch"] for row in only(segments[1], "epoch")] == [5, 6]


SCRIPT = """
    import sys
    import types
    package = types.ModuleType("tests")
    package.__path__ = [{root!r} + "/tests"]
    sys.modules["tests"] = package
    sys.path.insert(0, {root!r})
    import os
    import time
    import torch
    from mas_avalanche.wandb_logger import WandBLogger
    from tests.mas_avalanche.test_wandb_logger import make_benchmark, make_strategy
    logger = WandBLogger(mode="offline", folder={folder!r}, seconds_between_rows=0)
    strategy = make_strategy(logger)
    benchmark = make_benchmark()
    strategy.train(benchmark.train_stream[0])
    assert logger._writer.wait_until_open(60)
    time.sleep(1)
    class Fails(torch.nn.Module):
        def forward(self, x):
            {fails}
    strategy.model = Fails()
    strategy.train(benchmark.train_stream[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "code"), [("raise RuntimeError('broken')", 1), ("os.kill(os.getpid(), 9)", -9)]
)
def test_a_training_that_dies_leaves_a_finished_run(tmp_path, fails, code):
    script = textwrap.dedent(SCRIPT).format(root=str(ROOT), folder=str(tmp_path), fails=fails)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert wait_until(lambda: [run.exit_code for run in runs_in(tmp_path)] == [1], 20)
    (run,) = runs_in(tmp_path)
    assert only(run, "iteration")


def test_a_raising_block_finishes(tmp_path):
    logger = WandBLogger(mode="offline", folder=tmp_path, seconds_between_rows=0)
    strategy = make_strategy(logger)
    strategy.train(make_benchmark().train_stream[0])
    with pytest.raises(AttributeError), logger:
        strategy.train(None)
    (run,) = runs_in(tmp_path)
    assert run.exit_code == 1


@pytest.mark.slow
def test_a_forgotten_logger_finishes(tmp_path):
    forgotten = WandBLogger(mode="offline", folder=tmp_path, seconds_between_rows=0)
    forgotten.log({"x": 1})
    del forgotten
    (run,) = runs_in(tmp_path)
    assert run.exit_code == 0


def log_and_leave(folder):
    global kept
    kept = WandBLogger(mode="offline", folder=folder, seconds_between_rows=0)
    kept.log({"x": 1})


@pytest.mark.slow
def test_a_child_process_finishes(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=log_and_leave, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    (run,) = runs_in(tmp_path)
    assert run.exit_code == 0
    assert only(run, "iteration")


@pytest.mark.parametrize("server", [hanging, pytest.param(refusing, marks=pytest.mark.slow)])
def test_a_bad_server_never_holds_training_up(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with server() as standing, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        logger = WandBLogger(
            mode="online",
            folder=tmp_path,
            seconds_between_rows=0,
            settings={"init_timeout": 2},
        )
        strategy = make_strategy(logger)
        train(strategy)
        assert logger.seconds_spent < 2
        start = time.monotonic()
        logger.finish()
        assert time.monotonic() - start < logger.finish_seconds
    assert len(caplog.records) == 1
    assert "could not be reached" in caplog.text
    (run,) = runs_in(tmp_path)
    assert len(only(run, "epoch")) == 4
    assert not list(tmp_path.glob("wandb/run-*"))


@pytest.mark.slow
def test_a_server_that_falls_silent_costs_bounded_time(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serve() as standing, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        logger = WandBLogger(
            mode="online", folder=tmp_path, seconds_between_rows=0, finish_seconds=3
        )
        logger.log({"x": 1})
        assert logger._writer.wait_until_open(30)
        standing.silent.set()
        train(make_strategy(logger))
        start = time.monotonic()
        logger.finish()
        assert time.monotonic() - start < 6
    assert "did not finish within 3 s" in caplog.text
    assert list(tmp_path.glob("wandb/run-*/*.wandb"))


@pytest.mark.slow
def test_online_rows_arrive_once_and_go_on_under_the_same_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serve() as standing:
        monkeypatch.setenv("WANDB_BASE_URL", standing.url)
        for folder in ("one", "two"):  # the second knows only what the server says
            logger = WandBLogger(
                mode="online", run_id="r", folder=tmp_path / folder, seconds_between_rows=0
            )
            strategy = make_strategy(logger, epochs=2 if folder == "one" else 3)
            strategy.train(make_benchmark().train_stream[0])
            logger.finish()
    epochs = [row["epoch"] for row in standing.lines["r"].values() if "epoch" in row]
    assert epochs == [1, 2, 3]
    assert standing.finished == {"r": 0}


@pytest.mark.slow
def test_logging_costs_little(tmp_path):
    torch.manual_seed(0)
    benchmark = make_benchmark(4000)
    with WandBLogger(mode="offline", folder=tmp_path) as logger:
        strategy = make_strategy(logger)
        start = time.perf_counter()
        train(strategy, benchmark)
        total = time.perf_counter() - start
        assert logger.seconds_spent < 0.05 * total
    (run,) = runs_in(tmp_path)
    assert len(only(run, "iteration")) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("free", [4, 0], ids=["fills-up", "full"])
def test_a_full_disk_never_holds_training_up(free, tmp_path):
    script = """
        import logging
        import sys
        from pathlib import Path
        sys.path.insert(0, {root!r})
        from mas_avalanche.wandb_logger import WandBLogger
        from tests.mas_avalanche.test_wandb_logger import make_strategy, train
        logging.basicConfig(stream=sys.stdout)
        folder = Path({folder!r})
        logger = WandBLogger(mode="offline", folder=folder, seconds_between_rows=0)
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1024))
            except OSError:
                filler.truncate(filler.tell() - {free} * 1024)
        strategy = make_strategy(logger)
        train(strategy)
        logger.finish()
        print("trained", strategy.clock.train_iterations, logger.seconds_spent < 2)
    """
    script = textwrap.dedent(script).format(root=str(ROOT), folder=str(tmp_path), free=free)
    disk = f"mount -t tmpfs -o size=256k none '{tmp_path}'"
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*alone, disk], check=False).returncode:
        pytest.skip("no disk of its own can be mounted here")
    command = f'{disk} && exec "$0" -P -c "$1"'
    done = subprocess.run(
        [*alone, command, sys.executable, script],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "trained 8 True" in done.stdout
    assert "No space left on device" in done.stdout


def test_disabled_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_logger, "Writer", None)
    monkeypatch.setattr(wandb_logger, "is_installed", lambda: False)
    with WandBLogger(mode="disabled", folder=tmp_path / "none") as logger:
        make_strategy(logger, epochs=1).train(make_benchmark().train_stream[0])
        logger.log({"x": 1})
    assert not (tmp_path / "none").exists()


def test_the_environment_decides_the_mode(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert WandBLogger().mode == "offline"


def test_messages(monkeypatch):
    with pytest.raises(ValueError, match="Expected `mode` to be 'offline', 'online' or 'disabled'"):
        WandBLogger(mode="sometimes")
    with pytest.raises(ValueError, match="Expected `finish_seconds` to be at least 0, got -1"):
        WandBLogger(mode="disabled", finish_seconds=-1)
    monkeypatch.setattr(wandb_logger, "is_installed", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install mas-avalanche\[wandb\]"):
        WandBLogger(mode="offline")
