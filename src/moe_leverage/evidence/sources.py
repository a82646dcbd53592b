"""Leverages derived from public runs, one file of `data/evidence` a source.

No table of anybody is copied. A file holds the derived numbers, each with its range over what the
derivation leaves open, beside where the table lies, how compute was counted and what limits it;
`derive` gets the numbers again from a downloaded copy.

    A, G   activation ratio and granularity
    C      training compute, FLOPs
    EL     dense compute over mixture compute at equal loss: at least `low`, at most `high`
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage import paths
from moe_leverage.rules import require
from moe_leverage.theory.forms import FIXED_TOKENS, OWN_OPTIMUM
from moe_leverage.theory.printed import entry_of

EVIDENCE = paths.DATA / "evidence"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One derived leverage."""

    layout: str
    activation_ratio: float
    granularity: float
    compute: float
    leverage: tuple[float, float]
    active_params: float | None = None
    num_tokens: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Public runs of one group, and the leverages derived from them."""

    id: str
    title: str
    repository: str
    commit: str
    files: tuple[str, ...]
    licence: str
    runs: str
    accounting: str
    basis: str
    caveat: str
    derivation: str
    options: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[Point, ...] = ()


@cache
def sources(directory: Path = EVIDENCE) -> tuple[Source, ...]:
    """Every source of the folder, by the name of its file.

    >>> [source.id for source in sources()]
    ['marin', 'routing', 'step-law']
    """
    return tuple(read_source(path) for path in sorted(directory.glob("*.toml")))


def find_source(name: str) -> Source:
    """The source of this id; ValueError lists those there are."""
    known = {source.id: source for source in sources()}
    require(name in known, "source", name, f"must be one of {', '.join(known)}")
    return known[name]


def read_source(path: Path) -> Source:
    """One file; ValueError names the entry that breaks a rule."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error
    points = tuple(_point(entry, path.name) for entry in table.pop("point", []))
    values = {**table, "id": path.stem, "points": points}
    source: Source = entry_of(Source, values, path.name)
    rule = f"must be {OWN_OPTIMUM} or {FIXED_TOKENS}"
    is_basis = source.basis in (OWN_OPTIMUM, FIXED_TOKENS)
    require(is_basis, f"{path.name}: basis", source.basis, rule)
    return replace(source, files=tuple(source.files))


def points_table() -> pd.DataFrame:
    """Every derived leverage, a row a point, with its source.

    >>> len(points_table())
    26
    """
    rows = [
        {
            "source": source.id, "title": source.title, "basis": source.basis,
            "layout": point.layout, "activation_ratio": point.activation_ratio,
            "granularity": point.granularity, "compute": point.compute,
            "low": point.leverage[0], "high": point.leverage[1],
            "active_params": point.active_params, "num_tokens": point.num_tokens,
        }
        for source in sources() for point in source.points
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _point(entry: dict[str, Any], place: str) -> Point:
    point: Point = entry_of(Point, entry, f"{place}: point")
    low, high = map(float, point.leverage)
    require(0 < low <= high, f"{place}: leverage", [low, high], "must be [at least, at most]")
    return replace(point, leverage=(low, high))
