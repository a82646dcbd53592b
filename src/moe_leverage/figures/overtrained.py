"""Leverage where every model reads three times its best tokens, as in Section 4 of the paper.

Each body is the one that is best at about a third of the budget, dense and mixture alike, so that
EL compares two families that are off the optimum by as much.

    EL    C of the overtrained dense models at the loss of an overtrained mixture, over its C
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.analysis.bootstrap import LEVEL
from moe_leverage.analysis.dense_frontier import Draws, frontier_points
from moe_leverage.analysis.leverage import RESAMPLES
from moe_leverage.analysis.measured import runs_table
from moe_leverage.analysis.points import best_runs
from moe_leverage.analysis.reductions import widened_noise
from moe_leverage.page.drawing import percent, power

ENDS = ["EL", "from", "to"]
BEST = ["EL at the best size", "from ", "to "]  # of columns: no two may bear one name
DESIGN = ["budget_flops", "activation_ratio"]


def leverages(runs: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """EL of each design with three times its best tokens, and at its best size, a row a place.

    `runs` are those of the study `overtrained`; `points` those of `page.measured.leverage_points`
    at their granularity. Intervals are of seed noise, 90 %; EL is missing beyond the dense models.
    """
    columns = ["C", "A", *ENDS, *BEST]
    if runs.empty or points.empty:
        return pd.DataFrame(columns=columns)
    best = best_runs(runs_table(runs))
    noise = widened_noise(ledger.finished(runs))
    draws = Draws(noise, RESAMPLES, LEVEL, np.random.default_rng(0))
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]
    found = frontier_points(dense, moe, 0.0, draws)
    beside = points.assign(budget_flops=points["training_flops"].map(ledger.rung))
    rows = []
    for _, row in found.iterrows():
        budget, ratio = ledger.rung(row["compute"]), row["activation_ratio"]
        same = np.isclose(beside["budget_flops"], budget) & np.isclose(
            beside["activation_ratio"], ratio, rtol=0.02
        )
        values = beside.loc[same, ["efficiency_leverage", "leverage_low", "leverage_high"]]
        plain = values.iloc[0] if len(values) else [np.nan] * 3
        own = row[["efficiency_leverage", "low", "high"]]
        rows.append([budget, ratio, *own, *plain])
    table = pd.DataFrame(rows, columns=columns).astype(float)
    return table.sort_values(["C", "A"], ascending=[True, False], ignore_index=True)


def in_words(table: pd.DataFrame) -> str:
    """In how many places the two intervals of EL have a value in common, and the largest change."""
    both = table.dropna()
    if both.empty:
        return "The overtrained models have not been trained yet."
    meet = np.maximum(both["from"], both["from "]) <= np.minimum(both["to"], both["to "])
    most = int((both["EL"] / both[BEST[0]]).map(np.log).abs().argmax())
    budget, ratio, now, before = (float(both[n].iloc[most]) for n in ("C", "A", "EL", BEST[0]))
    return (
        f"With three times the tokens that are best for each size, in both families, the intervals "
        f"of EL have a value in common with those at the best sizes at {int(meet.sum())} of "
        f"{len(both)} places; the largest change is from {before:.2f} to {now:.2f}, at A = "
        f"{percent(ratio)} and {power(budget)} FLOPs.{_direction(both)}"
    )


def _direction(both: pd.DataFrame) -> str:
    """What follows where EL moves one way at every place, and somewhere beyond the intervals."""
    is_above, is_below = both["from"] > both["to "], both["to"] < both["from "]
    way = more = ""
    if (both["EL"] > both[BEST[0]]).all() and is_above.any():
        way, more = "larger", "more"
    if (both["EL"] < both[BEST[0]]).all() and is_below.any():
        way, more = "smaller", "less"
    if not way:
        return " It does not move one way at all of them."
    return (
        f" It is {way} at all of them: leverage between models that read so much, as those of the "
        f"paper's studies do, is {more} than the lowest losses of a budget give."
    )
