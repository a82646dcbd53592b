"""Tables 1 to 11 of the paper as printed, with their locators, units and known misprints.

Each table lies in data/paper/table_NN.csv and its description in data/paper/tables.toml. Nothing
is corrected: a cell that looks wrong stays, and `notes` says why it looks wrong.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

import pandas as pd

from moe_leverage.config import require
from moe_leverage.paths import DATA

NUM_TABLES = 11


def table(number: int) -> pd.DataFrame:
    """Table `number` of the paper; `.attrs` holds its number, locator, caption and units.

    Columns carry the names of `ModelConfig` and units where they have one. Counts that do not
    apply to a row are missing values of an integer column.

    >>> paper_table = table(3)
    >>> paper_table.attrs["locator"]
    'Section 5.1, Table 3'
    >>> paper_table.set_index("model").loc["Dense-6.1B", ["num_layers", "d_model"]].tolist()
    [28, 4096]
    """
    rule = f"must be from 1 to {NUM_TABLES}"
    require(isinstance(number, int) and 1 <= number <= NUM_TABLES, "table", number, rule)
    return _read(number).copy()


def tables() -> dict[int, pd.DataFrame]:
    """All eleven tables by their number."""
    return {number: table(number) for number in range(1, NUM_TABLES + 1)}


def notes(number: int | None = None) -> pd.DataFrame:
    """What looks wrong or needs a word in the printed tables, all or of one: table, where, remark.

    >>> notes(11)["printed"].tolist()[0]
    '9.5e-3, 8.1e-3, 7.0e-3'
    """
    found = pd.DataFrame(_descriptions()["notes"])
    if number is None:
        return found
    return found[found["table"] == number].reset_index(drop=True)


@cache
def _descriptions() -> dict[str, Any]:
    return tomllib.loads((DATA / "paper" / "tables.toml").read_text(encoding="utf-8"))


@cache
def _read(number: int) -> pd.DataFrame:
    frame = pd.read_csv(DATA / "paper" / f"table_{number:02d}.csv")
    for column in frame.columns[frame.columns.str.match(r"num_|d_(model|ffn|expert)$")]:
        if frame[column].isna().any():
            frame[column] = frame[column].astype("Int64")
    description = _descriptions()["tables"][str(number)]
    units = {column: _descriptions()["columns"][column] for column in frame}
    frame.attrs = {"number": number, **description, "units": units}
    return frame
