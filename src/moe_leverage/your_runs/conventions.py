"""Training compute of every row, and whether dense and mixture rows count it in one way.

The level is free: exact FLOPs run from 2.4 to 1.5 times 6 N_a D as models grow. What is tested is
whether mixtures follow the convention of dense rows at equal size, and whether single rows do.

    C, D, N_a   training compute, tokens, active parameters
    ratio       given over counted compute
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.rules import refuse, require
from moe_leverage.theory.law import Array
from moe_leverage.your_runs.columns import ColumnMap
from moe_leverage.your_runs.settings import row_names

APART = np.log(1.35)  # by which one row may miss the convention of its family
GAP = 0.15  # ln: dense rows and mixtures this far apart are warned of
LEGAL = (0.6, 5.0)  # training FLOPs over 6 N_a D; forward FLOPs lie near a third of that
COUNTED = (0.7, 1.45)  # the same over exact FLOPs of a shape
STEEPEST = -0.5  # slope of ln ratio in ln N_a: attention and vocabulary weigh less in large models
# FLOPs of a token over N_a: 6 and more in training, 2 and more forward
TRAINING_A_TOKEN = (5.2, 16.0)
MOST_PAIRS = 400  # rows that a slope is taken from


def complete_compute(
    frame: pd.DataFrame, shaped: pd.Series | None, mapping: ColumnMap, notes: list[str],
    warnings: list[str],
) -> tuple[pd.DataFrame, float]:  # fmt: skip
    """Adds compute where the tables have none for all rows, and what follows; and the gap.

    The gap is ln of the mixtures' compute over that of dense rows at equal counted compute.
    """
    frame = _with_active(frame, notes)
    frame = _with_forward(frame, mapping, notes)
    convention = mapping.units.get("compute", "")
    counted, source, floor, ceiling = _counted(frame, shaped)
    given = frame["compute"] if "compute" in frame else pd.Series(np.nan, index=frame.index)
    if given.notna().all():
        if convention == "six_n" and shaped is not None:
            notes.append(f"compute in 6 N D is counted again as {source}")
            return frame.assign(compute=counted), 0.0
        if convention == "six_n":
            notes.append("compute is in 6 N D; the published law counts exact FLOPs")
        frame = _with_tokens(frame, notes)
        if counted is None:
            return frame, 0.0
        told = "compute" in mapping.told
        return frame, _check(frame, counted, source, (floor, ceiling), warnings, told=told)
    known = counted is not None and bool(counted.notna().all())
    needs = (
        "not given, and cannot be counted: name a column of FLOPs, or tokens with active parameters"
        " or shapes"
    )
    require(known, "compute", None, needs)
    assert counted is not None
    if given.notna().any():
        notes.append("compute is not given in every table: counted alike in all")
    notes.append(f"compute is {source}")
    return frame.assign(compute=counted), 0.0


def _with_active(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """N_a of dense rows is all their parameters."""
    if "total_params" not in frame or bool(frame["is_moe"].all()):
        return frame
    known = frame["active_params"] if "active_params" in frame else pd.Series(np.nan, frame.index)
    filled = known.where(known.notna() | frame["is_moe"], frame["total_params"])
    if filled[~frame["is_moe"]].isna().any():
        return frame
    if not filled.equals(known):
        notes.append("active_params of dense rows is their total_params")
    return frame.assign(active_params=filled)


def _with_forward(frame: pd.DataFrame, mapping: ColumnMap, notes: list[str]) -> pd.DataFrame:
    """FLOPs of a token as forward FLOPs, told by their size where a name can mean both."""
    if "flops_per_token" not in frame or "flops_per_token" in mapping.told:
        return frame
    column, theirs = frame["flops_per_token"], mapping.columns.get("flops_per_token", "")
    if mapping.units.get("flops_per_token") == "training":
        return frame
    ratio = _per_token(frame)
    name = f"flops_per_token (column {theirs})"
    if ratio is None:
        is_ours = theirs.lower().startswith(("flops_per_token", "forward"))
        rule = (
            "FLOPs of a token: forward or training? say --unit flops_per_token=forward or "
            "--unit flops_per_token=training"
        )
        require(is_ours or not mapping.guessed, name, float(column.iloc[0]), rule)
        return frame
    if TRAINING_A_TOKEN[0] <= ratio <= TRAINING_A_TOKEN[1]:
        notes.append(f"{name} is {ratio:.3g} times N_a: training FLOPs of a token")
        return frame.assign(flops_per_token=column / TRAINING_PASSES)
    rule = "times N_a; forward FLOPs of a token are 2 to 5 times, training 6 and more"
    require(1.5 <= ratio < TRAINING_A_TOKEN[0], name, round(ratio, 3), rule)
    return frame


def _per_token(frame: pd.DataFrame) -> float | None:
    """FLOPs of a token over active parameters, or over what compute says of them."""
    if "active_params" in frame and frame["active_params"].notna().any():
        return float((frame["flops_per_token"] / frame["active_params"]).median())
    if {"compute", "num_tokens"} <= set(frame):
        whole = frame["compute"] / (frame["flops_per_token"] * frame["num_tokens"])
        level = float(whole.median())
        return 6.0 if 0.7 < level < 1.4 else 2.0 if 2.1 < level < 4.2 else None
    return None


def _counted(
    frame: pd.DataFrame, shaped: pd.Series | None
) -> tuple[pd.Series | None, str, float, float]:
    """Compute counted from other columns, by the best way that every row allows."""
    if shaped is not None:
        whole = TRAINING_PASSES * shaped * frame["num_tokens"]
        return whole, "3 x exact forward FLOPs of the shape x tokens", *COUNTED
    ways = []
    if {"flops_per_token", "num_tokens"} <= set(frame):
        whole = TRAINING_PASSES * frame["flops_per_token"] * frame["num_tokens"]
        ways.append((whole, "3 x forward FLOPs per token x tokens", *COUNTED))
    if {"active_params", "num_tokens"} <= set(frame):
        whole = 6 * frame["active_params"] * frame["num_tokens"]
        ways.append((whole, "6 x active parameters x tokens", *LEGAL))
    for way in ways:  # one that every row allows, so that all are counted alike
        if way[0].notna().all():
            return way
    return ways[0] if ways else (None, "", *LEGAL)


def _with_tokens(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Tokens of dense rows from C = 6 N D, where compute and size alone are given."""
    if "num_tokens" in frame or "active_params" not in frame or bool(frame["is_moe"].any()):
        return frame
    notes.append("num_tokens is C / (6 N)")
    return frame.assign(num_tokens=frame["compute"] / (6 * frame["active_params"]))


def _check(
    frame: pd.DataFrame, counted: pd.Series, source: str, legal: tuple[float, float],
    warnings: list[str], *, told: bool,
) -> float:  # fmt: skip
    """Refuse compute that is none, and say how far mixtures count otherwise than dense rows."""
    known = counted.notna()
    log_ratio = np.log((frame["compute"] / counted)[known].to_numpy(float))
    moe = frame["is_moe"][known].to_numpy(bool)
    size = frame.get("active_params", counted)
    log_size = np.log(size[known].to_numpy(float))
    rest = log_ratio - _slope(log_size, log_ratio, moe) * (log_size - np.median(log_size))
    level = {is_moe: float(np.median(rest[moe == is_moe])) for is_moe in set(moe)}
    own = np.array([level[entry] for entry in moe])
    typical = float(np.exp(np.median(log_ratio)))
    gap = level[True] - level[False] if len(level) == 2 else 0.0
    odd = np.abs(rest - own) > APART
    is_mixed = odd.any() or abs(gap) > np.log(2)
    if is_mixed and not told:
        place = int(odd.argmax()) if odd.any() else int((np.abs(rest - own.max()) > APART).argmax())
        ratio, others = np.exp(log_ratio[place]), np.exp(np.median(np.delete(log_ratio, place)))
        name = f"row {frame.index[known][place]}, compute"
        rule = f"is {ratio:.3g} x {source}, other rows {others:.3g} x: mixed units"
        refuse(name, float(frame["compute"][known].iloc[place]), rule)
    if not legal[0] <= typical <= legal[1] and not told:
        low = 0.2 < typical < legal[0]
        guess = (
            "; forward FLOPs? say so with --unit compute=forward, or --unit compute=training"
            if low else ""
        )  # fmt: skip
        name = f"row {frame.index[0]}, compute"
        refuse(name, float(frame["compute"].iloc[0]), f"is {typical:.3g} x {source}{guess}")
    if abs(gap) <= GAP:
        return 0.0
    side = "below" if gap < 0 else "above"
    warnings.append(
        f"FLOPs of the mixtures lie {abs(np.expm1(gap)):.0%} {side} {source} where the dense rows' "
        f"agree ({row_names(frame[known][moe])}): two conventions?"
    )
    return gap


def _slope(log_size: Array, log_ratio: Array, moe: Array) -> float:
    """Median slope of ln ratio between rows of one family: how the ratio falls as models grow."""
    slopes = []
    for is_moe in (False, True):
        rows = np.flatnonzero(moe == is_moe)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_PAIRS)).astype(int)]
        run, rise = (np.subtract.outer(part[rows], part[rows]) for part in (log_size, log_ratio))
        apart = np.triu(np.abs(run) > np.log(1.5))
        slopes += list(rise[apart] / run[apart])
    return float(np.clip(np.median(slopes), STEEPEST, 0.0)) if slopes else 0.0
