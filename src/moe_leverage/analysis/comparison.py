"""Two designs at equal compute: the difference of their losses, and what it is worth in compute.

    d     ln L - ln L of `against` at the same budget and seed, the mean over seeds
    EL    C at which `against` reaches the design's loss, over C (Definition 3.1)

Seeds are shared between designs, so that differences are paired; their spread is pooled over the
budgets of a design, and its interval has Student's factor for the degrees of freedom that gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import LEVEL, student_ratio
from moe_leverage.analysis.dense_frontier import frontier_compute
from moe_leverage.analysis.reductions import widened_noise
from moe_leverage.theory.law import Array

POWER = 0.9  # share of attempts in which a true difference is found
DRAWS = 4000
COLUMNS = (
    "design", "budget_flops", "pairs", "loss_nats", "difference", "difference_low",
    "difference_high", "leverage", "leverage_low", "leverage_high", "at_least", "at_most",
)  # fmt: skip


def compare(runs: pd.DataFrame, against: str, *, seed: int = 0) -> pd.DataFrame:
    """Every other design held against one, a row a budget, with 90 % intervals.

    `runs` has `design, budget_flops, seed, loss_nats, config_id`. `difference` is relative, 0.01
    for a loss one per cent higher. The leverage is NaN where `against` has fewer than two budgets
    or its losses do not reach the design's; `at_least` or `at_most` bounds it then. An interval is
    NaN where nothing was repeated. Budgets at which only one of the two has a run are left out.

    >>> cells = [(d, c, s) for d in "ab" for c in (1e10, 1e11) for s in (0, 1)]
    >>> runs = pd.DataFrame(cells, columns=["design", "budget_flops", "seed"])
    >>> worth = runs["design"].map({"a": 1, "b": 2}) * runs["budget_flops"]
    >>> runs = runs.assign(loss_nats=40 * worth**-0.1, config_id=worth.astype(str))
    >>> compare(runs, "a")[["budget_flops", "leverage", "at_least"]].round(6).to_numpy().tolist()
    [[10000000000.0, 2.0, nan], [100000000000.0, nan, 1.0]]
    """
    logs = runs.assign(log_loss=np.log(runs["loss_nats"].astype(float)))
    base = logs[logs["design"] == against]
    curve = base.groupby("budget_flops")["log_loss"].agg(["mean", "size"])
    noise = widened_noise(base)
    generator = np.random.default_rng(seed)
    rows = []
    for design in dict.fromkeys(logs.loc[logs["design"] != against, "design"]):
        own = logs[logs["design"] == design]
        paired = own.merge(base, on=["budget_flops", "seed"], suffixes=("", "_base"))
        paired = paired.assign(gap=paired["log_loss"] - paired["log_loss_base"])
        spread = _pooled(paired)
        for budget, group in paired.groupby("budget_flops"):
            error = spread / math.sqrt(len(group))
            gap = float(group["gap"].mean())
            row = {"design": design, "budget_flops": budget, "pairs": len(group)}
            row |= {"loss_nats": float(np.exp(group["log_loss"].mean()))}
            row |= _difference(gap, error)
            rows.append(row | _leverage(gap, error, float(budget), curve, noise, generator))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def in_words(row: Mapping[Any, Any], against: str) -> str:
    """A row of `compare` as a sentence.

    >>> row = dict.fromkeys(COLUMNS, math.nan) | {"design": "b", "budget_flops": 1e10, "pairs": 1}
    >>> in_words(row | {"difference": 0.02, "at_most": 0.5}, "a")
    'at 1e+10 FLOPs b has a loss 2.00 % above that of a (1 seed, no interval); EL below 0.5'
    """
    percent, side = 100 * abs(row["difference"]), "above" if row["difference"] > 0 else "below"
    interval = "no interval"
    if row["difference_low"] == row["difference_low"]:
        low, high = 100 * row["difference_low"], 100 * row["difference_high"]
        interval = f"{low:+.2f} to {high:+.2f} %"
    seeds = f"{row['pairs']} seed{'s' * (row['pairs'] != 1)}"
    text = f"at {row['budget_flops']:.3g} FLOPs {row['design']} has a loss {percent:.2f} % {side} "
    text += f"that of {against} ({seeds}, {interval}); "
    if row["at_least"] == row["at_least"]:
        return text + f"EL above {row['at_least']:.3g}"
    if row["at_most"] == row["at_most"]:
        return text + f"EL below {row['at_most']:.3g}"
    if row["leverage"] != row["leverage"]:
        return text + f"no EL: {against} has one budget"
    text += f"EL {row['leverage']:.3g}"
    low, high = row["leverage_low"], row["leverage_high"]
    return text + (f" ({low:.3g} to {high:.3g})" if low == low else "")


def seeds_needed(noise: float, difference: float) -> int:
    """Seeds each of two designs needs so that a true difference is found nine times in ten.

    n = 2 (z_{0.95} + z_{0.9})^2 (sigma / d)^2, at the level of the 90 % intervals; `noise` is the
    standard deviation of ln loss between seeds, `difference` that of ln loss to be found.

    >>> seeds_needed(0.01, 0.02), seeds_needed(0.01, 0.005)
    (5, 69)
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(POWER)
    return max(2, math.ceil(2 * (z * noise / difference) ** 2))


def _pooled(paired: pd.DataFrame) -> float:
    """Spread of paired differences around the mean of their budget, Student's factor included."""
    groups = paired.groupby("budget_flops")["gap"]
    freedom = len(paired) - groups.ngroups
    if freedom < 1:
        return math.nan
    squares = float(((paired["gap"] - groups.transform("mean")) ** 2).sum())
    return math.sqrt(squares / freedom) * student_ratio(freedom)


def _difference(gap: float, error: float) -> dict[str, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return {
        "difference": math.expm1(gap),
        "difference_low": math.expm1(gap - z * error),
        "difference_high": math.expm1(gap + z * error),
    }


def _leverage(
    gap: float,
    error: float,
    budget: float,
    curve: pd.DataFrame,
    noise: float,
    generator: np.random.Generator,
) -> dict[str, float]:
    """EL at one budget: where the other design's curve has this one's loss."""
    names = ("leverage", "leverage_low", "leverage_high", "at_least", "at_most")
    found = dict.fromkeys(names, math.nan)
    if len(curve) < 2:  # one budget has no slope
        return found
    compute = curve.index.to_numpy(dtype=float)
    place = int(np.searchsorted(compute, budget))
    errors = noise / np.sqrt(curve["size"].to_numpy(dtype=float))
    moves = generator.standard_normal((DRAWS + 1, len(curve))) * errors
    gaps = gap + error * generator.standard_normal((DRAWS + 1, 1))
    moves[0], gaps[0] = 0.0, gap
    losses: Array = curve["mean"].to_numpy(dtype=float) + np.nan_to_num(moves)
    wanted = losses[:, [place]] + np.nan_to_num(gaps, nan=gap)
    leverage = frontier_compute(compute, losses, wanted, 0.0)[:, 0] / budget
    if math.isinf(leverage[0]):
        return found | {"at_least": float(compute[-1] / budget)}
    if leverage[0] == 0:
        return found | {"at_most": float(compute[0] / budget)}
    if math.isnan(error) or math.isnan(noise):
        return found | {"leverage": float(leverage[0])}
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(leverage[1:], [tail, 1 - tail], method="nearest")
    return found | {
        "leverage": float(leverage[0]), "leverage_low": float(low), "leverage_high": float(high),
    }  # fmt: skip
