"""Mini-batches cut from tensors are those of Avalanche's loader, bit for bit."""

import copy
import pickle

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import MTSimpleMLP, SimpleMLP
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import Dataset, TensorDataset

from mas_avalanche.importance import estimate_importance
from mas_avalanche.mini_batches import mini_batches
from mas_avalanche.tensor_batches import BatchDataset, TensorBatches, batch_source


class FastNaive(TensorBatches, Naive):
    pass


class Recorder(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.seen = []

    def before_forward(self, strategy, **kwargs):
        self.seen.append([part.clone() for part in strategy.mbatch])

    def before_eval_forward(self, strategy, **kwargs):
        self.seen.append([part.clone() for part in strategy.mbatch])


def halve(x):
    return x.float() / 2


def jitter(x, generator):
    return x + torch.randint(0, 2, x.shape, generator=generator, dtype=x.dtype)


def data(n=50, seed=0, kind=BatchDataset, **options):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 200, (n, 6), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % 6
    if kind is BatchDataset:
        return BatchDataset(x, y, transform=halve, **options)
    dataset = TensorDataset(halve(x), y)
    dataset.targets = y.tolist()
    return dataset


def benchmark(kind, *, task_labels):
    return nc_benchmark(
        data(51, 0, kind),
        data(29, 1, kind),
        n_experiences=3,
        task_labels=task_labels,
        class_ids_from_zero_in_each_exp=task_labels,
        seed=3,
    )


def train(strategy_class, kind, *, task_labels, plugins=()):
    torch.manual_seed(5)
    model = (
        MTSimpleMLP(6, 8) if task_labels else SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
    )
    recorder = Recorder()
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        train_mb_size=4,
        train_epochs=2,
        eval_mb_size=5,
        plugins=[recorder, *plugins],
    )
    stream = benchmark(kind, task_labels=task_labels)
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    return recorder.seen, [p.detach().clone() for p in model.parameters()]


def assert_same_training(ours, theirs):
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert [part.dtype for part in mine] == [part.dtype for part in other]
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


@pytest.mark.parametrize("task_labels", [True, False])
@pytest.mark.parametrize("kind", [BatchDataset, TensorDataset])
def test_training_is_avalanches_to_the_bit(kind, task_labels):
    assert_same_training(
        train(FastNaive, kind, task_labels=task_labels),
        train(Naive, kind, task_labels=task_labels),
    )


@pytest.mark.parametrize("task_labels", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_is_avalanches_and_leaves_its_random_state(task_labels, drop_last):
    experience = benchmark(BatchDataset, task_labels=task_labels).train_stream[0]

    def epochs(strategy_class):
        model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
        strategy = strategy_class(
            model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_mb_size=4
        )
        strategy.experience = experience
        strategy.adapted_dataset = experience.dataset.train()
        strategy.make_train_dataloader(drop_last=drop_last)
        torch.manual_seed(2)
        seen = [[y.tolist() for _, y, *_ in strategy.dataloader] for _ in range(2)]
        return seen, len(strategy.dataloader), torch.get_rng_state()

    ours, theirs = epochs(FastNaive), epochs(Naive)
    assert ours[:2] == theirs[:2]
    assert [len(epoch) for epoch in ours[0]] == [ours[1]] * 2
    assert torch.equal(ours[2], theirs[2])


def test_replay_beside_it_is_avalanches_to_the_bit():
    def with_replay(strategy_class):
        return train(
            strategy_class, BatchDataset, task_labels=False, plugins=[ReplayPlugin(mem_size=10)]
        )

    assert_same_training(with_replay(FastNaive), with_replay(Naive))


def test_source_follows_subsets_concatenations_and_attributes():
    left, right = data(11, 0), data(7, 1)
    joined = AvalancheDataset([AvalancheDataset([left]), AvalancheDataset([right])])
    labelled = joined.subset([17, 0, 12, 3, 3]).update_data_attribute(
        "marks", DataAttribute([9, 8, 7, 6, 5], "marks", use_in_getitem=True)
    )
    twice = labelled.concat(labelled.subset([4, 1]))
    source = batch_source(twice)
    for i in range(len(twice)):
        x, y, mark = source.__getitems__([i])
        theirs = twice[i]
        assert torch.equal(x[0], theirs[0])
        assert (int(y), int(mark)) == (theirs[1], theirs[2])
    assert source.__getitems__([6, 0, 2])[2].tolist() == [8, 9, 7]


def test_own_generator_fixes_order_and_augmentation_whatever_the_global_state():
    def run(global_seed):
        torch.manual_seed(global_seed)
        dataset = as_classification_dataset(data(20, 0, augment=jitter))
        stream = nc_benchmark(
            [dataset], [dataset], n_experiences=1, task_labels=False, one_dataset_per_exp=True
        )
        model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
        recorder = Recorder()
        strategy = FastNaive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            train_mb_size=8,
            train_epochs=2,
            plugins=[recorder],
        )
        strategy.batch_generator = torch.Generator().manual_seed(1)
        strategy.train(stream.train_stream[0])
        return recorder.seen, dataset

    first, dataset = run(0)
    second, _ = run(1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    plain = torch.cat([x for x, _ in map(dataset.__getitem__, range(20))]).sum()
    assert torch.cat([x.flatten() for x, *_ in first[:3]]).sum() > plain  # augmented
    assert not torch.equal(first[0][0], first[3][0])  # the epochs differ


def test_augmentation_takes_nothing_from_the_global_random_state():
    class Ours(FastNaive):
        pass

    augmented = AvalancheDataset([data(8, 0, augment=jitter)])
    strategy = Ours.__new__(Ours)
    strategy.device = torch.device("cpu")
    state = torch.get_rng_state()
    strategy.dataloader = torch.utils.data.DataLoader(augmented)
    strategy._cut_batches(train=True)
    assert torch.equal(torch.get_rng_state(), state)


class Watched:
    """Changes of mini-batches that note where these lie."""

    def __init__(self):
        self.seen = []

    def transform(self, x):
        self.seen.append(("transform", x.device.type, x.dtype))
        return halve(x)

    def augment(self, x, generator):
        self.seen.append(("augment", x.device.type, x.dtype))
        return x + torch.randint(0, 2, x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def data(self, n=12):
        x = torch.arange(6 * n, dtype=torch.uint8).view(n, 6)
        return BatchDataset(x, torch.arange(n) % 6, self.transform, self.augment)


def loaded(device, make="make_train_dataloader", **options):
    """What a strategy on a device loads, where its mini-batches were changed, what was drawn."""
    watched = Watched()
    model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
    strategy = FastNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=5,
        eval_mb_size=5,
    )
    # No more of the device is needed than its name: "meta" holds shapes without numbers.
    strategy.device = torch.device(device)
    strategy.batch_generator = torch.Generator().manual_seed(2)
    strategy.adapted_dataset = as_classification_dataset(watched.data())
    getattr(strategy, make)(**options)
    watched.seen.clear()
    batches = list(strategy.dataloader)
    return batches, watched.seen, strategy.batch_generator.get_state()


def test_stored_samples_are_moved_first_and_changed_on_the_device():
    batches, seen, drawn = loaded("meta", pin_memory=True)
    assert len(batches) == 3
    assert seen == 3 * [("augment", "meta", torch.uint8), ("transform", "meta", torch.uint8)]
    assert {x.device.type for x, *_ in batches} == {"meta"}
    on_cpu, _, drawn_on_cpu = loaded("cpu")
    assert torch.equal(drawn, drawn_on_cpu)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, on_cpu, strict=True))
    batches, seen, _ = loaded("meta", make="make_eval_dataloader", pin_memory=True)
    assert seen == 3 * [("transform", "meta", torch.uint8)]
    assert [x.shape for x, *_ in batches] == [(5, 6), (5, 6), (2, 6)]


def test_worker_processes_leave_the_device_alone():
    batches, _, _ = loaded("meta", num_workers=1)
    assert {x.device.type for x, *_ in batches} == {"cpu"}


def test_several_roots_end_on_one_device():
    watched = Watched()
    other = TensorDataset(halve(torch.ones(3, 6)), torch.zeros(3, dtype=torch.int64))
    other.targets = [0, 0, 0]
    joined = AvalancheDataset([AvalancheDataset([watched.data()]), AvalancheDataset([other])])
    source = batch_source(joined).on("meta")
    assert source.__getitems__([14, 2, 0])[0].device.type == "meta"


def test_importance_is_measured_on_inputs_transformed_on_the_device():
    watched = Watched()
    for dataset in (watched.data(), AvalancheDataset([watched.data()])):
        batches = mini_batches(dataset, 5, device="meta")
        watched.seen.clear()
        assert [batch.x.device.type for batch in batches] == ["meta"] * 3
        assert watched.seen[-3:] == 3 * [("transform", "meta", torch.uint8)]

    class Noted(BatchDataset):
        def batch(self, indices, generator=None, device=None):
            devices.append(device)
            return super().batch(indices, generator, device)

    devices = []
    model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
    estimate_importance(model, Noted(torch.ones(3, 6), torch.zeros(3)), device="cpu")
    assert devices == ["cpu"]


def test_other_data_take_avalanches_path_with_one_reason():
    class Slow(Dataset):
        targets = [0, 1] * 5

        def __len__(self):
            return 10

        def __getitem__(self, i):
            return torch.zeros(6), self.targets[i]

    stream = nc_benchmark(Slow(), Slow(), n_experiences=1, task_labels=False)
    model = SimpleMLP(num_classes=2, input_size=6, hidden_size=8)
    strategy = FastNaive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=r"sample by sample: Expected the data to rest on .* Slow"):
        strategy.train(stream.train_stream[0])


def test_per_sample_input_transform_is_refused():
    dataset = AvalancheDataset([data(4)]).replace_current_transform_group((halve, None))
    with pytest.raises(ValueError, match="no per-sample transform of the input in group 'train'"):
        batch_source(dataset)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([1.0], torch.zeros(1), TypeError, "Expected `x` to be a tensor, got list."),
        (torch.zeros(2), torch.zeros(3), ValueError, "as many samples, got 2 and 3."),
    ],
)
def test_bad_data_is_named(x, y, error, message):
    with pytest.raises(error, match=message):
        BatchDataset(x, y)


def test_empty_data_is_named():
    with pytest.raises(ValueError, match="at least one sample"):
        batch_source(TensorDataset(torch.zeros(0, 2), torch.zeros(0)))


def test_copies():
    dataset = data(4)
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset), dataset.to("cpu")):
        assert torch.equal(other.batch([1, 3])[0], dataset.batch([1, 3])[0])


def test_an_evaluator_with_nothing_to_do_is_left_out_until_it_has():
    torch.manual_seed(5)
    model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
    recorder = Recorder()
    strategy = FastNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        train_mb_size=4,
        eval_mb_size=5,
        plugins=[recorder],
        evaluator=EvaluationPlugin(),
    )
    stream = benchmark(BatchDataset, task_labels=False).train_stream
    strategy.train(stream[0])
    assert strategy.evaluator not in strategy.plugins
    assert recorder in strategy.plugins
    assert strategy.eval(stream[0]) == {}

    strategy.evaluator.metrics += accuracy_metrics(epoch=True, experience=True)
    results = {**strategy.train(stream[1]), **strategy.eval(stream[:2])}
    assert strategy.plugins[-1] is strategy.evaluator
    # One at the end of an epoch of training, two of the experiences that were evaluated.
    assert len(results) == 3

    strategy.evaluator.metrics.clear()
    strategy.eval(stream[0])
    assert strategy.evaluator not in strategy.plugins


def test_an_evaluator_with_checks_of_its_own_stays():
    model = SimpleMLP(num_classes=6, input_size=6, hidden_size=8)
    strategy = FastNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        evaluator=EvaluationPlugin(strict_checks=True),
    )
    stream = benchmark(BatchDataset, task_labels=False).test_stream
    with pytest.raises(ValueError, match="entire evaluation stream"):
        strategy.eval(stream[:1])
