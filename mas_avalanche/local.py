r"""The local rule of Memory Aware Synapses (l-MAS): importance from activations, forward only.

Each layer :math:`y = \varphi(z)`, :math:`z = W x + b`, is a function of its own, and what is
measured is how far *its* output moves: the objective of a layer is
:math:`\lVert y \rVert_2^2`, its input held fixed. With
:math:`e_j = \partial \lVert y \rVert_2^2 / \partial z_j = 2\, y_j\, \varphi'(z_j)`,

.. math::
    \frac{\partial \lVert y \rVert_2^2}{\partial W_{ji}} = e_j\, x_i, \qquad
    \frac{\partial \lVert y \rVert_2^2}{\partial b_j} = e_j .

**Fully connected layers.** For a ReLU :math:`\varphi'(z_j) = 1` where :math:`y_j > 0`, so
:math:`e_j = 2 y_j`. The activations on both sides are non-negative and

.. math::
    \Omega_{ij} = \frac{2}{N} \sum_{n=1}^N y_i^{(n)}\, y_j^{(n)}, \qquad
    \Omega_j = \frac{2}{N} \sum_{n=1}^N y_j^{(n)} \quad \text{(bias)}

with :math:`y_i` the input: Hebb's rule up to the factor 2 (Aljundi et al., 2018, section 4.2).
Where the input can be negative (the network's own input, a layer after a Tanh) so can the gradient,
and its absolute value is taken: :math:`|e_j|\,|x_i|`. A layer without activation, such as the last,
has :math:`\varphi(z) = z` and :math:`e_j = 2 z_j`.

**Convolutions** apply the same kernel at every position u, so that
:math:`\lVert y \rVert_2^2 = \sum_{j,u} y_{j,u}^2` and the gradients add over positions before the
magnitude is taken:

.. math::
    \left| \sum_u e_{j,u}\, x_{i,u+v} \right| \quad \text{(kernel, offset } v), \qquad
    \left| \sum_u e_{j,u} \right| \quad \text{(bias)} .

With ReLUs on both sides every term is non-negative and the bars can be left out.

**Other layers** (normalisations, embeddings, attention's projections) follow the same definition:
an operation that reads a trainable parameter is a layer, and the activation that is applied to its
output directly, if any, belongs to it. The gradient of each sample is that of the operation's own
rule in :mod:`mas_avalanche.per_sample`. No pass goes back through the network, and no graph of it
is kept: a layer's activations are let go once its own importance is taken. Models with backward
hooks, which ask whether their inputs need gradients, get a graph, of which no use is made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from mas_avalanche.per_sample.tap import DeviationError, Tap
from mas_avalanche.per_sample.trace import Use, writes_in_place

__all__ = ["LocalTap"]

_ACTIVATIONS: set[Any] = {
    F.relu,
    F.relu_,
    F.relu6,
    F.hardtanh,
    F.leaky_relu,
    F.elu,
    F.selu,
    F.celu,
    F.gelu,
    F.silu,
    F.mish,
    F.hardswish,
    F.hardsigmoid,
    F.softplus,
    F.tanh,
    F.sigmoid,
    torch.relu,
    torch.relu_,
    torch.tanh,
    torch.sigmoid,
    Tensor.relu,
    Tensor.relu_,
    Tensor.tanh,
    Tensor.sigmoid,
}
"""Functions that belong to the layer whose output they are applied to."""


class LocalTap(Tap):
    """Follow a plan through one mini-batch without a backward pass.

    Operations run on detached parameters, so that nothing requires a gradient and autograd keeps
    no activations. Takes the arguments of :class:`~mas_avalanche.per_sample.tap.Tap`.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: list[_Layer] = []

    def run(self, forward: Callable[[], Any], reduce: Callable[[Any], Tensor]) -> None:
        """Add the magnitudes of one mini-batch to the accumulators.

        Args:
            forward: Runs the model.
            reduce: Not used.

        Raises:
            DeviationError: If the model did not follow the plan.
        """
        del reduce
        with torch.enable_grad(), self:
            forward()
        if self.position != len(self.steps):
            raise DeviationError("The model made fewer calls, or other ones, than planned.")
        for layer in list(self._open):
            self._close(layer, None)
        self._join()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        entry = next((e for e in self._open if any(arg is e.output for arg in args)), None)
        if entry is None:
            return super().__torch_function__(func, types, args, kwargs)
        if getattr(func, "__hash__", None) is not None and func in _ACTIVATIONS:
            self._close(entry, lambda z: func(z, *args[1:], **(kwargs or {})))
            return super().__torch_function__(func, types, args, kwargs)
        if writes_in_place(func, kwargs or {}):
            self._close(entry, None)
            return super().__torch_function__(func, types, args, kwargs)
        result = super().__torch_function__(func, types, args, kwargs)
        if entry in self._open and any(isinstance(t, Tensor) for t in tree_leaves(result)):
            self._close(entry, None)
        return result

    def _attach(self, use: Use, outputs: list[Tensor], saved: list[Tensor]) -> Sequence[Tensor]:
        if len(outputs) != 1:
            raise DeviationError("Expected a layer to have one output.")
        # Attached only where the model makes other calls on tensors that need no gradient.
        attached = super()._attach(use, outputs, saved) if self.plan.graph else outputs
        self._open.append(_Layer(attached[0], use, saved))
        return attached

    def _close(self, layer: "_Layer", activation: Callable[[Tensor], Tensor] | None) -> None:
        """Take the layer's own gradient, now that it is known what its output goes into."""
        self._open.remove(layer)
        z = layer.output.detach()
        if activation is None:
            delta = 2 * z
        else:
            with torch.enable_grad():
                z = z.clone().requires_grad_()
                values = activation(z.clone())  # it may write in place
                (delta,) = torch.autograd.grad(values.square().sum(), z)
        with torch.no_grad():
            self._finish(layer.use, layer.saved, [delta])


@dataclass(eq=False)
class _Layer:
    """A layer whose activation is not known yet."""

    output: Tensor
    use: Use
    saved: list[Tensor]
