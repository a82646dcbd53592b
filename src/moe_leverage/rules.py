"""The one way to refuse: field = value: rule, in one line that any value leaves readable.

What stands here checks single values where they enter: counts, numbers, choices, files of fields.
"""

from __future__ import annotations

import reprlib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

SHOWN = 60  # characters of a value, or of a name, in a message
LISTED = 8  # allowed values that a message names
MOST = 10**12  # of anything that is counted: beyond it no machine holds a model or a run
LARGEST_FILE = 64 << 20  # bytes of a JSON file that is read for its fields


def require(
    holds: bool, name: str, value: object, rule: str, kind: type[ValueError] = ValueError
) -> None:
    """Raise a ValueError, or a kind of it, that names the field, its value and the rule it breaks.

    >>> require(3 > 4, "num_steps", 3, "must exceed 4")
    Traceback (most recent call last):
    ValueError: num_steps = 3: must exceed 4
    """
    if not holds:
        refuse(name, value, rule, kind)


def refuse(
    name: str, value: object, rule: str, kind: type[ValueError] = ValueError
) -> typing.NoReturn:
    """Raise that ValueError; for a check that words its rule only once it is broken.

    >>> refuse("num_steps", 3, "must exceed 4")
    Traceback (most recent call last):
    ValueError: num_steps = 3: must exceed 4
    """
    raise kind(f"{_cut(name)} = {shown(value)}: {rule}")


def shown(value: object) -> str:
    """A value as messages show it: in one line of at most 60 characters, whatever it is.

    >>> shown("short"), shown(10**400), len(shown("x" * 1000))
    ("'short'", 'a number of 401 digits', 60)
    """
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of {_num_digits(value)} digits"
    return _cut(_SHORT.repr(value))


def one_of(options: Iterable[object]) -> str:
    """The rule that a value be one of these, of which a message names the first few.

    >>> one_of("abc"), one_of(range(100))
    ('must be one of a, b, c', 'must be one of 0, 1, 2, 3, 4, 5, 6, 7 and 92 more')
    """
    names = [_cut(str(option)) for option in options]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"must be one of {', '.join(names[:LISTED])}{more}"


def require_count(name: str, value: object, low: int = 1, high: int = MOST) -> None:
    """Refuse what is no whole number from `low` to `high`.

    >>> require_count("num_experts", -(2**63), 0)
    Traceback (most recent call last):
    ValueError: num_experts = -9223372036854775808: must be a whole number >= 0
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and low <= typing.cast(int, value) <= high:
        return  # before a rule is written: thousands of configs pass through here
    rule = f"must be a whole number >= {low}"
    require(is_whole and typing.cast(int, value) >= low, name, value, rule)
    rule = f"must be at most {high:.0e}" if high >= 10**6 else f"must be at most {high}"
    require(typing.cast(int, value) <= high, name, value, rule)


def require_number(
    name: str, value: object, low: float, high: float, *, above: bool = False
) -> None:
    """Refuse what is no finite number from `low`, or with `above` from above it, to `high`.

    >>> require_number("gradient_clip", float("inf"), 0, 1e6, above=True)
    Traceback (most recent call last):
    ValueError: gradient_clip = inf: must be a number above 0 and up to 1e+06
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and low <= typing.cast(float, value) <= high and not (above and value == low):
        return
    rule = f"must be a number {'above' if above else 'from'} {low:g} {'and up ' if above else ''}"
    refuse(name, value, f"{rule}to {high:g}")


def read_object(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file that goes by `name` in a message.

    Numbers that JSON does not have, nesting that no config has, bytes that are no UTF-8 and files
    that are no files are errors of one line.
    """
    require(path.is_file(), name, str(path), "is not a file")
    rule = f"is larger than the {LARGEST_FILE >> 20} MB that a file of fields may have"
    require(path.stat().st_size <= LARGEST_FILE, name, str(path), rule)
    try:
        values = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{name} = {shown(str(path))}: not JSON: {error}") from None
    is_object = isinstance(values, dict)
    require(is_object, name, str(path), "must be a JSON object with named fields")
    return dict(values)


def printable(text: str) -> str:
    """A text without what commands a terminal or ends a line: a mark stands in its place.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _cut(text: str) -> str:
    """A text in one line, its middle left out where it is longer than a message shows."""
    line = printable(text)
    end = SHOWN // 2 - 3
    return line if len(line) <= SHOWN else f"{line[: SHOWN - end - 3]}...{line[-end:]}"


def _num_digits(value: int) -> int:
    """Decimal digits of a whole number, without writing it out: Python refuses more than 4300."""
    digits = int((abs(value).bit_length() - 1) * 0.30102999566398120) + 1
    return digits + int(abs(value) >= 10**digits)


class _Short(reprlib.Repr):
    """Representations that neither end in a recursion nor write out what has no end."""

    def repr_int(self, x: int, level: int) -> str:
        return shown(x) if abs(x) >= 10**SHOWN else repr(x)


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 4096, 4096, SHOWN
