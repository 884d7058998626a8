"""What a penalty costs: one training step of AlexNet, through Avalanche's own loop."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins import MASPlugin as AvalancheMAS
from avalanche.training.supervised import Naive
from avalanche.training.utils import ParamData
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks import provenance
from benchmarks.speed.timing import interleaved
from mas_avalanche.alexnet import MultiHeadAlexNet
from mas_avalanche.plugin import MASPlugin

__all__ = ["measure_penalty"]


def measure_penalty(
    *,
    rounds: int = 20,
    batch_size: int = 32,
    device: str = "cpu",
    image_size: int = 224,
    width: float = 1.0,
) -> dict[str, Any]:
    """Time one training step with each form of the penalty against one without.

    All candidates train the same model with the same optimizer on the same mini-batch, in turn;
    they differ only in the plugins of the strategy. The learning rate is zero, so that the weights
    stay where they are. The strategies' own overhead is in every candidate.

    Args:
        rounds: Counted rounds; each takes one step of every candidate.
        batch_size: Images a mini-batch.
        device: Where the model is trained.
        image_size: Pixels a side, see :class:`mas_avalanche.MultiHeadAlexNet`.
        width: Factor on the number of channels and features.

    Returns:
        What was measured: the settings, and for each candidate of "naive", "gradient",
        "proximal" and "avalanche" what :func:`benchmarks.speed.timing.interleaved` gives, with the
        ratios relative to "naive".
    """
    torch.manual_seed(0)
    model = MultiHeadAlexNet([100], image_size=image_size, width=width)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size,
        device=device,
        evaluator=EvaluationPlugin(),
    )
    data = TensorDataset(
        torch.randn(batch_size, 3, image_size, image_size), torch.arange(batch_size) % 2
    )
    stream = nc_benchmark(data, data, n_experiences=1, task_labels=True)
    strategy.train(stream.train_stream[0], num_workers=0)
    importance = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    anchor = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    plugins = {
        "naive": [],
        "gradient": [_ours("gradient", importance, anchor)],
        "proximal": [_ours("proximal", importance, anchor)],
        "avalanche": [_avalanche(importance, anchor)],
    }
    # Every step runs the loop's plugins; those of the strategy itself stay in each candidate.
    own = list(strategy.plugins)
    strategy.experience = stream.train_stream[0]
    strategy.model.train()
    batch = [x.to(device) for x in next(_batches(strategy, stream.train_stream[0]))]

    def step(name: str) -> Callable[[], None]:
        def take() -> None:
            strategy.plugins = [*plugins[name], *own]
            strategy.dataloader = [list(batch)]
            strategy.training_epoch()

        return take

    results = interleaved({name: step(name) for name in plugins}, reference="naive", rounds=rounds)
    return {
        "what": "one training step of MultiHeadAlexNet",
        "batch_size": batch_size,
        "image_size": image_size,
        "width": width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": provenance.processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "results": results,
    }


def _ours(mode: Any, importance: dict[str, Tensor], anchor: dict[str, Tensor]) -> MASPlugin:
    plugin = MASPlugin(lambda_reg=1.0, mode=mode)
    plugin.importance, plugin.anchor = importance, anchor
    return plugin


def _avalanche(importance: dict[str, Tensor], anchor: dict[str, Tensor]) -> Any:
    plugin = AvalancheMAS(lambda_reg=1.0)
    plugin.importance = {name: _param_data(name, value) for name, value in importance.items()}
    plugin.params = {name: _param_data(name, value) for name, value in anchor.items()}
    return plugin


def _param_data(name: str, value: Tensor) -> Any:
    return ParamData(name, value.shape, init_tensor=value, device=value.device)


def _batches(strategy: Any, experience: Any) -> Iterator[Any]:
    strategy.experience = experience
    strategy.train_dataset_adaptation()
    strategy.make_train_dataloader()
    yield from strategy.dataloader
