"""The laws of other groups as they print them: one file of `data/laws` each, read strictly.

A file names a form of `forms`, its coefficients, the domain of the runs behind it, the readings
that its definitions leave open, and statements of its own paper by which it is checked
(`statements`). A law without a form is a row that says what is missing.

    title         who and when, as a table shows it
    coefficients  of the mixture; [dense] has those of a dense side of its own
    domain        smallest and largest value of each quantity among its runs, G and A in our sense;
                  domain_locator says where the paper gives them, else they were read second hand
    num_tokens    D of all its runs, where the law does not know D
    [[reading]]   one way to read what the paper leaves open; the first that returns the statements
                  is used
    [[statement]] what the paper says of its law, with the quantity that decides it
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from moe_leverage import paths
from moe_leverage.modules import import_modules
from moe_leverage.rules import require
from moe_leverage.theory.forms import FORMS, Form
from moe_leverage.theory.rounding import half_unit

LAWS = paths.DATA / "laws"
THE_PAPER = "tian-2025"
DOMAIN_AXES = (
    "activation_ratio", "granularity", "active_params", "total_params", "num_tokens", "compute",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One way to read a law's definitions, as options of its form."""

    says: str = "as printed"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What a paper says of its own law, and the quantity that must return it."""

    id: str
    locator: str
    says: str
    check: Mapping[str, Any]  # the name of a quantity of `statements`, and its arguments
    published: str
    unit: str = ""
    relation: str = "equals"
    tolerance: float = 0.0
    because: str = ""
    matters: str = ""  # what follows where the law does not return it, as in claims.toml
    decides: bool = True  # false: an oddity to know of, over which no law is put aside


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """A law as a form with its coefficients, and the dense side that it is measured against."""

    mixture: Form
    dense: Form


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # one object a file: hashed as such
class PrintedLaw:
    """One printed law; without a `form` it says in `missing` why it cannot answer."""

    id: str
    title: str
    arxiv: str
    locator: str
    citation: str
    form: str = ""
    missing: str = ""
    note: str = ""
    num_tokens: float | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, Any] = field(default_factory=dict)  # form and coefficients
    half_units: Mapping[str, float] = field(default_factory=dict)  # "a", "dense.a": of the rounding
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    domain_locator: str = "second hand"
    readings: tuple[Reading, ...] = (Reading(),)
    statements: tuple[Statement, ...] = ()

    def sides(self, reading: Reading, moved: Mapping[str, float] | None = None) -> Sides:
        """Both sides under a reading, with coefficients moved by so much ("a", "dense.a")."""
        shifts = moved or {}
        own = {k: v + shifts.get(k, 0.0) for k, v in self.coefficients.items()}
        mixture = _form(self, self.form, own | dict(reading.options))
        if not self.dense:
            return Sides(mixture=mixture, dense=mixture)
        other = self.dense["coefficients"]
        other = {k: v + shifts.get(f"dense.{k}", 0.0) for k, v in other.items()}
        return Sides(mixture=mixture, dense=_form(self, self.dense["form"], other))


@cache
def printed_laws(directory: Path = LAWS) -> tuple[PrintedLaw, ...]:
    """Every law of the folder, by the name of its file, the paper's own first.

    >>> [law.id for law in printed_laws()][:3]
    ['tian-2025', 'abnar-2025', 'clark-2022-hash']
    """
    laws = [read_law(path) for path in sorted(directory.glob("*.toml"))]
    return tuple(sorted(laws, key=lambda law: law.id != THE_PAPER))


def find_law(name: str, directory: Path = LAWS) -> PrintedLaw:
    """The law of this id; ValueError lists those there are.

    >>> find_law("abnar-2025").form
    'SparsityLoss'
    """
    laws = {law.id: law for law in printed_laws(directory)}
    require(name in laws, "law", name, f"must be one of {', '.join(laws)}")
    return laws[name]


def read_law(path: Path) -> PrintedLaw:
    """One file; ValueError names the entry that breaks a rule."""
    text = path.read_text(encoding="utf-8")
    try:
        table, digits = tomllib.loads(text), tomllib.loads(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error
    lists = {"reading": Reading, "statement": Statement}
    plain = {name: value for name, value in table.items() if name not in lists}
    parts = {
        f"{name}s": tuple(entry_of(kind, entry, f"{path.name}: {name}") for entry in table[name])
        for name, kind in lists.items()
        if name in table
    }
    plain["domain"] = {k: _range(path, k, pair) for k, pair in table.get("domain", {}).items()}
    halves = _halves(digits.get("coefficients", {}), "")
    halves |= _halves(digits.get("dense", {}).get("coefficients", {}), "dense.")
    values = {**plain, **parts, "id": path.stem, "half_units": halves}
    law: PrintedLaw = entry_of(PrintedLaw, values, path.name)
    rule = "needs a form, or `missing` that says why it has none"
    require(bool(law.form) != bool(law.missing), f"{path.name}: form", law.form, rule)
    if law.form:
        for reading in law.readings:
            law.sides(reading)
    return law


def _form(law: PrintedLaw, name: str, values: Mapping[str, Any]) -> Form:
    import_modules("moe_leverage.theory")
    rule = f"must be one of {', '.join(sorted(FORMS))}"
    require(name in FORMS, f"{law.id}.form", name, rule)
    form: Any = FORMS[name]
    wanted = {f.name for f in fields(form)}
    given = {f"{key}_" if f"{key}_" in wanted else key: value for key, value in values.items()}
    optional = {f.name for f in fields(form) if f.default is not f.default_factory}
    is_whole = set(given) <= wanted and wanted - optional <= set(given)
    require(is_whole, f"{law.id}.coefficients", sorted(values), f"must be {sorted(wanted)}")
    return form(**given)  # type: ignore[no-any-return]


def entry_of(kind: Any, values: Mapping[str, Any], place: str) -> Any:
    """An entry of a data file as the class of its fields; ValueError names the field that is off.

    >>> entry_of(Reading, {"says": "so", "option": {}}, "law.toml: reading")
    Traceback (most recent call last):
    ValueError: law.toml: reading.option = {}: is not known
    """
    known = {f.name: f for f in fields(kind)}
    for name in values:
        require(name in known, f"{place}.{name}", values[name], "is not known")
    for name, entry in known.items():
        is_given = name in values or entry.default is not entry.default_factory
        require(is_given, f"{place}.{name}", None, "is required")
    return kind(**values)


def _range(path: Path, name: str, pair: Any) -> tuple[float, float]:
    rule = f"must be one of {', '.join(DOMAIN_AXES)}"
    require(name in DOMAIN_AXES, f"{path.name}: domain.{name}", pair, rule)
    is_pair = isinstance(pair, list) and len(pair) == 2 and pair[0] <= pair[1]
    require(is_pair, f"{path.name}: domain.{name}", pair, "must be [smallest, largest]")
    return float(pair[0]), float(pair[1])


def _halves(digits: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": half_unit(str(value)) for name, value in digits.items()}
