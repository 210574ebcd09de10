"""Plain JSON types read as the fields of a config, each of which must have its type.

A value of another type would be a run of other settings: "false" counts as true, and a precision that nothing knows as
fp32. Read next: glotok_ray/config/overrides.py
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from glotok_ray.config.rules import require

Section = TypeVar("Section")

_RULES: dict[Any, str] = {
    bool: "must be true or false, without quotes",
    int: "must be a whole number, without quotes",
    float: "must be a number, without quotes",
    str: "must be text, in quotes",
    types.NoneType: "must be null",
}


def read_section(kind: type[Section], values: Any, prefix: str = "") -> Section:
    """A config out of its fields' plain values; raises ValueError for one that is unknown, or not of its type.
    `prefix` is where the fields lie, such as "model.".
    """
    name = prefix.rstrip(".") or kind.__name__
    require(isinstance(values, dict), name, values, "must be a mapping of fields")
    known = typing.get_type_hints(kind)
    hints = {item.name: known[item.name] for item in dataclasses.fields(typing.cast(Any, kind))}
    unknown = [key for key in values if key not in hints]
    if unknown:
        where = f"{prefix}{unknown[0]}: " if prefix else ""
        raise ValueError(
            f"{where}{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(hints)}"
        )
    return kind(
        **{key: _read(hints[key], value, f"{prefix}{key}") for key, value in values.items()}
    )


def _read(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_section(typing.cast(type, hint), value, f"{name}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _tuple(typing.get_args(hint), value, name)
    if origin in (types.UnionType, typing.Union):
        return _member(typing.get_args(hint), value, name)
    if origin is typing.Literal:
        return _word(typing.get_args(hint), value, name)
    return _scalar(hint, value, name) if hint in _RULES else value


def _tuple(hints: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    # Text is a sequence too, of its letters.
    require(isinstance(value, list | tuple), name, value, "must be a list")
    if hints[-1] is ...:
        hints = hints[:1] * len(value)
    require(len(value) == len(hints), name, value, f"must be a list of {len(hints)}")
    return tuple(
        _read(hint, item, f"{name}.{place}")
        for place, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _member(hints: tuple[Any, ...], value: Any, name: str) -> Any:
    """What the first type of a union that takes the value makes of it."""
    problems = []
    # A number is a float wherever it may be one, as on the command line.
    for hint in sorted(hints, key=lambda hint: hint is not float):
        try:
            return _read(hint, value, name)
        except ValueError as error:
            problems.append(str(error).removeprefix(f"{name} = {value!r}: "))
    raise ValueError(f"{name} = {value!r}: {'; or '.join(problems)}")


def _word(words: tuple[Any, ...], value: Any, name: str) -> Any:
    # True and 1 are equal, and only one of them is meant.
    for word in words:
        if word == value and isinstance(value, bool) == isinstance(word, bool):
            return word
    listed = ", ".join(repr(word) for word in words)
    rule = f"must be one of {listed}" if len(words) > 1 else f"must be {listed}"
    raise ValueError(f"{name} = {value!r}: {rule}")


def _scalar(kind: type, value: Any, name: str) -> Any:
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{name} = {value!r}: {_RULES[kind]}")
