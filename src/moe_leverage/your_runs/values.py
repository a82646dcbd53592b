"""What people write for a number: 36.8M, 1.2B, 2,040, 3.1%, 1.5 EFLOPs, 3.2 PF-days."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PF_DAY = 1e15 * 24 * 3600  # FLOPs

NUMBER = re.compile(
    r"([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?))"
    r"\s*([A-Za-z%][A-Za-z%/ .-]*)?"
)
SUFFIXES = {
    "": 1.0, "%": 0.01, "k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9, "t": 1e12, "million": 1e6,
    "billion": 1e9, "trillion": 1e12, "thousand": 1e3, "flop": 1.0, "flops": 1.0, "gflop": 1e9,
    "gflops": 1e9, "tflop": 1e12, "tflops": 1e12, "pflop": 1e15, "pflops": 1e15, "eflop": 1e18,
    "eflops": 1e18, "exaflop": 1e18, "exaflops": 1e18, "zflop": 1e21, "zflops": 1e21,
    "pfdays": PF_DAY, "pfday": PF_DAY, "pfsdays": PF_DAY, "pfsday": PF_DAY, "nats": 1.0,
    "tokens": 1.0, "params": 1.0, "parameters": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers; NaN where a cell is blank or none."""

    value: pd.Series
    has_unit: NDArray[
        np.bool_
    ]  # cells that carry a unit of their own, which the header's yields to
    is_bad: NDArray[np.bool_]  # cells that hold something, but no number


def numbers(column: pd.Series) -> Numbers:
    """A column of cells as numbers, with the units that single cells carry applied.

    >>> numbers(pd.Series(["36.8M", "2,040", "5%", "x"])).value.tolist()
    [36800000.0, 2040.0, 0.05, nan]
    >>> numbers(pd.Series(["2 PF-days"])).value.tolist()  # of 86,400 s each
    [1.728e+20]
    """
    nothing = np.zeros(len(column), dtype=bool)
    if pd.api.types.is_numeric_dtype(column):
        return Numbers(column.astype(float), nothing, nothing)
    parsed = {cell: _number(str(cell)) for cell in column.dropna().unique()}
    value = column.map({cell: entry[0] for cell, entry in parsed.items()}).astype(float)
    units = column.map({cell: entry[1] for cell, entry in parsed.items()}).fillna(False)
    bad = column.notna() & column.map(
        {cell: entry[0] is None for cell, entry in parsed.items()}
    ).fillna(False).astype(bool)
    return Numbers(value, units.to_numpy(dtype=bool), bad.to_numpy(dtype=bool))


def _number(cell: str) -> tuple[float | None, bool]:
    """The number in a cell and whether it carries a unit; None if it is no number."""
    try:
        return float(cell), False
    except ValueError:
        pass
    found = NUMBER.fullmatch(cell.strip())
    if found is None:
        return None, False
    unit = re.sub(r"[^a-z%]", "", (found[2] or "").lower())
    if unit not in SUFFIXES:
        return None, False
    return float(found[1].replace(",", "")) * SUFFIXES[unit], bool(unit)
