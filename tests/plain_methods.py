"""Every method of the comparison once more in plain PyTorch, for one head and samples in order.

Slow and obvious; imports nothing of ours but the other plain page. ``tasks`` are pairs of inputs
and labels; mini-batches have 5 samples, a task 2 epochs.
"""

import torch
from torch.nn import functional as F

from tests.mas_avalanche.baselines import plain

EPOCHS, BATCH = 2, 5


def naive(model, tasks, make_optimizer, strength):
    """Learn one task after the other."""
    del strength
    _learn_all(model, tasks, make_optimizer, lambda: 0.0, lambda x, y: None)


def _learn_all(model, tasks, make_optimizer, penalty, end_of_task, after_step=lambda: None):
    optimizer = make_optimizer(model.parameters())
    for x, y in tasks:
        for x_b, y_b in plain.mini_batches(x, y, EPOCHS, BATCH):
            optimizer.zero_grad()
            (F.cross_entropy(model(x_b), y_b) + penalty()).backward()
            optimizer.step()
            after_step()
        end_of_task(x, y)


def _zeros(model):
    return {name: torch.zeros_like(p) for name, p in model.named_parameters()}


def _magnitudes(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return {name: value.abs() for name, value in zip(names, found, strict=True)}


def squared_norm(model, x):
    """Aljundi et al. (2018), Eq. 2 with the squared norm, one sample at a time."""
    total = _zeros(model)
    for sample in x:
        for name, value in _magnitudes(model, model(sample[None]).square().sum()).items():
            total[name] += value / len(x)
    return total


def vector(model, x):
    """Eq. 2 with every output's own gradient, one sample and one output at a time."""
    total = _zeros(model)
    for sample in x:
        for output in range(model(sample[None]).shape[1]):
            for name, value in _magnitudes(model, model(sample[None])[0, output]).items():
                total[name] += value / len(x)
    return total


def local(model, x):
    """Each layer's own squared norm for Linear, Tanh, Dropout, Linear, its input held fixed."""
    total = _zeros(model)
    for sample in x:
        hidden = torch.tanh(model[0](sample[None]))
        output = model[3](hidden.detach())
        for prefix, layer, answer in (("0", model[0], hidden), ("3", model[3], output)):
            for name, value in _magnitudes(layer, answer.square().sum()).items():
                total[f"{prefix}.{name}"] += value / len(x)
    return total


def shipped(model, x):
    """Avalanche's importance: the magnitude of each mini-batch's mean gradient, then the mean."""
    total, batches = _zeros(model), x.split(BATCH)
    for batch in batches:
        mean = model(batch).square().sum(dim=1).mean()
        for name, value in _magnitudes(model, mean).items():
            total[name] += value / len(batches)
    return total


def _mas(measure, *, alpha=None, implicit=False):
    def learn(model, tasks, make_optimizer, strength):
        weight, anchor = {}, {}

        def penalty():
            if implicit or not weight:
                return 0.0
            return strength * plain.distance(model, weight, anchor)

        @torch.no_grad()
        def step_back():
            """Minimise the penalty plus the distance to where the optimizer's step led."""
            rate = make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
            for name, p in model.named_parameters():
                if implicit and weight:
                    pull = 2 * rate * strength * weight[name]
                    p.copy_((p + pull * anchor[name]) / (1 + pull))

        def end_of_task(x, y):
            for name, new in measure(model, x).items():
                if name not in weight:
                    weight[name] = new
                elif alpha is None:
                    weight[name] = weight[name] + new
                else:
                    weight[name] = alpha * weight[name] + (1 - alpha) * new
            anchor.update(plain.snapshot(model))

        _learn_all(model, tasks, make_optimizer, penalty, end_of_task, step_back)

    return learn


def _baseline(method, **options):
    def learn(model, tasks, make_optimizer, strength):
        optimizer = make_optimizer(model.parameters())
        method(model, tasks, strength, optimizer, epochs=EPOCHS, batch_size=BATCH, **options)

    return learn


def shipped_ewc(model, tasks, make_optimizer, strength):
    """A term a task, of squares of mini-batch gradients, without the factor one half."""
    terms = []

    def end_of_task(x, y):
        fisher = _zeros(model)
        batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        for x_b, y_b in batches:
            for name, value in _magnitudes(model, F.cross_entropy(model(x_b), y_b)).items():
                fisher[name] += value**2 / len(batches)
        terms.append((fisher, plain.snapshot(model)))

    def penalty():
        return strength * sum(plain.distance(model, *term) for term in terms)

    _learn_all(model, tasks, make_optimizer, penalty, end_of_task)


def shipped_si(model, tasks, make_optimizer, strength):
    """On a CPU: weights that are not contiguous alone are copied, and so have importance."""
    names = [name for name, p in model.named_parameters() if not p.is_contiguous()]
    optimizer, anchor = make_optimizer(model.parameters()), plain.snapshot(model)
    total, weight = _zeros(model), _zeros(model)
    for x, y in tasks:
        path = _zeros(model)
        for x_b, y_b in plain.mini_batches(x, y, EPOCHS, BATCH):
            before = plain.snapshot(model)
            optimizer.zero_grad()
            away = strength / 2 * plain.distance(model, weight, anchor)
            (F.cross_entropy(model(x_b), y_b) + away).backward()
            optimizer.step()
            for name, p in model.named_parameters():
                path[name] -= p.grad * (p.detach() - before[name])
        for name, end in plain.snapshot(model).items():
            if name in names:
                total[name] += path[name] / ((end - anchor[name]) ** 2 + 1e-7)
                weight[name] = total[name].clamp(max=0.001)
        anchor = plain.snapshot(model)


def shipped_lwf(model, tasks, make_optimizer, strength):
    """Without the factor T², here of temperature 2."""
    _baseline(plain.lwf)(model, tasks, make_optimizer, strength / 4)


PLAIN = {
    "naive": naive,
    "mas": _mas(squared_norm),
    "mas_vector": _mas(vector),
    "mas_local": _mas(local),
    "mas_proximal": _mas(squared_norm, implicit=True),
    "ewc": _baseline(plain.ewc),
    "ewc_online": _baseline(plain.ewc, gamma=1.0),
    "si": _baseline(plain.si),
    "lwf": _baseline(plain.lwf),
    "avalanche_mas": _mas(shipped, alpha=0.5),
    "avalanche_ewc": shipped_ewc,
    "avalanche_si": naive,
    "avalanche_lwf": shipped_lwf,
}
"""All but joint training; on a CPU Avalanche's SI is naive training."""
