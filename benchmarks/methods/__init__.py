"""The methods that studies compare: one file a method, and the files are the registry.

A file ``NAME.py`` in this folder defines ``METHOD = Method(name="NAME", ...)``, and its docstring
lists every choice that the paper leaves open. Nothing else has to be told of a new method. Plugins,
and with them torch, are imported where they are made: listing and reporting need neither.
"""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from benchmarks.schema import suggest

__all__ = ["Method", "get", "names"]


@dataclass(frozen=True)
class Method:
    """A method as studies see it: a name, its plugins and what there is to tune.

    Args:
        name: Name in study files and records; the name of its file.
        title: Name in reports.
        strength: Symbol of the tuned number, None where there is nothing to tune.
        default_grid: Strengths to try where a study names none, strongest first.
        plugins: ``plugins(strength, **options)`` gives fresh plugins for one run, each with
            a ``num_stored()`` that counts the numbers kept beside the model. Its keyword-only
            parameters are the method's options.
        joint: Whether it trains once on the union of all tasks.
        knob: Attribute of the plugins that holds the strength, dotted where it lies deeper. Without
            it the strength cannot change from task to task.
        variant_of: Name of the method that this one varies: the same idea in another form or from
            another implementation. Reports compare it with that method and crown neither over the
            other.
        paper: Citation.
        notes: Deviations and choices that reports print.
    """

    name: str
    title: str
    strength: str | None
    default_grid: tuple[float, ...]
    plugins: Callable[..., list[Any]]
    joint: bool = False
    knob: str = ""
    variant_of: str | None = None
    paper: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.strength is None) != (not self.default_grid):
            raise ValueError(
                f"Expected `default_grid` of method {self.name!r} to be given exactly where there "
                f"is a strength to tune, got strength {self.strength!r} and {self.default_grid}."
            )
        if list(self.default_grid) != sorted(set(self.default_grid), reverse=True):
            raise ValueError(
                f"Expected `default_grid` of method {self.name!r} to fall strictly, strongest "
                f"first, got {self.default_grid}."
            )

    def options(self) -> tuple[str, ...]:
        """List the names of the method's options."""
        parameters = inspect.signature(self.plugins).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    def make(self, strength: float | None, **options: Any) -> list[Any]:
        """Make the plugins of one run, after checking what was asked for.

        Args:
            strength: The tuned number; None exactly where there is nothing to tune.
            **options: The method's options.

        Returns:
            Fresh plugins, none for methods that add nothing to training.

        Raises:
            ValueError: If an option is unknown, or ``strength`` is missing, superfluous, negative
                or not finite.
            TypeError: If a plugin does not count what it stores.
        """
        for option in options:
            if option not in self.options():
                raise ValueError(
                    f"Expected an option of method {self.name!r}, got {option!r}. "
                    f"{suggest(option, self.options())}"
                )
        if self.strength is None and strength is not None:
            raise ValueError(
                f"Expected no strength for method {self.name!r}, got {strength}. "
                f"It has nothing to tune."
            )
        if self.strength is not None and (
            strength is None or not math.isfinite(strength) or strength < 0
        ):
            raise ValueError(
                f"Expected the strength of method {self.name!r} ({self.strength}) to be finite "
                f"and not negative, got {strength}."
            )
        plugins = self.plugins(strength, **options)
        for plugin in plugins:
            if not callable(getattr(plugin, "num_stored", None)):
                raise TypeError(
                    f"Expected each plugin of method {self.name!r} to have `num_stored()`, got "
                    f"{type(plugin).__name__} without. Reports state what a method stores."
                )
        return plugins

    def set_strength(self, plugins: Sequence[Any], strength: float) -> None:
        """Change the strength of plugins that are in use.

        Args:
            plugins: What :meth:`make` gave, or copies.
            strength: The new strength.

        Raises:
            TypeError: If the method has no ``knob``, or a plugin lacks that attribute.
        """
        *way, last = self.knob.split(".")
        for plugin in plugins:
            holder = reduce(getattr, way, plugin)
            if not hasattr(holder, last):
                raise TypeError(
                    f"Expected `knob` of method {self.name!r} to name an attribute of "
                    f"{type(plugin).__name__}, got {self.knob!r}. It holds the strength."
                )
            setattr(holder, last, strength)


def names() -> tuple[str, ...]:
    """List the names of all methods, sorted; files whose name begins with "_" are helpers."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def get(name: str) -> Method:
    """Find a method by its name.

    Args:
        name: Name of a file in this folder, without its ending.

    Returns:
        What the file defines as ``METHOD``.

    Raises:
        ValueError: If there is no such method.
        TypeError: If the file does not define a ``METHOD`` of its own name.

    Example:
        >>> get("mas").title
        'MAS'
    """
    if name not in names():
        raise ValueError(f"Expected the name of a method, got {name!r}. {suggest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method) or method.name != name:
        raise TypeError(
            f"Expected {module.__file__} to define `METHOD`, a Method named {name!r}, got "
            f"{method!r}."
        )
    return method
