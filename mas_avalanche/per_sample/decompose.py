"""Composite operations, taken apart into operations that have rules.

Recurrent layers and attention read several parameters at many positions. Written out step by step,
each use of a weight is a linear map, and the uses are added sample by sample like those of any
other shared weight.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["DECOMPOSED"]


def _opened(function: Any) -> Callable[..., Any]:
    """Copy a Python function of torch without its hand-over to function modes.

    The calls that it makes are then seen one by one.
    """
    namespace = {**function.__globals__, "has_torch_function": _no_override}
    copy = types.FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _no_override(arguments: Any) -> bool:
    del arguments
    return False


_Step = Callable[[Tensor, Sequence[Tensor], Callable[[Tensor], Tensor]], list[Tensor]]
"""Maps projected inputs, the state and the projection of its first part to the new state."""


def _lstm_step(
    x: Tensor, state: Sequence[Tensor], recur: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    i, f, g, o = (x + recur(state[0])).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(cell), cell]


def _gru_step(
    x: Tensor, state: Sequence[Tensor], recur: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    h_r, h_z, h_n = recur(state[0]).chunk(3, dim=-1)
    update = torch.sigmoid(x_z + h_z)
    new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return [new + update * (state[0] - new)]


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> _Step:
    def step(x: Tensor, state: Sequence[Tensor], recur: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [activation(x + recur(state[0]))]

    return step


def _layers(step: _Step) -> Callable[..., tuple[Tensor, ...]]:
    def run(
        input: Tensor, hx: Tensor | Sequence[Tensor], weights: Sequence[Tensor], *options: Any
    ) -> tuple[Tensor, ...]:
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        output, last = _recurrent(step, input, states, weights, *options)
        return output, *last

    return run


def _cell(step: _Step) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    def run(
        input: Tensor,
        hx: Tensor | Sequence[Tensor],
        w_x: Tensor,
        w_h: Tensor,
        b_x: Tensor | None = None,
        b_h: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        state = [hx] if isinstance(hx, Tensor) else list(hx)
        new = step(F.linear(input, w_x, b_x), state, lambda hidden: F.linear(hidden, w_h, b_h))
        return new[0] if len(new) == 1 else tuple(new)

    return run


def _recurrent(
    step: _Step,
    x: Tensor,
    states: list[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    directions = 2 if bidirectional else 1
    per_direction = len(weights) // (num_layers * directions)
    projected = per_direction == (5 if has_biases else 3)
    x = x.transpose(0, 1) if batch_first else x
    last: list[list[Tensor]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            own = weights[index * per_direction : (index + 1) * per_direction]
            state = [s[index] for s in states]
            output, state = _one_direction(step, x, state, own, has_biases, projected, direction)
            outputs.append(output)
            last.append(state)
        x = torch.cat(outputs, dim=-1)
        if layer < num_layers - 1:
            x = F.dropout(x, dropout, train)
    x = x.transpose(0, 1) if batch_first else x
    return x, [torch.stack(parts) for parts in zip(*last, strict=True)]


def _one_direction(
    step: _Step,
    x: Tensor,
    state: list[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    projected: bool,
    backwards: int,
) -> tuple[Tensor, list[Tensor]]:
    w_x, w_h, *rest = weights
    b_x, b_h = rest[:2] if has_biases else (None, None)
    w_out = rest[-1] if projected else None

    def recur(hidden: Tensor) -> Tensor:
        return F.linear(hidden, w_h, b_h)

    inputs = F.linear(x, w_x, b_x).unbind(0)
    outputs = []
    for x_t in reversed(inputs) if backwards else inputs:
        state = step(x_t, state, recur)
        if w_out is not None:
            state[0] = F.linear(state[0], w_out)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


_RECURRENT: dict[Any, Callable[..., Any]] = {
    torch.lstm: _layers(_lstm_step),
    torch.gru: _layers(_gru_step),
    torch.rnn_tanh: _layers(_rnn_step(torch.tanh)),
    torch.rnn_relu: _layers(_rnn_step(torch.relu)),
}
_CELLS: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: _cell(_lstm_step),
    torch.gru_cell: _cell(_gru_step),
    torch.rnn_tanh_cell: _cell(_rnn_step(torch.tanh)),
    torch.rnn_relu_cell: _cell(_rnn_step(torch.relu)),
}

DECOMPOSED: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: _opened(F.multi_head_attention_forward),
    **_RECURRENT,
    **_CELLS,
}
"""Functions that are taken apart, and what runs in their place."""


def is_packed(func: Any, args: Sequence[Any]) -> bool:
    """Say whether a recurrent call got a packed sequence, which has no regular layout."""
    return func in _RECURRENT and len(args) > 3 and isinstance(args[3], list | tuple)
