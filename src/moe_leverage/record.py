"""Frozen dataclasses that read and write plain JSON strictly, and have an identity.

A field that is unknown, missing or of another type is refused by name; a field at its default is no
part of the identity, so that a new option changes none that exists.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Self

from moe_leverage.rules import one_of, refuse, require

MOST_NESTED = 64  # a run in whose `parents` stand runs with `parents`, and so on


class Record:
    """Strict conversion of a frozen dataclass to and from plain JSON values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, nested configs as dictionaries."""
        return {
            f.name: _plain(getattr(self, f.name), lambda held: held.to_dict())
            for f in fields(typing.cast(Any, self))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these field values; unknown, missing and mistyped fields are errors."""
        hints = field_types(typing.cast(Any, cls))
        for name in values:
            if name not in hints:
                rule = "is not a field of this config"
                refuse(f"{cls.__name__}.{name}", values[name], rule)
        rule = f"has more than {MOST_NESTED} objects and lists within each other"
        require(_is_shallow(values), cls.__name__, f"{len(values)} fields", rule)
        held = {n: converted(f"{cls.__name__}.{n}", v, hints[n]) for n, v in values.items()}
        for f in fields(typing.cast(Any, cls)):
            if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
                refuse(f"{cls.__name__}.{f.name}", None, "is required")
        return cls(**held)

    def departures(self) -> dict[str, Any]:
        """The fields that differ from their defaults: the identity of a config.

        Fields at their default are left out, so that a new option, off by default, changes no
        existing identity.
        """
        found: dict[str, Any] = {}
        for f in fields(typing.cast(Any, self)):
            value = getattr(self, f.name)
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            if value != default:
                found[f.name] = _plain(value, lambda held: held.departures())
        return found

    def identity(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON of `departures`."""
        text = json.dumps(self.departures(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any, of: Callable[[Record], dict[str, Any]]) -> Any:
    """A field's value as JSON has it: what `of` says of a record, and a list of several."""
    if isinstance(value, tuple):
        return [_plain(part, of) for part in value]
    return of(value) if isinstance(value, Record) else value


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotated type of each field of a record."""
    return typing.get_type_hints(cls)


def converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as the annotated type `hint`, without silent coercion."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if not _is_in(value, options):
            refuse(name, value, one_of(options))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        (hint,) = [option for option in options if option is not type(None)]
        return converted(name, value, hint)
    if origin is tuple:
        require(isinstance(value, list | tuple), name, value, "must be a list")
        return tuple(converted(f"{name}.{i}", part, options[0]) for i, part in enumerate(value))
    if is_dataclass(hint):
        require(isinstance(value, Mapping), name, value, "must be an object with named fields")
        return typing.cast(type[Record], hint).from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 10**300, name, value, "is larger than any number here")
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        refuse(name, value, f"must be of type {hint.__name__}")
    return value


def _is_shallow(values: Mapping[str, Any]) -> bool:
    """Whether plain values end within MOST_NESTED levels, found without going down by calls."""
    level: list[Any] = [values]
    for _ in range(MOST_NESTED):
        held = [parts.values() if isinstance(parts, Mapping) else parts for parts in level]
        level = [part for parts in held for part in parts if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def _is_in(value: object, options: tuple[object, ...]) -> bool:
    """Whether a value of any type, one without a hash among them, is one of the options."""
    return any(type(value) is type(option) and value == option for option in options)
