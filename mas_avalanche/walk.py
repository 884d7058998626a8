"""Walk the parameters of a model in every iteration, without walking its modules.

``named_parameters()`` visits each module and builds each name anew. On a small network that takes
as long as one of its operations, and a penalty and a check of the weights each need it.
"""

from typing import Any

from torch import nn

__all__ = ["ParameterWalk"]


class ParameterWalk:
    """``named_parameters()`` of the model given last, quick to repeat.

    A parameter that takes another's place in its module is found. Modules that were added or
    replaced are found after :meth:`renew`, which is called where a model may have changed.

    Picklable; a copy holds no model.

    Example:
        >>> walk, model = ParameterWalk(), nn.Linear(2, 1)
        >>> [name for name, _ in walk(model)]
        ['weight', 'bias']
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._places: list[tuple[str, dict[str, nn.Parameter | None], str]] = []

    def __call__(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """List names and parameters.

        Args:
            model: Any model.

        Returns:
            The items of ``model.named_parameters()``.
        """
        if model is not self._model:
            self.renew(model)
        return [
            (name, parameter)
            for name, holder, leaf in self._places
            if (parameter := holder.get(leaf)) is not None
        ]

    def renew(self, model: nn.Module) -> None:
        """Walk the modules of a model.

        Args:
            model: Any model; whichever was given before is let go.
        """
        self._model = model
        self._places = []
        for name, _ in model.named_parameters():
            path, _, leaf = name.rpartition(".")
            self._places.append((name, model.get_submodule(path)._parameters, leaf))

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": None, "_places": []}
