"""What a value of a reader's table may be: ranges by quantity, and losses by their neighbours.

Every refusal names the row as the file numbers it, a header being row 1, and the column.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from moe_leverage.rules import refuse, require
from moe_leverage.your_runs.columns import ColumnMap
from moe_leverage.your_runs.settings import row_names
from moe_leverage.your_runs.values import numbers

WHOLE = (
    "num_experts", "num_active_experts", "num_shared_experts", "d_model", "d_expert", "d_ffn",
    "num_layers", "num_dense_layers", "num_heads", "num_kv_heads", "vocab_size", "sequence_length",
    "seed",
)  # fmt: skip
MAY_BE_ZERO = (
    "num_experts", "num_active_experts", "num_shared_experts", "d_expert", "d_ffn",
    "num_dense_layers", "shared_ratio", "seed", "step", "shared_width",
)  # fmt: skip
MAY_BE_EMPTY = (  # what a dense row, or a run that did not finish, need not have
    *MAY_BE_ZERO, "activation_ratio", "granularity", "variant", "status", "is_moe", "loss", "run",
    "outlier", "d_expert", "learning_rate", "batch_tokens", "num_kv_heads",
)  # fmt: skip
PLAUSIBLE: dict[str, tuple[float, float, str]] = {  # low, high, and what else the number may be
    "loss": (0.01, 30.0, "nats per token"),
    "num_tokens": (1e4, 1e15, "tokens; in millions or billions? say so under [units]"),
    "batch_tokens": (16, 1e10, "tokens; sequences? map a column of tokens"),
    "compute": (1e7, 1e30, "FLOPs; in units of another size? convert the column"),
    "flops_per_token": (1e2, 1e16, "FLOPs of one token"),
    "active_params": (1e2, 1e15, "parameters; in millions or billions? say so under [units]"),
    "total_params": (1e2, 1e15, "parameters; in millions or billions? say so under [units]"),
    "activation_ratio": (1e-6, 1.0, "a fraction up to 1; in percent? say so under [units]"),
    "shared_ratio": (0.0, 1.0, "a fraction up to 1; in percent? say so under [units]"),
    "granularity": (0.05, 1e4, "2 d_model / d_expert"),
    "learning_rate": (1e-8, 10.0, "the peak learning rate"),
}
NEIGHBOURS = 5  # runs of about the same compute that a loss is compared with
BITS_MARGIN = 0.04  # around ln(1 / ln 2), the step from nats to bits
MOST_ODD = 0.2  # share of losses off their neighbours beyond which the spread is real
UNLIKELY = (-0.25, 0.15)  # ln loss of mixtures over dense runs at equal compute
UNIFORM_MARGIN = 1.05  # over ln(vocabulary), which no trained model exceeds in nats
MOST_PERPLEXITY = 12.0  # median "loss" that is none in nats: over ln of a vocabulary of 160,000


def check_range(frame: pd.DataFrame, name: str, written: pd.Series, theirs: str) -> None:
    """The first value of a column that is missing, out of range or not whole is an error.

    It is shown as `written` in the file, under its name there.
    """
    column = frame[name]
    low, high, what = PLAUSIBLE.get(name, (0.0, np.inf, "a positive number"))
    outside = ~column.between(low, high) | (column <= 0 if name not in MAY_BE_ZERO else False)
    missing = column.isna()
    optional = name in MAY_BE_EMPTY and name != "loss"
    bad = (outside & ~missing) | (missing if not optional else False)
    if name in WHOLE:
        bad |= ~missing & (column != column.round())
        what = "a whole number"
    rule = f"between {low:g} and {high:g}: {what}" if name in PLAUSIBLE else what
    if name == "loss":
        absent = "no loss; leave the row out, or mark it in a column of status"
        refuse_row(missing | np.isinf(column), name, column, absent, theirs)

    def told(place: int) -> str:
        if missing.iloc[place]:
            return "is blank; every run has it. A row of means or totals is no run: leave it out"
        value = column.iloc[place]
        is_same = numbers(written.iloc[[place]]).value.iloc[0] == value
        return f"must be {rule}" if is_same else f"must be {rule}; it is read as {value:.4g}"

    refuse_row(bad, name, written, told, theirs)


def check_loss_unit(frame: pd.DataFrame, mapping: ColumnMap, warnings: list[str]) -> None:
    """Losses above a uniform guess's are errors; ones 1.44 times their neighbours' are named."""
    loss = frame["loss"]
    if "vocab_size" in frame:
        bad = loss > UNIFORM_MARGIN * np.log(frame["vocab_size"])
        refuse_row(bad, "loss", loss, "exceeds ln(vocabulary); in bits?")
    high = float(loss.median()) > MOST_PERPLEXITY and "loss" not in mapping.told
    rule = "is the median, too high for nats; a perplexity? say --unit loss=perplexity"
    require(not high, "loss", float(loss.median()), rule)
    order = np.argsort(frame["compute"].to_numpy(), kind="stable")
    ordered = loss.iloc[order]
    window = ordered.rolling(NEIGHBOURS, center=True, min_periods=NEIGHBOURS)
    ratio = np.abs(np.log(ordered / window.median()))
    odd = ordered.index[np.abs(ratio + np.log(np.log(2))) < BITS_MARGIN]
    if 0 < len(odd) < MOST_ODD * len(loss):
        rows = row_names(frame.loc[odd])
        warnings.append(f"loss of {rows} is 1.44 times off its neighbours': bits and nats mixed?")
    warnings += _family_warnings(frame)


def _family_warnings(frame: pd.DataFrame) -> list[str]:
    """A warning where mixtures lie farther from the dense runs than any leverage takes them."""
    moe = frame["is_moe"].to_numpy(bool)
    log_c, log_loss = (np.log(frame[name].to_numpy(float)) for name in ("compute", "loss"))
    order = np.argsort(log_c[~moe])
    if len(order) < 2 or not moe.any():
        return []
    knots = log_c[~moe][order]
    inside = (log_c[moe] >= knots[0]) & (log_c[moe] <= knots[-1])
    if not inside.any():
        return []
    dense = np.interp(log_c[moe][inside], knots, np.minimum.accumulate(log_loss[~moe][order]))
    gaps = log_loss[moe][inside] - dense
    if gaps.min() <= UNLIKELY[1] and gaps.max() >= UNLIKELY[0]:  # one that is usual is enough
        return []
    gap = float(np.median(gaps))
    side = "above" if gap > 0 else "below"
    return [
        f"losses of the mixtures lie {abs(np.expm1(gap)):.0%} {side} those of dense runs at equal "
        "compute: another unit (bits, nats), tokenizer or data?"
    ]


def refuse_row(
    bad: pd.Series, name: str, values: pd.Series, rule: str | Callable[[int], str], column: str = ""
) -> None:
    """Raise a ValueError naming the first bad row of the file, its value and the rule."""
    if not bad.any():
        return
    place = int(bad.to_numpy(dtype=bool).argmax())
    value = values.iloc[place]
    text = rule if isinstance(rule, str) else rule(place)
    shown = value.item() if isinstance(value, np.generic) else value
    theirs = f" (column {column})" if column and column != name else ""
    refuse(f"row {bad.index[place]}, {name}{theirs}", shown, text)
