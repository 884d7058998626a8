"""The whole of MAS in plain PyTorch, slow and obvious; imports nothing of ours."""

import torch
from torch.nn import functional as F


def sample_importance(model, x, label=None):
    """Mean over samples of the magnitude of each one's gradient of the squared output norm."""
    model.eval()
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for sample in x:
        model.zero_grad()
        output = model(sample[None]) if label is None else model(sample[None], label)
        output.pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.abs() / len(x)
    model.zero_grad()
    return total


def train_plain_mas(
    model,
    tasks,
    make_optimizer,
    strength,
    *,
    alpha=None,
    epochs=2,
    batch_size=5,
    headed=False,
    clip=None,
):
    """Learn the tasks (pairs of inputs and labels) in turn; return importance and anchor."""
    importance, anchor = {}, {}
    optimizer = make_optimizer(model.parameters())
    for number, (x, y) in enumerate(tasks):
        model.train()
        for _ in range(epochs):
            for start in range(0, len(x), batch_size):
                batch = x[start : start + batch_size]
                output = model(batch, number) if headed else model(batch)
                loss = F.cross_entropy(output, y[start : start + batch_size])
                used = dict(model.named_parameters())
                if headed:
                    used = {
                        n: p
                        for n, p in used.items()
                        if "heads." not in n or f"heads.{number}." in n
                    }
                for name, weight in importance.items():
                    if name in used:
                        loss = loss + strength * (weight * (used[name] - anchor[name]) ** 2).sum()
                optimizer.zero_grad()
                loss.backward()
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
        new = sample_importance(model, x, number if headed else None)
        for name, value in new.items():
            if name not in importance or not importance[name].any():
                importance[name] = value
            elif value.any():
                old = importance[name]
                importance[name] = (
                    old + value if alpha is None else alpha * old + (1 - alpha) * value
                )
        anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
    return importance, anchor
