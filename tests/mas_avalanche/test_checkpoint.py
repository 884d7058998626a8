import copy
import random

import numpy as np
import pytest
import torch
from avalanche.checkpointing import save_checkpoint as avalanche_save
from avalanche.models import IncrementalClassifier
from torch import nn

from mas_avalanche import MAS
from mas_avalanche.checkpoint import maybe_load_checkpoint, picklable_optimizers, save_checkpoint
from mas_avalanche.heads import MultiHeadModel
from tests import continual
from tests.continual import assert_same_weights, class_incremental_experiences, experiences

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def headed():
    trunk = nn.Sequential(nn.Linear(continual.NUM_FEATURES, 8), nn.Tanh(), nn.Dropout(0.3))
    return MultiHeadModel(trunk, 8)


def growing():
    trunk = nn.Sequential(nn.Linear(continual.NUM_FEATURES, 8), nn.Tanh(), nn.Dropout(0.3))
    return nn.Sequential(trunk, IncrementalClassifier(8, initial_out_features=2))


def learner(make_model, make_optimizer, mode="gradient", seed=0):
    torch.manual_seed(seed)
    model = make_model()
    return MAS(
        model=model,
        optimizer=make_optimizer(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        lambda_reg=0.3,
        mode=mode,
        train_mb_size=5,
        train_epochs=2,
        evaluator=None,
    )


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["heads", "growing"])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, kind, optimizer, mode):
    if kind == "heads":
        stream, make_model = experiences(task_labels=True, dtype=torch.float32), headed
    else:
        stream, make_model = class_incremental_experiences(dtype=torch.float32), growing
    path = tmp_path / "run.pt"
    whole = learner(make_model, OPTIMIZERS[optimizer], mode)
    for number, experience in enumerate(stream):
        whole.train(experience)
        if number == 1:
            save_checkpoint(whole, path)
    for scatter in (torch.manual_seed, np.random.seed, random.seed):
        scatter(12345)
    fresh = learner(make_model, OPTIMIZERS[optimizer], mode, seed=99)
    resumed, start = maybe_load_checkpoint(fresh, path)
    assert start == 2
    for experience in stream[start:]:
        resumed.train(experience)
    assert_same_weights(whole.model, resumed.model)
    assert whole.mas.importance.keys() == resumed.mas.importance.keys()
    for name, value in whole.mas.importance.items():
        assert torch.equal(resumed.mas.importance[name], value)
        assert torch.equal(resumed.mas.anchor[name], whole.mas.anchor[name])


def test_resuming_without_the_plugin_would_not_be_the_same(tmp_path):
    """The check above can fail: what the plugin remembers matters to it."""
    stream = experiences(task_labels=True, dtype=torch.float32)
    whole = learner(headed, OPTIMIZERS["SGD"])
    for experience in stream[:2]:
        whole.train(experience)
    save_checkpoint(whole, tmp_path / "run.pt")
    resumed, _ = maybe_load_checkpoint(learner(headed, OPTIMIZERS["SGD"]), tmp_path / "run.pt")
    resumed.mas.importance = {}
    state = torch.get_rng_state()
    whole.train(stream[2])
    torch.set_rng_state(state)
    resumed.train(stream[2])
    assert continual.largest_difference(whole.model, resumed.model) > 1e-4


def test_loading_prints_no_more_than_for_a_strategy_without_the_plugin(tmp_path, capsys):
    strategy = learner(headed, OPTIMIZERS["SGD"])
    strategy.train(experiences(task_labels=True, dtype=torch.float32)[0])
    save_checkpoint(strategy, tmp_path / "run.pt")
    capsys.readouterr()
    maybe_load_checkpoint(learner(headed, OPTIMIZERS["SGD"]), tmp_path / "run.pt")
    assert len(capsys.readouterr().out.splitlines()) <= 1  # the strategy's own device


def test_missing_file_leaves_the_strategy_as_it_is(tmp_path):
    strategy = learner(headed, OPTIMIZERS["SGD"])
    model = strategy.model
    again, start = maybe_load_checkpoint(strategy, tmp_path / "none.pt")
    assert again.model is model
    assert start == 0


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("cannot be written")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    strategy = learner(headed, OPTIMIZERS["SGD"])
    path = tmp_path / "run.pt"
    save_checkpoint(strategy, path)
    old = path.read_bytes()
    strategy.extra = Unpicklable()
    with pytest.raises(RuntimeError, match="cannot be written"):
        save_checkpoint(strategy, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    save_checkpoint(strategy, path, exclude=["extra"])


def test_avalanches_own_function_works_inside_the_context(tmp_path):
    strategy = learner(headed, OPTIMIZERS["Adam"])
    modules = copy.copy(vars(torch.optim))
    with picklable_optimizers():
        avalanche_save(strategy, tmp_path / "run.pt")
    assert vars(torch.optim).keys() == modules.keys()
    loaded, _ = maybe_load_checkpoint(learner(headed, OPTIMIZERS["Adam"]), tmp_path / "run.pt")
    assert type(loaded.optimizer) is torch.optim.Adam
