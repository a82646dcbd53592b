"""From sweeps to the points that laws are fitted to (Sections 2.2 and 2.3).

A sweep is a set of runs at one compute budget that differ in learning rate, batch size or model
scale; what a law needs from it is where the best lies.

    M   flops_per_token   non-embedding forward FLOPs of one token
    D   num_tokens        training tokens
    C   compute           training FLOPs
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import NORMAL_95, student_ratio
from moe_leverage.rules import require
from moe_leverage.theory.law import Array

NEAR_OPTIMAL = 0.0025  # relative excess loss of a near-optimal run (Section 2.2)
SAME_BUDGET = 0.04  # two budgets closer than this, relatively, are one
NEAR_LOSS = 1.15  # times a budget's lowest loss: as far as a parabola in ln M is trusted
MIN_SIZES = 4  # model scales a parabola needs: three coefficients and one to spare
MIN_FREEDOM = 2  # degrees of freedom, below which no interval is drawn
LAW_NAMES = {"compute": "training_flops", "loss": "loss_nats", "budget": "budget_flops"}


def budget_of(compute: Array, tolerance: float = SAME_BUDGET) -> Array:
    """The budget that each run belongs to: computes within `tolerance` share their median.

    Rounding of steps and batches moves C by a few per cent between runs meant to be equal.

    >>> budget_of(np.array([1.01e12, 3e12, 0.99e12, 1.0e12])).tolist()
    [1000000000000.0, 3000000000000.0, 1000000000000.0, 1000000000000.0]
    """
    compute = np.asarray(compute, dtype=float)
    order = np.argsort(compute)
    budgets, begin = np.empty(len(compute)), 0
    while begin < len(order):  # greedy, so that a continuum of budgets does not chain into one
        limit = compute[order[begin]] * (1 + tolerance)
        end = int(np.searchsorted(compute[order], limit, side="right"))
        budgets[order[begin:end]] = np.median(compute[order[begin:end]])
        begin = end
    return budgets


def budgets(table: pd.DataFrame) -> Array:
    """The budget of each row of a table: its column `budget`, or else that of its `compute`."""
    if "budget" in table:
        return table["budget"].to_numpy(dtype=float)
    return budget_of(table["compute"].to_numpy())


def with_law_names(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of the ledger's table with C, L and their rung also under the names that laws read.

    >>> row = pd.DataFrame({"training_flops": [9.9e11], "loss_nats": [3.0], "budget_flops": [1e12]})
    >>> with_law_names(row)[["compute", "loss", "budget"]].to_numpy().tolist()
    [[990000000000.0, 3.0, 1000000000000.0]]
    """
    return runs.assign(**{law: runs[column] for law, column in LAW_NAMES.items()})


def seed_noise(table: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation of ln loss between seeds of one setting, pooled, and its freedom.

    Rows with the same `config_id` are one setting with other seeds; `loss_nats` is their loss.
    Nothing but those rows counts, so that no other setting or study moves it.

    >>> runs = pd.DataFrame({"config_id": ["a", "a", "b"], "loss_nats": [3.0, 3.0, 4.0]})
    >>> seed_noise(runs)
    (0.0, 1)
    """
    if table.empty:
        return 0.0, 0
    log_loss = pd.Series(np.log(table["loss_nats"].astype(float)), table.index)
    groups = log_loss.groupby(table["config_id"])
    freedom = int(len(table) - groups.ngroups)
    if freedom == 0:
        return 0.0, 0
    squares = ((log_loss - groups.transform("mean")) ** 2).sum()
    return float(np.sqrt(squares / freedom)), freedom


def widened_noise(table: pd.DataFrame) -> float:
    """The noise between seeds as wide as its few degrees of freedom ask for; NaN below MIN_FREEDOM.

    >>> runs = pd.DataFrame({"config_id": ["a"] * 3, "loss_nats": [3.0, 3.3, 3.1]})
    >>> widened_noise(runs) > seed_noise(runs)[0], widened_noise(runs.head(2))
    (True, nan)
    """
    sigma, freedom = seed_noise(table)
    return sigma * student_ratio(freedom) if freedom >= MIN_FREEDOM else float("nan")


def noise_near(table: pd.DataFrame, budget: float) -> tuple[float, float]:
    """`widened_noise` at the budget nearest to one, of those that know it, and that budget.

    NaN for both where no budget has enough repeated settings.

    >>> runs = pd.DataFrame({"config_id": ["a"] * 3 + ["b"], "loss_nats": [3.0, 3.3, 3.1, 3.0],
    ...     "budget_flops": [1e12] * 3 + [1e10]})
    >>> noise_near(runs, 1e10)[1]
    1000000000000.0
    """
    found = {
        float(rung): widened_noise(table[table["budget_flops"] == rung])
        for rung in sorted(set(table["budget_flops"]))
    }
    known = [rung for rung, noise in found.items() if np.isfinite(noise)]
    if not known:
        return float("nan"), float("nan")
    nearest = min(known, key=lambda rung: abs(np.log(rung / budget)))
    return found[nearest], nearest


def near_optimal(table: pd.DataFrame, tolerance: float = NEAR_OPTIMAL) -> pd.DataFrame:
    """The runs whose loss lies within `tolerance` of the best at their budget (Section 2.2).

    Needs `compute` and `loss`; adds `budget` and `excess_loss`, relative to the best.

    >>> runs = pd.DataFrame({"compute": [1e12] * 3, "loss": [2.5, 2.504, 2.6]})
    >>> near_optimal(runs)["excess_loss"].round(4).tolist()
    [0.0, 0.0016]
    """
    budget = budgets(table)
    best = table["loss"].groupby(budget).transform("min")
    marked = table.assign(budget=budget, excess_loss=table["loss"] / best - 1)
    return marked[marked["excess_loss"] <= tolerance].reset_index(drop=True)


def mean_over_seeds(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """One row for each setting of `names` at each budget: mean ln loss, and `num_seeds`.

    The best of single runs is the luckiest one; where settings were repeated, their mean counts.

    >>> runs = pd.DataFrame({"compute": 1e12, "loss": [2.0, 8.0, 3.0], "rate": [1, 1, 2]})
    >>> mean_over_seeds(runs, ["rate"])[["loss", "num_seeds"]].round(3).to_numpy().tolist()
    [[4.0, 2.0], [3.0, 1.0]]
    """
    logs = table.assign(compute=budgets(table), loss=np.log(table["loss"].astype(float)))
    groups = logs.groupby(["compute", *names], as_index=False)
    means = groups.agg(loss=("loss", "mean"), num_seeds=("loss", "size"))
    return means.assign(loss=np.exp(means["loss"]))


def redrawn_optima(
    settings: pd.DataFrame, name: str, noise: float, resamples: int, seed: int = 0
) -> tuple[Array, Array]:
    """ln of the best `name` at each budget (resamples, budgets) under noise, and ln of the budgets.

    `settings` comes from `mean_over_seeds`; `noise` is the deviation of ln loss between seeds. Each
    resample draws the losses anew, takes the near-optimal settings, and moves their mean by up to
    half a step of the grid, within which a grid tells nothing.
    """
    generator = np.random.default_rng(seed)
    columns = []
    budgets = sorted(settings["compute"].unique())
    for budget in budgets:
        runs = settings[settings["compute"] == budget]
        scale = noise / np.sqrt(runs["num_seeds"].to_numpy(dtype=float))
        drawn = generator.standard_normal((resamples, len(runs))) * scale
        log_loss = np.log(runs["loss"].to_numpy(dtype=float)) + drawn
        near = log_loss <= log_loss.min(axis=1, keepdims=True) + np.log1p(NEAR_OPTIMAL)
        value = np.log(runs[name].to_numpy(dtype=float))
        step = float(np.median(np.diff(np.unique(value))))
        within = generator.uniform(-step / 2, step / 2, resamples)
        columns.append((near * value).sum(axis=1) / near.sum(axis=1) + within)
    return np.stack(columns, axis=1), np.log(budgets)


def isoflop_optima(table: pd.DataFrame) -> pd.DataFrame:
    """(M_opt, D_opt) at each budget from a parabola of ln loss in ln M (Section 2.3).

    Only runs within 15 % of the budget's lowest loss count, MIN_SIZES at least: loss is a parabola
    near its optimum alone, and grows faster on the side of models too large for their tokens.
    A size counts with its best setting, the lowest in the mean over seeds, and with all its seeds.

    Needs `compute`, `flops_per_token`, `num_tokens` and `loss`; rows of one `config_id` differ in
    their seeds alone, and without that column each row is a setting of its own.
    D_opt is what the budget buys at M_opt, between the runs on either side of it. One row a
    budget: `compute, flops_per_token, num_tokens, loss`, the standard error of ln loss at the
    optimum `log_loss_error` by what the parabola misses, 90 % ends `flops_per_token_low/high` (and
    of the tokens) by Fieller's theorem, `num_sizes`, and `reason`, empty where the optimum is sound
    and else it is NaN. With `run_id` in the table also that of the runs behind the parabola.
    """
    require(len(table) > 0, "rows", 0, "the table has no runs")
    table = table.assign(budget=budgets(table))
    rows = [_isoflop_optimum(runs) for _, runs in table.groupby("budget")]
    return pd.DataFrame(rows)


def _isoflop_optimum(runs: pd.DataFrame) -> dict[str, object]:
    sizes = int(runs["flops_per_token"].nunique())
    ends = [
        f"{name}_{end}" for name in ("flops_per_token", "num_tokens") for end in ("low", "high")
    ]
    names = ("flops_per_token", "num_tokens", "loss", "log_loss_error", *ends)
    row: dict[str, object] = {"compute": float(runs["budget"].iloc[0]), "num_sizes": sizes}
    row |= dict.fromkeys(names, np.nan)
    if sizes < MIN_SIZES:
        return row | {"reason": f"{sizes} model scales, a parabola needs {MIN_SIZES}"}
    runs = near_the_lowest(_best_settings(runs)).sort_values("flops_per_token")
    log_m = np.log(runs["flops_per_token"].to_numpy(dtype=float))
    found = _parabola(log_m, np.log(runs["loss"].to_numpy(dtype=float)))
    if found is None:
        return row | {"reason": "loss does not turn: the parabola opens downwards"}
    level, error, vertex, ends_of_vertex = found
    if not log_m[0] <= vertex <= log_m[-1]:
        side = "below" if vertex < log_m[0] else "above"
        return row | {"reason": f"the optimum lies {side} the scales tried"}
    low, high = np.exp(np.clip(ends_of_vertex, log_m[0], log_m[-1]))  # claim no more
    to_budget = runs["budget"] / runs["compute"]  # tokens that spend the budget exactly
    log_tokens = np.log((runs["num_tokens"] * to_budget).to_numpy(dtype=float))
    if "run_id" in runs:
        row["run_id"] = " ".join(runs["run_id"])
    return row | {
        "flops_per_token": float(np.exp(vertex)),
        "num_tokens": float(np.exp(np.interp(vertex, log_m, log_tokens))),
        "loss": float(np.exp(level)),
        "log_loss_error": error,
        "flops_per_token_low": float(low),
        "flops_per_token_high": float(high),
        "num_tokens_low": float(np.exp(np.interp(np.log(high), log_m, log_tokens))),
        "num_tokens_high": float(np.exp(np.interp(np.log(low), log_m, log_tokens))),
        "reason": "",
    }


def _best_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of each size's best setting: the luckiest of several seeds tells of luck."""
    setting = runs["config_id"] if "config_id" in runs else pd.Series(runs.index, runs.index)
    mean = runs["loss"].groupby([runs["flops_per_token"], setting]).transform("mean")
    best = setting[mean.groupby(runs["flops_per_token"]).idxmin()]
    return runs[setting.isin(best)]


def near_the_lowest(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one budget that a parabola may describe, by the mean loss of each size."""
    best = runs.groupby("flops_per_token")["loss"].mean().sort_values()
    near = int((best <= NEAR_LOSS * best.iloc[0]).sum())
    return runs[runs["flops_per_token"].isin(best.index[: max(near, MIN_SIZES)])]


def _parabola(
    log_m: Array, log_loss: Array
) -> tuple[float, float, float, tuple[float, float]] | None:
    """Ln loss at a parabola's vertex, its standard error, the vertex and the ends of its interval.

    None if it opens downwards. The error is as wide as few degrees of freedom ask for. The slope
    b + 2 c x of the parabola is Student's t about its estimate, so the x at which it may be zero
    are the roots of a quadratic (Fieller, 1954). An end is infinite where c may be zero.
    """
    centre = log_m.mean()
    x = log_m - centre
    features = np.stack([np.ones_like(x), x, x**2], axis=-1)
    inverse = np.linalg.inv(features.T @ features + 1e-12 * np.eye(3))
    a, b, c = inverse @ features.T @ log_loss
    if c <= 0:
        return None
    freedom = len(x) - 3
    spread = log_loss - features @ np.array([a, b, c])
    sigma = float(np.sqrt((spread**2).sum() / freedom)) * student_ratio(freedom)
    limit = (sigma * NORMAL_95) ** 2
    # (b + 2 c x)^2 <= limit (V_bb + 4 x V_bc + 4 x^2 V_cc)
    square = 4 * (c**2 - limit * inverse[2, 2])
    linear = 4 * (b * c - limit * inverse[1, 2])
    level = b**2 - limit * inverse[1, 1]
    vertex = -b / (2 * c)
    at_vertex = np.array([1.0, vertex, vertex**2])
    error = sigma * float(np.sqrt(at_vertex @ inverse @ at_vertex))
    found = float(a + b * vertex / 2), error, float(centre + vertex)
    if square <= 0:
        return *found, (-np.inf, np.inf)
    reach = np.sqrt(max(linear**2 - 4 * square * level, 0.0))
    low, high = ((-linear + sign * reach) / (2 * square) for sign in (-1, 1))
    return *found, (centre + low, centre + high)
