"""Streams: sequences of tasks, as tensors, ready for training in mini-batches.

One module a stream: ``benchmarks/streams/<name>.py`` with a function
``build(seed, *, data_root=None, **options) -> Stream``. A new file is a new stream; names that
begin with an underscore are helpers. Those that need torch are imported where a stream is built:
listing and reporting do without.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmarks.streams._types import Scenario, Split, Stream, Task

__all__ = ["Scenario", "Split", "Stream", "Task", "build", "names", "options"]


def names() -> tuple[str, ...]:
    """List the streams that can be built.

    Returns:
        The names, sorted.

    Example:
        >>> "glyphs" in names()
        True
    """
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def options(name: str) -> dict[str, Any]:
    """List the options of a stream.

    Args:
        name: One of :func:`names`.

    Returns:
        Option name to default value.

    Raises:
        ValueError: If there is no such stream.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def build(name: str, seed: int, **chosen: Any) -> Stream:
    """Build a stream.

    Args:
        name: One of :func:`names`.
        seed: Decides permutations, class order, the validation cut and generated images; never
            which images are tested on.
        **chosen: Options of this stream, see :func:`options`.

    Returns:
        The stream; the same arguments always give the same tensors.

    Raises:
        ValueError: If the stream or an option is unknown.
    """
    builder = _builder(name)
    allowed = options(name)
    for key in chosen:
        if key not in allowed:
            raise ValueError(
                f"Expected an option of the stream {name!r} to be one of {sorted(allowed)}, "
                f"got {key!r}.{_suggestion(key, allowed)}"
            )
    if chosen.get("data_root") is not None:
        chosen["data_root"] = Path(chosen["data_root"])
    return builder(seed, **chosen)


def _builder(name: str) -> Callable[..., Stream]:
    known = names()
    if name not in known:
        raise ValueError(
            f"Expected `stream` to be one of {list(known)}, got {name!r}.{_suggestion(name, known)}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    builder: Callable[..., Stream] = module.build
    return builder


def _suggestion(word: str, known: Any) -> str:
    close = get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
