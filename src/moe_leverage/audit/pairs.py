"""Claims about a change of a design: runs with it less runs without it, pair by pair.

Studies give a design and its variants the same seeds, so that both saw the same text in the same
order. Two runs are a pair if they have one budget and one seed and differ, among the columns that
their study varies, in exactly those that the claim names. Where a column has more than two values,
the claim names those of the partner too.

    d_bs     loss with the change less loss without it, nats, at budget b and seed s
    effect   mean over budgets of the mean over seeds of d_bs
             (claims that are `charged`: the budget is C with all the runs behind, each once)
    interval Student's, 90 %, from the spread of d_bs within budgets
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from moe_leverage import ledger
from moe_leverage.analysis.bootstrap import LEVEL
from moe_leverage.audit import evidence
from moe_leverage.audit.claims import Measurement, check
from moe_leverage.rules import require

LEAST_FREEDOM = 2  # differences beyond one a budget, below which no interval is given


@check
def paired(
    study: str,
    changed: Mapping[str, Any],
    partner: Mapping[str, Any] | None = None,
    *,
    charged: bool = False,
) -> Measurement:
    """The mean difference in nats between runs that have these values and those that do not."""
    if lacking := evidence.shortfall([study]):
        return Measurement(effect=None, detail=f"decided when complete: {lacking}")
    runs = evidence.runs([study])
    if runs.empty:
        return Measurement(effect=None, detail=f"no finished run of the study {study}")
    runs = at_equal_cost(runs) if charged else runs
    varies = ledger.plans(ledger.DIRECTORY)[study]["varies"]
    found = differences(runs, changed, varies, partner)
    budgets = found["budget"].nunique()
    words = ", ".join(f"{name} = {value}" for name, value in changed.items())
    words += " beside " + ", ".join(f"{n} = {v}" for n, v in partner.items()) if partner else ""
    detail = f"{len(found)} pairs of runs of {study} with and without {words}"
    if len(found) < budgets + LEAST_FREEDOM:
        return Measurement(effect=None, detail=f"too few pairs: {detail}")
    effect, half = mean_and_half_width(found)
    failing = evidence.failing_gates([study])
    if failing:
        detail = f"{', '.join(failing)}; {detail}"
    return Measurement(
        effect=effect, low=effect - half, high=effect + half, detail=detail, gates=failing
    )


def at_equal_cost(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the budget of all that they cost: their own steps and the runs behind them.

    >>> runs = pd.DataFrame({"budget": ["3e+12", "8e+12"], "chain_flops": [7.99e12, 8.02e12]})
    >>> at_equal_cost(runs)["budget"].tolist()
    ['8e+12', '8e+12']
    """
    return runs.assign(budget=runs["chain_flops"].map(ledger.rung).map("{:.0e}".format))


def differences(
    runs: pd.DataFrame,
    changed: Mapping[str, Any],
    varies: list[str],
    partner: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Columns `budget`, `seed` and `nats`, a row a pair; ValueError where a run has two partners.

    >>> runs = pd.DataFrame({"qk_norm": ["none", "head"], "budget": "1e12", "seed": 0,
    ...     "loss_nats": [3.5, 3.25]})
    >>> differences(runs, {"qk_norm": "none"}, ["qk_norm"])["nats"].tolist()
    [0.25]
    """
    for name in changed:
        require(name in varies, "changed", name, f"must be one of {', '.join(varies)}")
    for name in partner or {}:
        require(name in changed, "partner", name, f"must be one of {', '.join(changed)}")
    equal = np.array([(runs[name] == value).to_numpy() for name, value in changed.items()])
    is_partner = ~equal.any(0)
    if partner:
        is_partner = np.all([(runs[name] == value) for name, value in partner.items()], axis=0)
    keys = ["budget", "seed", *(name for name in varies if name not in changed)]
    sides = [runs[chosen][[*keys, "loss_nats"]] for chosen in (equal.all(0), is_partner)]
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("", "_without"))
    rule = "leaves a run more than one partner; name every column that the change touches"
    require(not pairs.duplicated(keys).any(), "changed", dict(changed), rule)
    pairs["nats"] = pairs["loss_nats"] - pairs["loss_nats_without"]
    found: pd.DataFrame = pairs[["budget", "seed", "nats"]]
    return found


def gaps(changed: pd.Series[float], partner: pd.Series[float]) -> pd.DataFrame:
    """Columns `budget`, `seed` and `nats` of losses less those of their partners, a row a pair.

    Both are indexed by budget and seed; what has no partner is left out.

    >>> at = pd.MultiIndex.from_tuples([(1e12, 0), (1e12, 1)])
    >>> gaps(pd.Series([3.5, 3.4], at), pd.Series([3.25], at[:1]))["nats"].tolist()
    [0.25]
    """
    nats = (changed - partner).dropna().rename("nats")
    return nats.rename_axis(["budget", "seed"]).reset_index()


def mean_and_half_width(found: pd.DataFrame) -> tuple[float, float]:
    """The mean over budgets of their mean differences, and half the width of its interval."""
    by_budget = found.groupby("budget")["nats"]
    means, sizes = by_budget.mean(), by_budget.size()
    freedom = len(found) - len(means)
    within = found["nats"] - by_budget.transform("mean")
    variance = float((within**2).sum()) / freedom
    error = np.sqrt(variance * float((1 / sizes).sum())) / len(means)
    return float(means.mean()), float(stats.t.ppf((1 + LEVEL) / 2, freedom) * error)
