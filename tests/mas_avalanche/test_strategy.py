"""What Avalanche asks of its own strategies, asked of ours."""

import inspect

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import MTSimpleMLP, SimpleMLP, as_multitask
from avalanche.training import supervised as avalanche_strategies
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base import PositionalArgumentsDeprecatedWarning
from torch import nn
from torch.utils.data import TensorDataset

from mas_avalanche import MAS, MASPlugin
from mas_avalanche.heads import MultiHeadModel

CALLBACKS = [
    name
    for name in dir(SupervisedPlugin)
    if name.startswith(("before_", "after_")) and callable(getattr(SupervisedPlugin, name))
]


def benchmark(task_labels):
    """Ten classes in five experiences of six features, easy to learn."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(10, 6, generator=generator)

    def dataset(number):
        y = torch.arange(number) % 10
        return TensorDataset(centres[y] + torch.randn(number, 6, generator=generator), y)

    return nc_benchmark(
        dataset(200),
        dataset(100),
        n_experiences=5,
        task_labels=task_labels,
        shuffle=False,
        class_ids_from_zero_in_each_exp=task_labels,
    )


def single_head():
    return SimpleMLP(input_size=6, hidden_size=10, num_classes=10, drop_rate=0.0)


def converted():
    return as_multitask(single_head(), "classifier")


def own_heads():
    return MultiHeadModel(nn.Sequential(nn.Linear(6, 10), nn.ReLU()), 10)


MODELS = {
    "one head": (single_head, False),
    "Avalanche's multi-head": (lambda: MTSimpleMLP(input_size=6, hidden_size=10), True),
    "converted": (converted, True),
    "ours": (own_heads, True),
}


@pytest.mark.parametrize("mode", ["gradient", "proximal"])
@pytest.mark.parametrize("kind", MODELS)
def test_runs_with_periodic_evaluation_and_learns_the_present_task(kind, mode):
    make_model, task_labels = MODELS[kind]
    stream, model = benchmark(task_labels), make_model()
    strategy = MAS(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        lambda_reg=1e-3,
        mode=mode,
        train_mb_size=10,
        train_epochs=4,
        eval_mb_size=50,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
        eval_every=0,
    )
    for number, experience in enumerate(stream.train_stream):
        strategy.train(experience, eval_streams=[stream.test_stream], num_workers=0)
        metrics = strategy.eval(stream.test_stream[number : number + 1])
        (present,) = [v for n, v in metrics.items() if n.endswith(f"/Exp{number:03d}")]
        assert present > 0.6
    assert len(strategy.mas.importance_seconds) == 5
    if task_labels:
        assert any("4" in name for name in strategy.mas.importance)


class Trace(SupervisedPlugin):
    """Notes every callback."""

    def __init__(self):
        super().__init__()
        self.seen = []


for _name in CALLBACKS:

    def _note(self, strategy, *args, _name=_name, **kwargs):
        self.seen.append(_name)

    setattr(Trace, _name, _note)


def traced(plugins):
    model, trace = single_head(), Trace()
    strategy = MAS(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=20,
        plugins=[trace, *plugins],
        evaluator=EvaluationPlugin(loggers=[]),
        eval_every=0,
    )
    stream = benchmark(False)
    strategy.train(stream.train_stream[:2], eval_streams=[stream.test_stream[:1]])
    return trace.seen


def test_every_callback_is_reached_in_the_same_order_with_the_plugin():
    seen = traced([MASPlugin()])
    assert set(seen) == set(CALLBACKS)
    start = seen.index("before_training_iteration")
    assert seen[start : start + 8] == [
        "before_training_iteration",
        "before_forward",
        "after_forward",
        "before_backward",
        "after_backward",
        "before_update",
        "after_update",
        "after_training_iteration",
    ]


def test_plugin_implements_no_callback_that_avalanche_does_not_know():
    ours = {name for name in vars(MASPlugin) if name.startswith(("before", "after"))}
    assert ours <= set(CALLBACKS)


def test_constructor_is_that_of_avalanches_strategy():
    theirs = list(inspect.signature(avalanche_strategies.MAS).parameters)[:-1]
    ours = list(inspect.signature(MAS).parameters)
    assert ours[: len(theirs)] == theirs


def test_positional_arguments_are_deprecated_as_in_avalanche():
    model = single_head()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(PositionalArgumentsDeprecatedWarning):
        strategy = MAS(model, optimizer, nn.CrossEntropyLoss(), 0.5, evaluator=None)
    assert strategy.mas.lambda_reg == 0.5


def test_every_option_of_the_plugin_is_one_of_the_strategy():
    plugin = inspect.signature(MASPlugin).parameters
    assert plugin.keys() <= inspect.signature(MAS).parameters.keys()
    given = {
        "lambda_reg": 0.5,
        "alpha": 0.25,
        "verbose": True,
        "objective": "vector",
        "mode": "proximal",
        "normalization": "max",
        "importance_data": torch.zeros(1, 6),
        "task_label": 3,
        "batch_size": 7,
        "max_samples": 9,
        "tolerance": 0.5,
        "check_finite": False,
    }
    assert given.keys() == plugin.keys()
    model = single_head()
    strategy = MAS(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        criterion=nn.CrossEntropyLoss(),
        evaluator=None,
        **given,
    )
    for name, value in given.items():
        assert plugin[name].default is not value
        assert getattr(strategy.mas.penalty if name == "mode" else strategy.mas, name) is value


def test_misspelt_options_are_refused():
    model = single_head()
    with pytest.raises(TypeError, match="lambda_rge"):
        MAS(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            criterion=nn.CrossEntropyLoss(),
            lambda_rge=0.5,
        )


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adadelta,
        torch.optim.Adafactor,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.Adamax,
        torch.optim.AdamW,
        torch.optim.ASGD,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    ],
    ids=lambda o: o.__name__,
)
@pytest.mark.parametrize("mode", ["gradient", "proximal"])
def test_optimizers_follow_heads_that_appear(optimizer, mode):
    stream, model = benchmark(True), own_heads()
    strategy = MAS(
        model=model,
        optimizer=optimizer(model.parameters(), lr=0.01),
        criterion=nn.CrossEntropyLoss(),
        mode=mode,
        train_mb_size=20,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for number, experience in enumerate(stream.train_stream[:3]):
        heads = {n: v.clone() for n, v in model.state_dict().items() if n.startswith("head.")}
        strategy.train(experience)
        held = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters()}
        for name, value in heads.items():
            if f"heads.{number}." not in name:
                assert torch.equal(model.state_dict()[name], value)
        for parameter in model.parameters():
            assert bool(torch.isfinite(parameter).all())
