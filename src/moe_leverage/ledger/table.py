"""The ledger as one tidy table: a row a run, a column each leaf of the records."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.config import require
from moe_leverage.ledger.file import DIRECTORY, records

UNPREFIXED = ("config", "model", "axes")  # sections whose leaves are columns of their own name
Packed = NDArray[Any] | list[Any]  # part of a column
CHUNK_LINES = 50  # turned into columns at once: so few stay in the processor's cache


def load(study: str | None = None, directory: Path = DIRECTORY) -> pd.DataFrame:
    """One row a run, of one study or of all; columns are the leaves of the records.

    A leaf of `config`, `config.model` or `axes` is a column of its own name; others carry their
    path: `routing.score`, `validation.code.loss_nats`, `environment.threads`. Lists stay lists.
    """
    files = sorted(directory.glob("*.jsonl")) if study is None else [directory / f"{study}.jsonl"]
    if study is not None:
        require(files[0].is_file(), "study", study, f"has no ledger in {directory.name}/")
    found = (record for path in files for record in records(path))
    with _collector_paused():
        return _table(found)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection inside: records hold no cycles, and scanning them takes a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _table(found: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Columns of leaves, packed chunk by chunk: a number of a record is not kept as an object."""
    columns: dict[str, list[Packed]] = {}
    length = 0
    for chunk in _chunks(found):
        leaves = dict(_leaves("", chunk))
        for name in leaves.keys() - columns.keys():
            columns[name] = [[None] * length]
        for name, parts in columns.items():
            parts.append(_pack(leaves.get(name, [None] * len(chunk))))
        length += len(chunk)
    return pd.DataFrame({name: _join(parts) for name, parts in columns.items()})


def _pack(values: list[Any]) -> Packed:
    """Numbers of one type as an array; equal strings as one object; all else as it is."""
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= {float, int, bool}:
        return np.array(values)
    return list(map(sys.intern, values)) if kinds == {str} else values


def _join(parts: list[Packed]) -> Packed:
    filled = [part for part in parts if len(part)]
    arrays = [part for part in filled if isinstance(part, np.ndarray)]
    if len(arrays) == len(filled) and len({part.dtype for part in arrays}) == 1:
        return np.concatenate(arrays)
    return [v for p in filled for v in (p.tolist() if isinstance(p, np.ndarray) else p)]


def _chunks(found: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(found)
    while chunk := list(itertools.islice(iterator, CHUNK_LINES)):
        yield chunk


def _leaves(prefix: str, sections: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Name and values of every leaf below `sections`, the same section of many records."""
    if len(layouts := set(map(tuple, sections))) > 1:
        empty = dict.fromkeys(itertools.chain.from_iterable(layouts))
        sections = [{**empty, **section} for section in sections]
    columns = zip(*map(dict.values, sections), strict=True)
    for key, values in zip(sections[0], columns, strict=True):
        path = f"{prefix}.{key}" if prefix else key
        may_nest = values[0] is None or isinstance(values[0], dict)
        if may_nest and any(isinstance(value, dict) for value in values):
            yield from _leaves("" if path in UNPREFIXED else path, [v or {} for v in values])
        else:
            yield path, list(values)
