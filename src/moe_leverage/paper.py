"""Tables 1 to 11 of the paper as printed, with their locators, units, misprints and counts.

Each table lies in data/paper/table_NN.csv and its description in data/paper/tables.toml. Nothing
is corrected: a cell that looks wrong stays, and `notes` says why it looks wrong. `counted` lays
beside the models of a table what our accounting says of each.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import PAPER_SEQUENCE_LENGTH, PAPER_VOCABULARY_SIZE, ModelConfig
from moe_leverage.paths import DATA
from moe_leverage.rules import require

NUM_TABLES = 11
MODEL_TABLES = (3, 7, 8, 9, 10, 11)
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


def counted(number: int, sequence_length: int = PAPER_SEQUENCE_LENGTH) -> pd.DataFrame:
    """Table `number` with the axes, parameters and FLOPs of each row's model.

    FLOPs are those of one token's forward pass outside the logits, convention `exact`; columns
    named `printed_` have them by Equations 14 to 16. `attention_share` is attention's part of them;
    `projection_share` is the same with the scores, which grow with the sequence, left out on both
    sides, and `causal_attention_share` with half of the scores.

    >>> round(float(counted(8)["attention_share"].iloc[0]), 3)
    0.722
    """
    return _counted(number, sequence_length).copy()


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


@cache
def _counted(number: int, sequence_length: int) -> pd.DataFrame:
    counts = [_counts(model, sequence_length) for model in models(number)]
    return pd.concat([table(number), pd.DataFrame(counts)], axis=1)


def _counts(model: ModelConfig, sequence_length: int) -> dict[str, float]:
    exact = count_forward_flops(model, sequence_length)
    printed = count_forward_flops(model, sequence_length, "paper")
    parameters = count_parameters(model)
    projections, scores = exact.attention_projections, exact.attention_scores
    return {
        "activation_ratio": model.activation_ratio,
        "granularity": model.granularity,
        "shared_ratio": model.shared_ratio,
        "total_params": parameters.non_vocabulary,
        "active_params": parameters.active_non_vocabulary,
        "flops_per_token": exact.non_embedding,
        "printed_flops_per_token": printed.non_embedding,
        "logits_flops": exact.logits,
        "router_share": exact.router / exact.non_embedding,
        "logits_share": exact.logits / exact.total,
        "attention_share": (projections + scores) / exact.non_embedding,
        "printed_attention_share": (printed.attention_projections + printed.attention_scores)
        / printed.non_embedding,
        "causal_attention_share": (projections + scores / 2) / (exact.non_embedding - scores / 2),
        "projection_ratio": printed.attention_projections / projections,
        "projection_share": projections / (exact.non_embedding - scores),
    }


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
        {"vocab_size": PAPER_VOCABULARY_SIZE, "num_kv_heads": num_kv_heads, **sizes}
    )
