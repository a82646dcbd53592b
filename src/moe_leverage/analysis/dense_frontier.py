"""Leverage read from the measured dense frontier by interpolation, and what noise makes of it.

C   compute, training FLOPs
L   loss, nats per token on held-out documents
B   bootstrap draws
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.points import best_runs, points_of
from moe_leverage.analysis.reductions import with_law_names
from moe_leverage.theory.law import Array

ROLES = ("plain", "sizes")  # of the studies whose dense runs make the frontier of their ladder
POINTS_AT_ONCE = 1000  # leverages whose draws are held in memory together


@dataclass(frozen=True, slots=True)
class Draws:
    """How often and how widely losses are drawn anew, and from what."""

    noise: float
    count: int
    level: float
    generator: np.random.Generator

    def log_losses(self, runs: pd.DataFrame) -> Array:
        """(1 + B, rows) of ln loss: as measured, then with seed noise drawn anew."""
        noise = self.noise if np.isfinite(self.noise) else 0.0
        scale = noise / np.sqrt(runs["num_seeds"].to_numpy(dtype=float))
        names = runs["run_id"] if "run_id" in runs else pd.Series(np.arange(len(runs)))
        run = pd.factorize(names)[0]  # the checkpoints of a run share its noise
        drawn = self.generator.standard_normal((self.count, int(run.max()) + 1))[:, run] * scale
        measured: Array = np.log(runs["loss"].to_numpy(dtype=float))
        both: Array = measured + np.concatenate([np.zeros((1, len(runs))), drawn])
        return both


def of_frontier(table: pd.DataFrame) -> pd.DataFrame:
    """The dense runs that the mixtures of a ladder are held against, of the ledger's table.

    >>> runs = pd.DataFrame({"is_moe": [False, True, False], "role": ["sizes", "plain", "search"]})
    >>> of_frontier(runs).index.tolist()
    [0]
    """
    kept: pd.DataFrame = table[(table["is_moe"] == 0) & table["role"].isin(ROLES)]
    return kept


def best_dense(table: pd.DataFrame) -> pd.DataFrame:
    """`compute`, `loss` and `num_seeds` of the best dense design at each budget.

    Of finished runs of the ledger's table, each design by the mean over its seeds.
    """
    if table.empty or (dense := of_frontier(table)).empty:
        return pd.DataFrame(columns=["budget", "compute", "loss", "num_seeds"], dtype=float)
    return best_runs(with_law_names(dense.assign(is_moe=False)))


def frontier_compute(compute: Array, log_loss: Array, wanted: Array, floor: float) -> Array:
    """Dense compute (B, n) at which B frontiers reach the log losses wanted (B, n).

    `log_loss` (B, m) belongs to `compute` (m,), increasing. The frontier is the running minimum,
    interpolated linearly in (ln C, ln(L - floor)), which is exact for L = floor + a C^-b. Inf where
    the loss wanted is below every dense loss, 0 where it is above.

    >>> compute = np.array([1e12, 1e14])
    >>> dense, wanted = np.log([[4.0, 2.0]]), np.log([[np.sqrt(8.0), 1.9, 5.0]])
    >>> (frontier_compute(compute, dense, wanted, 0.0) / 1e13).round(6).tolist()
    [[1.0, inf, 0.0]]
    """
    knots = np.minimum.accumulate(log_loss, axis=1)
    knots = knots - 1e-12 * np.arange(knots.shape[1])  # flat stretches keep an inverse
    # each frontier its own: a wild draw must not bend the others, nor the one that was measured
    lowest = np.exp(np.minimum(knots.min(axis=1), wanted.min(axis=1)))
    floors = np.minimum(floor, 0.999 * lowest)[:, None]
    heights, levels = np.log(np.exp(knots) - floors), np.log(np.exp(wanted) - floors)
    passed = np.stack([  # knots at or above the loss
        np.searchsorted(-own, -wants, side="right")
        for own, wants in zip(heights, levels, strict=True)
    ])  # fmt: skip
    right = np.clip(passed, 1, knots.shape[1] - 1)
    high, low = (np.take_along_axis(heights, right - shift, axis=1) for shift in (1, 0))
    share = (high - levels) / (high - low)
    log_c = np.log(compute)
    reached = log_c[right - 1] + share * (log_c[right] - log_c[right - 1])
    value = np.exp(np.clip(reached, -700, 700))  # beyond the ends it counts as 0 or infinite below
    at_end = np.isclose(levels, heights[:, -1:], rtol=0, atol=1e-11)
    value = np.where((passed == knots.shape[1]) & ~at_end, np.inf, value)
    return np.asarray(np.where(passed == 0, 0.0, value))


def frontier_points(
    dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: Draws
) -> pd.DataFrame:
    """EL of every mixture with its interval, or its bound beyond the ends of the frontier."""
    compute = dense["compute"].to_numpy(dtype=float)
    own = moe["compute"].to_numpy(dtype=float)
    of_dense, tail = draws.log_losses(dense), (1 - draws.level) / 2
    value, low, high = (np.empty(len(moe)) for _ in range(3))
    for start in range(0, len(moe), POINTS_AT_ONCE):
        part = slice(start, start + POINTS_AT_ONCE)
        of_moe = draws.log_losses(moe.iloc[part])
        leverage = frontier_compute(compute, of_dense, of_moe, floor) / own[part]
        value[part] = leverage[0]
        ends = np.quantile(leverage[1:], [tail, 1 - tail], axis=0, method="nearest")
        low[part], high[part] = ends[0], ends[1]
    inside = np.isfinite(value) & (value > 0)
    if not np.isfinite(draws.noise):  # no freedom, no interval
        low = high = np.full(len(value), np.nan)
    return points_of(
        moe,
        "frontier",
        efficiency_leverage=np.where(inside, value, np.nan),
        low=np.where(inside, low, np.nan),
        high=np.where(inside, high, np.nan),
        at_least=np.where(np.isinf(value), compute.max() / own, np.nan),
        at_most=np.where(value == 0, compute.min() / own, np.nan),
    )


def dense_draws(
    dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: Draws, rows: NDArray[np.int64]
) -> Array:
    """Ln EL (B, rows) under seed noise of the dense runs alone, the error all points share."""
    compute, own = dense["compute"].to_numpy(dtype=float), moe.iloc[rows]
    wanted = np.broadcast_to(np.log(own["loss"].to_numpy(float)), (draws.count, len(rows)))
    reached = frontier_compute(compute, draws.log_losses(dense)[1:], wanted, floor)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(reached / own["compute"].to_numpy(dtype=float)))
