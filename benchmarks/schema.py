"""Checked conversion between plain data (TOML, JSON) and frozen dataclasses.

What comes from a file is data from outside: every key must be known, every value must have the
declared type, and a mistake ends in one sentence that says where it is.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["check_known", "from_table", "suggest"]

T = TypeVar("T")

_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    type(None): "nothing",
}


def suggest(word: str, known: Iterable[str]) -> str:
    """Say which of the known words may have been meant, or list them all.

    Args:
        word: What was written.
        known: What could have been written.

    Returns:
        One sentence.

    Example:
        >>> suggest("epoch", ["epochs", "batch_size"])
        'Did you mean `epochs`? Allowed: batch_size, epochs.'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    question = f"Did you mean `{close[0]}`? " if close else ""
    return f"{question}Allowed: {', '.join(names)}."


def check_known(given: Iterable[str], known: Collection[str], what: str, where: str) -> None:
    """Refuse the first word that is not known.

    Args:
        given: What was written.
        known: What could have been written.
        what: What such a word is called, for the message.
        where: The place in the file, for the message.

    Raises:
        ValueError: If a word is not known.
    """
    for word in given:
        if word not in known:
            raise ValueError(f"Unknown {what} `{word}` in {where}. {suggest(word, known)}")


Where = str | tuple[str | int, "Where"]
"""A place, inside out; it is written out only for a message, as most values are right."""

Convert = Callable[[Any, Where], Any]
"""Checks a value and converts it to the type that it was made for."""


def from_table(cls: type[T], table: Any, where: Where) -> T:
    """Make a dataclass from a table whose keys are its fields.

    Args:
        cls: A dataclass whose annotations are made of plain types, ``tuple[X, ...]``,
            ``Mapping[str, X]``, ``Literal``, optional types and other such dataclasses.
        table: What was read.
        where: The place in the file, for messages.

    Returns:
        An instance; lists have become tuples.

    Raises:
        ValueError: If a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"Expected {_name(where)} to be a table, got {_show(table)}.")
    fields = _fields(cls)  # type: ignore[arg-type]
    if not fields.keys() >= table.keys():
        check_known(table, fields, "key", _name(where))
    values = {}
    for name, (convert, is_optional) in fields.items():
        if name in table:
            values[name] = convert(table[name], (f"`{name}` in", where))
        elif not is_optional:
            raise ValueError(f"Expected the key `{name}` in {_name(where)}, and it is missing.")
    return cls(**values)


@cache
def _fields(cls: type) -> dict[str, tuple[Convert, bool]]:
    """Return what converts each field, and whether it may be left out."""
    hints = get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        f.name: (
            _converter(hints[f.name]),
            f.default is not missing or f.default_factory is not missing,
        )
        for f in dataclasses.fields(cls)
        if f.init
    }


def _name(where: Where) -> str:
    if isinstance(where, str):
        return where
    first, outer = where
    return f"{f'item {first} of' if isinstance(first, int) else first} {_name(outer)}"


# Once for each field, as taking annotations apart for each value would take most of the time.
def _converter(hint: Any) -> Convert:
    if hint is Any:
        return lambda value, where: value
    if hint in _WORDS:
        return partial(_convert_plain, hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        return partial(_convert_items, args[0], _converter(args[0]))
    if origin in (Union, types.UnionType):
        return _union_converter(hint, args)
    if origin is Literal:
        return partial(_convert_choice, args)
    if origin is not None and issubclass(origin, Mapping):
        key, item = args
        return partial(_convert_table, args == (str, Any), _converter(key), _converter(item))
    return partial(from_table, hint)


def _convert_items(hint: Any, convert: Convert, value: Any, where: Where) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"Expected {_name(where)} to be a list, got {_show(value)}.")
    if hint is float and set(map(type, value)) <= {float} and all(map(math.isfinite, value)):
        return tuple(value)
    return tuple([convert(item, (i, where)) for i, item in enumerate(value)])


def _convert_table(
    is_plain: bool, convert_key: Convert, convert: Convert, value: Any, where: Where
) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"Expected {_name(where)} to be a table, got {_show(value)}.")
    if is_plain and set(map(type, value)) <= {str}:
        return dict(value)
    return {
        convert_key(k, ("a key of", where)): convert(v, (f"`{k}` of", where))
        for k, v in value.items()
    }


def _convert_choice(choices: tuple[Any, ...], value: Any, where: Where) -> Any:
    if value not in choices:
        allowed = ", ".join(map(str, choices))
        raise ValueError(f"Expected {_name(where)} to be one of {allowed}; got {_show(value)}.")
    return value


def _union_converter(hint: Any, choices: tuple[Any, ...]) -> Convert:
    others = [choice for choice in choices if choice is not type(None)]
    if len(others) > 1:
        raise TypeError(f"{hint} has more than one type beside None; this is not supported.")
    convert = _converter(others[0])
    return lambda value, where: None if value is None else convert(value, where)


def _convert_plain(hint: Any, value: Any, where: Where) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not right or (hint is float and not math.isfinite(value)):
        raise ValueError(f"Expected {_name(where)} to be {_WORDS[hint]}, got {_show(value)}.")
    return value


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return f"{text[:60]}…" if len(text) > 60 else text
