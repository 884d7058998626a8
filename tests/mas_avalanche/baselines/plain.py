"""EWC, SI and LwF written down once more in plain PyTorch, as their papers print them.

Nothing here is fast, merged or shared: each function is the whole method on a few lines, and none
of the package's own code is used. ``run`` gives the outputs for a task, ``tasks`` are pairs of
inputs and labels.
"""

import copy

import torch
import torch.nn.functional as F


def output_of(model, task, multi_head):
    return (lambda x: model(x, task)) if multi_head else model


def mini_batches(x, y, epochs, batch_size):
    for _ in range(epochs):
        yield from zip(x.split(batch_size), y.split(batch_size), strict=True)


def distance(model, importance, anchor):
    return sum((importance[n] * (p - anchor[n]) ** 2).sum() for n, p in model.named_parameters())


def gradients(loss, model):
    """Gradients by name; None for what the loss does not reach."""
    names, values = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


def learn(loss, model, optimizer, reached):
    """Step on ``loss``, but leave alone what the task's own loss does not reach."""
    optimizer.zero_grad()
    loss.backward()
    for name, p in model.named_parameters():
        if reached[name] is None:
            p.grad = None
    optimizer.step()


def fisher_of(model, run, x, y):
    """The empirical Fisher information, one sample at a time."""
    model.eval()
    fisher = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for n in range(len(x)):
        log_likelihood = F.log_softmax(run(x[n : n + 1]), dim=1)[0, y[n]]
        for name, gradient in gradients(log_likelihood, model).items():
            if gradient is not None:
                fisher[name] += gradient**2 / len(x)
    model.train()
    return fisher


def snapshot(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def ewc(model, tasks, strength, optimizer, *, epochs, batch_size, gamma=None, multi_head=False):
    """Kirkpatrick et al. (2017), Eq. 3, a term a task; with gamma Schwarz et al. (2018)."""
    terms = []
    for task, (x, y) in enumerate(tasks):
        run = output_of(model, task, multi_head)
        for x_b, y_b in mini_batches(x, y, epochs, batch_size):
            new = F.cross_entropy(run(x_b), y_b)
            penalty = sum(distance(model, fisher, star) for fisher, star in terms)
            learn(new + strength / 2 * penalty, model, optimizer, gradients(new, model))
        fisher = fisher_of(model, run, x, y)
        if gamma is not None and terms:
            ((old, _),) = terms
            fisher, terms = {n: gamma * old[n] + f for n, f in fisher.items()}, []
        terms.append((fisher, snapshot(model)))


def si(model, tasks, strength, optimizer, *, epochs, batch_size, xi=0.1, multi_head=False):
    """Zenke et al. (2017), Eqs. 3 to 5, with the authors' cut at zero, which is counted."""
    num_cut = 0
    importance = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    anchor = snapshot(model)
    for task, (x, y) in enumerate(tasks):
        run = output_of(model, task, multi_head)
        path = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        for x_b, y_b in mini_batches(x, y, epochs, batch_size):
            new = F.cross_entropy(run(x_b), y_b)
            of_task, before = gradients(new, model), snapshot(model)
            penalty = distance(model, importance, anchor)
            learn(new + strength * penalty, model, optimizer, of_task)
            for name, after in snapshot(model).items():
                if of_task[name] is not None:
                    path[name] -= of_task[name] * (after - before[name])
        for name, end in snapshot(model).items():
            importance[name] += path[name] / ((end - anchor[name]) ** 2 + xi)
            num_cut += int((importance[name] < 0).sum())
            importance[name][importance[name] < 0] = 0
            anchor[name] = end
    return importance, num_cut


def lwf(
    model, tasks, strength, optimizer, *, epochs, batch_size, temperature=2.0, multi_head=False
):
    """Li & Hoiem (2016) with the factor T² of Hinton et al. (2015), over the classes met before."""
    teacher, met = None, {}
    for task, (x, y) in enumerate(tasks):
        run = output_of(model, task, multi_head)
        for x_b, y_b in mini_batches(x, y, epochs, batch_size):
            loss = F.cross_entropy(run(x_b), y_b)
            for old in range(task) if multi_head else range(min(task, 1)):
                with torch.no_grad():
                    target = output_of(teacher, old, multi_head)(x_b)
                answer = output_of(model, old, multi_head)(x_b)
                soft_target = torch.softmax(target[:, met[old]] / temperature, dim=1)
                soft_answer = torch.softmax(answer[:, met[old]] / temperature, dim=1)
                cross_entropy = -(soft_target * soft_answer.log()).sum(dim=1)
                loss = loss + strength * temperature**2 * cross_entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        teacher = copy.deepcopy(model)
        teacher.eval()
        head = task if multi_head else 0
        met[head] = sorted({*met.get(head, []), *y.tolist()})
