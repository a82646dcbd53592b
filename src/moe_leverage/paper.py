"""Tables 1 to 11 of the paper as printed, with their locators, units and known misprints.

Each table lies in data/paper/table_NN.csv and its description in data/paper/tables.toml. Nothing
is corrected: a cell that looks wrong stays, and `notes` says why it looks wrong.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage.config import ModelConfig, require
from moe_leverage.paths import DATA

NUM_TABLES = 11
MODEL_TABLES = (3, 7, 8, 9, 10, 11)
VOCABULARY_SIZE = 126_464  # Appendix B
SEQUENCE_LENGTH = 4_096  # tokens, Appendix B
STUDY_BUDGETS_FLOPS = (1e18, 1e19, 1e20, 3e20)  # of the architecture studies, Section 4
LONG_SEQUENCE_LENGTH = 8_192  # tokens, "8K" of Section 5.1
_KV_HEADS = {8: 2, 10: 2, 12: 4, 16: 4, 20: 4}  # by query heads in Tables 7 and 11


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


def models(number: int) -> list[ModelConfig]:
    """The model of each row of Table 3, 7, 8, 9, 10 or 11, in the order of the rows.

    Tables 8 to 10 print no key-value heads: they take those that Tables 7 and 11 give the same
    query heads. Ling-mini-beta's first layer is dense, the choice that returns the printed 17.5
    billion parameters.

    >>> models(8)[0].granularity, models(8)[5].granularity
    (2.0, 16.0)
    """
    rule = f"must be one of {', '.join(map(str, MODEL_TABLES))}"
    require(number in MODEL_TABLES, "table", number, rule)
    return [_model(number, row) for row in table(number).to_dict("records")]


def printed(number: int) -> pd.DataFrame:
    """Table `number` with every cell as the string that the paper prints, for its precision."""
    rule = f"must be from 1 to {NUM_TABLES}"
    require(isinstance(number, int) and 1 <= number <= NUM_TABLES, "table", number, rule)
    return pd.read_csv(_path(number), dtype=str, keep_default_na=False)


@cache
def _descriptions() -> dict[str, Any]:
    return tomllib.loads((DATA / "paper" / "tables.toml").read_text(encoding="utf-8"))


@cache
def _read(number: int) -> pd.DataFrame:
    frame = pd.read_csv(_path(number))
    for column in frame.columns[frame.columns.str.match(r"num_|d_(model|ffn|expert)$")]:
        if frame[column].isna().any():
            frame[column] = frame[column].astype("Int64")
    description = _descriptions()["tables"][str(number)]
    units = {column: _descriptions()["columns"][column] for column in frame}
    frame.attrs = {"number": number, **description, "units": units}
    return frame


def _path(number: int) -> Path:
    return DATA / "paper" / f"table_{number:02d}.csv"


def _model(number: int, row: dict[Any, Any]) -> ModelConfig:
    names = ("num_layers", "d_model", "num_heads", "d_expert", "d_ffn", "num_experts",
             "num_active_experts", "num_shared_experts", "num_dense_layers")  # fmt: skip
    sizes = {name: int(row[name]) for name in names if name in row and pd.notna(row[name])}
    if number == 3 and "num_experts" in sizes:
        sizes["num_dense_layers"] = 1
    num_kv_heads = int(row.get("num_kv_heads") or _KV_HEADS[sizes["num_heads"]])
    return ModelConfig.from_dict(
        {"vocab_size": VOCABULARY_SIZE, "num_kv_heads": num_kv_heads, **sizes}
    )
