"""Importance in the most literal way: one sample at a time, nothing shared with the package."""

import torch


def squared_l2(output):
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return sum(squared_l2(part) for part in output)
    return output.square().sum()


def importance(model, x, objective=squared_l2, power=1, run=None):
    """Average the magnitude of every sample's gradient.

    Args:
        model: Run in evaluation mode on mini-batches of one.
        x: Inputs, the samples first.
        objective: Maps the output of one sample to a scalar, or to a list of them whose gradient
            magnitudes are added; given the sample's number as second argument if it takes two.
        power: 1 or 2.
        run: Called in the model's place.
    """
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = {n: torch.zeros_like(p) for n, p in zip(names, parameters, strict=True)}
    training = model.training
    model.eval()
    with torch.enable_grad():
        for n in range(len(x)):
            output = (run or model)(x[n : n + 1])
            takes_two = getattr(objective, "takes_index", False)
            values = objective(output, n) if takes_two else objective(output)
            for value in values if isinstance(values, list) else [values]:
                if not value.requires_grad:
                    continue
                gradients = torch.autograd.grad(
                    value, parameters, retain_graph=True, allow_unused=True
                )
                for name, gradient in zip(names, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient.abs() ** power
    model.train(training)
    return {name: value / len(x) for name, value in total.items()}


def relative_errors(found, expected):
    """Norm of each tensor's difference relative to the norm expected (absolute where that is 0)."""
    assert found.keys() == expected.keys()
    errors = {}
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        norm = float(value.norm())
        errors[name] = float((found[name] - value).norm()) / (norm if norm > 0 else 1.0)
    return errors
