"""What people write for a number: 36.8M, 2,040, 3.1%, 1.5 EFLOPs, 1.2 x 10^20, 3.904 ± 0.01."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PF_DAY = 1e15 * 24 * 3600  # FLOPs

PLAIN = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)"
UNIT = r"[A-Za-z%][A-Za-z%/ .-]*"
NUMBER = re.compile(rf"({PLAIN})\s*({UNIT})?")
POWER = re.compile(  # 1.2 x 10^20, 1.2×10²⁰, 10**20
    r"(?:([-+]?\d+\.?\d*)\s*(?:[x×*·]|\\times|\\cdot)\s*)?10\s*(?:\^|\*\*)\s*[{(]?([-+]?\d+)[})]?"
)
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
WITH_ERROR = re.compile(  # 3.904 ± 0.01, 3.904 (±0.01), 36.8M +/- 0.1M, 3.904(12), 3.904*
    rf"(.+?)\s*(?:\(?\s*(?:±|\+/?[-−]|\\pm)\s*{PLAIN}\s*({UNIT})?\)?|(?<=\d)\(\d+\)|[*†‡§]+)"
)
SUFFIXES = {
    "": 1.0, "%": 0.01, "k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9, "t": 1e12, "million": 1e6,
    "billion": 1e9, "trillion": 1e12, "thousand": 1e3, "flop": 1.0, "flops": 1.0, "gflop": 1e9,
    "gflops": 1e9, "tflop": 1e12, "tflops": 1e12, "pflop": 1e15, "pflops": 1e15, "eflop": 1e18,
    "eflops": 1e18, "exaflop": 1e18, "exaflops": 1e18, "zflop": 1e21, "zflops": 1e21,
    "pfdays": PF_DAY, "pfday": PF_DAY, "pfsdays": PF_DAY, "pfsday": PF_DAY, "nats": 1.0,
    "tokens": 1.0, "params": 1.0, "parameters": 1.0, "mt": 1e6, "bt": 1e9, "tt": 1e12,
}  # fmt: skip
COUNTED = re.compile(r"(?<=.)(?:tokens?|params?|parameters)$")  # behind a count: 800M tokens
GROUPS = re.compile(r"\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?:\.\d+)?")  # 800 000 000


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers; NaN where a cell is blank or none."""

    value: pd.Series
    has_unit: NDArray[
        np.bool_
    ]  # cells that carry a unit of their own, which the header's yields to
    is_bad: NDArray[np.bool_]  # cells that hold something, but no number
    has_error: NDArray[np.bool_]  # cells that tell how sure the number is, which is not read


def numbers(column: pd.Series) -> Numbers:
    """A column of cells as numbers, with the units that single cells carry applied.

    >>> numbers(pd.Series(["36.8M", "2,040", "5%", "x"])).value.tolist()
    [36800000.0, 2040.0, 0.05, nan]
    >>> numbers(pd.Series(["2 PF-days"])).value.tolist()  # of 86,400 s each
    [1.728e+20]
    >>> numbers(pd.Series(["3.904 ± 0.01", "1.2 x 10^20"])).value.tolist()
    [3.904, 1.2e+20]
    """
    if pd.api.types.is_numeric_dtype(column):
        nothing = np.zeros(len(column), dtype=bool)
        return Numbers(column.astype(float), nothing, nothing, nothing)
    parsed = {cell: _number(str(cell)) for cell in column.dropna().unique()}
    value = column.map({cell: entry[0] for cell, entry in parsed.items()}).astype(float)

    def marked(marks: dict[object, bool]) -> NDArray[np.bool_]:
        return column.map(marks).fillna(False).to_numpy(dtype=bool)

    return Numbers(
        value,
        has_unit=marked({cell: entry[1] for cell, entry in parsed.items()}),
        is_bad=marked({cell: entry[0] is None for cell, entry in parsed.items()}),
        has_error=marked({cell: entry[2] for cell, entry in parsed.items()}),
    )


def _number(cell: str) -> tuple[float | None, bool, bool]:
    """The number in a cell, and whether it carries a unit and an error; None if it is no number."""
    try:
        return float(cell), False, False
    except ValueError:
        pass
    written = cell.strip().strip("$").replace("−", "-")
    text = written.lstrip("~≈ ")  # of a rounded number
    if GROUPS.fullmatch(text):
        text = re.sub(r"\s", "", text)
    with_error = WITH_ERROR.fullmatch(text)
    if with_error is not None:
        text = with_error[1] if with_error[1][-1:].isalpha() else (
            with_error[1] + (with_error[2] or "")
        )  # fmt: skip
    if "10" in text:
        text = re.sub("(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda power: "^" + power[0], text)
        text = POWER.sub(lambda found: f"{found[1] or 1}e{found[2]}", text.translate(SUPERSCRIPTS))
    found = NUMBER.fullmatch(text)
    if found is None:
        return None, False, False
    unit = re.sub(r"[^a-z%]", "", (found[2] or "").lower())
    unit = unit if unit in SUFFIXES else COUNTED.sub("", unit)
    if unit not in SUFFIXES:
        return None, False, False
    value = float(found[1].replace(",", "")) * SUFFIXES[unit]
    return value, bool(unit), with_error is not None or written[:1] in "~≈"
