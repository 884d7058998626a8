"""Checked conversion between plain data (TOML, JSON) and frozen dataclasses.

What comes from a file is data from outside: every key must be known, every value must have the
declared type, and a mistake ends in one sentence that says where it is.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Collection, Iterable, Mapping
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


def from_table(cls: type[T], table: Any, where: str) -> T:
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
        raise ValueError(f"Expected {where} to be a table, got {_show(table)}.")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    check_known(table, fields, "key", where)
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"`{name}` in {where}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"Expected the key `{name}` in {where}, and it is missing.")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(str(choice) for choice in get_args(hint))
            raise ValueError(f"Expected {where} to be one of {allowed}; got {_show(value)}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"Expected {where} to be a list, got {_show(value)}.")
        item = get_args(hint)[0]
        return tuple(_convert(item, v, f"item {i} of {where}") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"Expected {where} to be a table, got {_show(value)}.")
        key, item = get_args(hint)
        return {
            _convert(key, k, f"a key of {where}"): _convert(item, v, f"`{k}` of {where}")
            for k, v in value.items()
        }
    return _convert_plain(hint, value, where)


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    choices = get_args(hint)
    if value is None and type(None) in choices:
        return None
    others = [choice for choice in choices if choice is not type(None)]
    if len(others) > 1:
        raise TypeError(f"{hint} has more than one type beside None; this is not supported.")
    return _convert(others[0], value, where)


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not right or (hint is float and not math.isfinite(value)):
        raise ValueError(f"Expected {where} to be {_WORDS[hint]}, got {_show(value)}.")
    return value


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return f"{text[:60]}…" if len(text) > 60 else text
