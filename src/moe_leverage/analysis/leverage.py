"""Efficiency leverage from tables of losses, by three estimators with intervals (Section 3, Eq. 5).

EL = C_dense / C_moe at equal loss. The dense compute for a loss is read from the measured dense
frontier, from fitted curves L(C) as in the paper, or, through Equation 13, from all points at once.

    C     compute, training FLOPs
    L     loss, nats per token on held-out documents
    B     bootstrap draws
    family   one architecture at all its sizes: dense, or MoE with its A, G and S

A table of runs has a row a run and the columns `is_moe, activation_ratio, granularity,
shared_ratio, compute, loss`; `flops_per_token, num_tokens, active_params, learning_rate,
batch_tokens, variant` if known, and `run_id`. Rows of one `config_id` are repeats of one
configuration; without that column, rows equal in all but `run_id` are, where the table has a column
`seed`. Rows of a `variant` or marked `held_out` get a leverage but are kept from the fit of
Equation 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.bootstrap import LEVEL, TRIAL_ITERATIONS, student_ratio
from moe_leverage.analysis.envelope import (
    USUAL_RATIOS,
    Envelope,
    fit_envelope,
    usual_excess,
)
from moe_leverage.analysis.fitting import MAD_TO_SIGMA, Fit, UnidentifiedError, fit, refit
from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.analysis.reductions import budgets, seed_noise
from moe_leverage.config import require
from moe_leverage.theory.law import Array, Law
from moe_leverage.theory.laws import JointLaw, PowerLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

REQUIRED = ("is_moe", "activation_ratio", "granularity", "shared_ratio", "compute", "loss")
FAMILY = ["is_moe", "activation_ratio", "granularity", "shared_ratio", "variant", "held_out"]
SIZES = [
    "flops_per_token", "num_tokens", "active_params", "learning_rate", "batch_tokens",
    "configuration",
]  # fmt: skip
MIN_SEED_PAIRS = 3  # degrees of freedom that make the seed noise worth using
HELD_OUT_SHARE = 1 / 6  # largest leverages, kept from the joint fit as the paper keeps EL >= 6
RESAMPLES = 1000
POINTS_AT_ONCE = 1000  # leverages whose draws are held in memory together
MOST_JOINT = 1000  # points of a joint fit: more tell no more
MIN_SCREENED = 5  # points of a family that can tell one of them as an outlier
OUTLYING = 8.0  # standard deviations from the curve of the others, widened by Student's ratio
SCREEN_STARTS = 8
MOST_LEFT_OUT = 60  # points of a family that are left out in turn; among more, one moves no curve
LEAST_OUTLYING = 0.02  # ln loss: nothing nearer is an outlier, however well the others lie
MOST_OUTLYING = 0.25  # share of a family; more are no outliers but another curve


@dataclass(frozen=True, kw_only=True, slots=True)
class Leverage:
    """The three estimators side by side.

    `points` has a row for each estimator and MoE point: the family, `compute, loss,
    efficiency_leverage, low, high, at_least, at_most, extrapolated, held_out`. A loss beyond the
    dense frontier has no leverage, only a bound in `at_least` or `at_most`. `run_id`, if the table
    has it, names the seeds whose mean a point is, spaces between.
    """

    points: pd.DataFrame
    best: pd.DataFrame  # the run behind each point, dense ones included
    noise: float  # standard deviation of ln loss between seeds
    noise_source: str
    noise_freedom: int  # degrees of freedom behind it, at least 1 where there is noise
    floor: float  # of the loss, between the dense points of the frontier
    fits: Mapping[str, Fit]
    skipped: Mapping[str, str] = field(default_factory=dict)  # estimator or family: reason
    warnings: list[str] = field(default_factory=list)
    outliers: pd.DataFrame = field(default_factory=pd.DataFrame)  # points that no law of theirs has
    envelope: Envelope | None = None  # the optimum of the dense runs, where they tell it

    def side_by_side(self) -> pd.DataFrame:
        """A row an MoE point, a column an estimator, and whether all intervals overlap."""
        key = [*(name for name in FAMILY if name != "held_out"), "compute"]
        place = self.points.groupby(key, sort=False, dropna=False).ngroup().rename("place")
        values = self.points.assign(place=place).pivot_table(
            "efficiency_leverage", "place", "estimator", aggfunc="last", sort=False, dropna=False
        )  # fmt: skip
        known = self.points.dropna(subset=["low", "high"]).groupby(place)
        agree = (known["low"].max() <= known["high"].min()).reindex(values.index, fill_value=True)
        axes = self.points[key].groupby(place).head(1).reset_index(drop=True)
        return pd.concat([axes, values.sort_index(), agree.rename("agree")], axis=1)


def best_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The best configuration of each family at each budget, its loss the mean over seeds.

    Adds `num_seeds`, and `num_runs`: how many runs the choice was made from.

    >>> runs = pd.DataFrame({"is_moe": False, "activation_ratio": 1.0, "granularity": 2.0,
    ...     "shared_ratio": 0.0, "compute": 1e12, "learning_rate": [1e-3, 1e-3, 2e-3],
    ...     "seed": [0, 1, 0], "loss": [3.0, 3.2, 3.3]})
    >>> best_runs(runs)[["loss", "num_seeds", "num_runs"]].to_numpy().tolist()
    [[3.1, 2.0, 3.0]]
    """
    table = _prepared(table)
    configurations = _mean_over_seeds(table)
    key = [*FAMILY, "budget"]
    chosen = configurations.loc[configurations.groupby(key, dropna=False)["loss"].idxmin()]
    counts = table.groupby(key, dropna=False).size().rename("num_runs").reset_index()
    return chosen.merge(counts, on=key).sort_values([*FAMILY, "compute"], ignore_index=True)


def table_noise(table: pd.DataFrame) -> tuple[float, int]:
    """`seed_noise` of a table in the names of this module, a reader's or ours.

    Where it does not say which rows are one setting, those are that are equal in family, budget and
    sizes, if the table has seeds at all.
    """
    if "config_id" not in table:
        prepared = _prepared(table)
        setting = prepared.groupby([*FAMILY, "budget", *SIZES], dropna=False).ngroup()
        table = prepared.assign(config_id=setting)
    return seed_noise(table.assign(loss_nats=table["loss"]))


def estimate(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    floor: float | None = None,
    screen: bool = False,
) -> Leverage:
    """Leverage of every MoE point of a table of runs by all estimators that the table allows.

    `floor` pins the loss floor of the dense frontier. With `screen`, points that miss the curve of
    their family by many robust standard deviations are named and kept from every estimate; what
    the frontier says with them stands in `with_outliers` of its points.
    """
    whole = best_runs(table)
    found = find_outliers(whole) if screen else whole.iloc[:0]
    best = whole.drop(index=found.index)
    optimum: Envelope | str = ""
    if screen:
        kept = _without(table, found)
        optimum = _optimum(kept[~kept["is_moe"].astype(bool)], resamples, seed)
    measured = _estimate(table, best, optimum, resamples, level, seed, floor)
    if screen:
        measured = _beside_the_optimum(measured, kept, optimum)
    if found.empty:
        return measured
    return _beside_outliers(measured, _frontier_alone(whole, seed, floor), found)


def _estimate(
    table: pd.DataFrame,
    best: pd.DataFrame,
    optimum: Envelope | str,
    resamples: int,
    level: float,
    seed: int,
    pinned: float | None,
) -> Leverage:
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]
    require(len(dense) >= 2, "dense budgets", len(dense), "the dense frontier needs 2 or more")
    require(len(moe) >= 1, "MoE runs", len(moe), "there is no leverage to estimate")
    useful = best.drop(index=dominated(dense).index)
    fits, skipped = _curve_fits(useful, resamples, seed)
    floored = fits.get("dense, FlooredPowerLaw")
    noise, freedom, source = _noise(table, floored or fits.get("dense, PowerLaw"), optimum)
    floor = _floor(fits, pinned)
    draws = _Draws(noise, resamples, level, np.random.default_rng(seed))
    points = [_frontier_points(dense, moe, floor, draws), *_curve_points(moe, fits, level)]
    try:
        dense_draws = partial(_dense_draws, dense, moe, floor, draws)
        fits["joint"] = _joint_fit(points[0], dense_draws, seed)
        points.append(_joint_points(points[0], fits["joint"], level))
    except UnidentifiedError as error:
        skipped["joint"] = str(error)
    return Leverage(
        points=pd.concat(points, ignore_index=True),
        best=best,
        noise=noise,
        noise_source=source,
        noise_freedom=freedom,
        floor=floor,
        fits=fits,
        skipped=skipped,
        warnings=_noise_warnings(noise) + _dominated_warnings(dominated(dense)),
    )


def _floor(fits: Mapping[str, Fit], pinned: float | None) -> float:
    """The loss floor of the dense runs: as pinned, as fitted, or none."""
    floored = fits.get("dense, FlooredPowerLaw")
    if pinned is not None:
        return pinned
    return 0.0 if floored is None else float(floored.law.coefficients[0])


def _frontier_alone(best: pd.DataFrame, seed: int, pinned: float | None) -> pd.DataFrame:
    """What the dense frontier says of every mixture, without intervals."""
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]
    fits, _ = _curve_fits(dense.drop(index=dominated(dense).index), 0, seed)
    draws = _Draws(float("nan"), 1, LEVEL, np.random.default_rng(seed))
    return _frontier_points(dense, moe, _floor(fits, pinned), draws)


def family_curves(
    best: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Fit], dict[str, str]]:
    """L(C) of every family, with a floor and without, of the points that `best_runs` gives."""
    dense = best[~best["is_moe"]]
    return _curve_fits(best.drop(index=dominated(dense).index), resamples, seed)


def dominated(dense: pd.DataFrame) -> pd.DataFrame:
    """Dense points that a cheaper one beats: no part of a frontier, and kept from its curves.

    >>> runs = pd.DataFrame({"compute": [1e18, 1e19, 1e20], "loss": [3.0, 3.1, 2.8]})
    >>> dominated(runs)["compute"].tolist()
    [1e+19]
    """
    ordered = dense.sort_values("compute")
    beaten = ordered["loss"] > ordered["loss"].cummin().shift(fill_value=np.inf)
    found: pd.DataFrame = ordered[beaten]
    return found


def find_outliers(best: pd.DataFrame) -> pd.DataFrame:
    """Points that the curve of the others of their family misses by many standard deviations."""
    odd: list[Any] = []
    for _, runs in best.groupby(FAMILY, dropna=False):
        limit = int(MOST_OUTLYING * len(runs))
        if len(runs) > MOST_LEFT_OUT:
            odd += _far_points(runs)[:limit]
            continue
        left = runs
        while len(runs) - len(left) < limit and len(left) >= MIN_SCREENED:
            worst = _worst_point(left)
            if worst is None:
                break
            left = left.drop(index=worst)
            odd.append(worst)
    return best.loc[odd]


def _far_points(runs: pd.DataFrame) -> list[Any]:
    """The indices of outliers among many points, the farthest first, told by one robust curve."""
    inputs = {"compute": runs["compute"].to_numpy(float)}
    log_loss = np.log(runs["loss"].to_numpy(float))
    delta = LEAST_OUTLYING / OUTLYING  # so small that the curve goes through the middle of points
    problem = Problem(law=FlooredPowerLaw, inputs=inputs, log_target=log_loss, delta=delta)
    starts = FlooredPowerLaw.starts(inputs, log_loss, SCREEN_STARTS, np.random.default_rng(0))
    tried = minimise(problem, starts, most=TRIAL_ITERATIONS)
    ended = minimise(problem, tried.theta[[tried.objective.argmin()]])
    missed = np.abs(problem.residuals(ended.theta[0]))
    sigma = max(MAD_TO_SIGMA * float(np.median(missed)), LEAST_OUTLYING / OUTLYING)
    far = np.flatnonzero((missed > OUTLYING * sigma) & (missed > LEAST_OUTLYING))
    return list(runs.index[far[np.argsort(-missed[far])]])


def _worst_point(runs: pd.DataFrame) -> Any:
    """The index of the point farthest from the curve of all others, if that is an outlier."""
    law: type[Law] = FlooredPowerLaw if len(runs) > MIN_SCREENED else PowerLaw
    if runs["compute"].nunique() <= len(law.coefficient_names) + 1:
        return None
    inputs = {"compute": runs["compute"].to_numpy(float)}
    log_loss, count = np.log(runs["loss"].to_numpy(float)), len(runs)
    problem = Problem(law=law, inputs=inputs, log_target=log_loss, delta=np.inf)
    starts = law.starts(inputs, log_loss, SCREEN_STARTS, np.random.default_rng(0))
    freedom = count - 1 - len(law.coefficient_names)
    if _all_are_near(problem, starts, freedom):
        return None
    weights = np.tile(1.0 - np.eye(count), (len(starts), 1))  # each point left out in turn
    ended = minimise(problem, np.repeat(starts, count, axis=0), weights=weights)
    lowest = ended.objective.reshape(len(starts), count).argmin(axis=0)
    theta = ended.theta.reshape(len(starts), count, -1)[lowest, np.arange(count)]
    spread = problem.residuals(theta)
    missed = np.abs(np.diag(spread))
    sigma = np.sqrt(((spread**2).sum(axis=1) - missed**2) / freedom)
    share = missed / np.maximum(sigma, LEAST_OUTLYING / OUTLYING)
    place = int(share.argmax())
    is_far = share[place] > OUTLYING * student_ratio(freedom) and missed[place] > LEAST_OUTLYING
    return runs.index[place] if is_far else None


def _all_are_near(problem: Problem, starts: Array, freedom: int) -> bool:
    """Whether no point can be an outlier: with each left out, to first order, all are near.

    Of e, a residual of least squares, and h, its leverage, e / (1 - h) is what the curve of the
    others misses, and e^2 / (1 - h) what their sum of squares is less. Half of a limit is near.
    """
    ended = minimise(problem, starts)
    best = ended.theta[ended.objective.argmin()]
    slopes = problem.law.log_gradient(best, problem.inputs)
    basis, _ = np.linalg.qr(slopes / np.maximum(np.abs(slopes).max(axis=0), 1e-300))
    own = (basis**2).sum(axis=1)  # how far a point draws its own curve, 0 to 1
    residuals = problem.residuals(best)
    missed = np.abs(residuals) / np.maximum(1 - own, 1e-3)
    rest = np.maximum((residuals**2).sum() - np.abs(residuals) * missed, 0.0)
    sigma = np.maximum(np.sqrt(rest / freedom), LEAST_OUTLYING / OUTLYING)
    is_near = (missed < LEAST_OUTLYING / 2) | (
        missed < OUTLYING / 2 * student_ratio(freedom) * sigma
    )
    return bool(is_near.all())


def _beside_outliers(measured: Leverage, both: pd.DataFrame, found: pd.DataFrame) -> Leverage:
    """Without the outliers, and beside it what the frontier says with them where that differs."""
    key = [*FAMILY, "compute"]
    of_both = both[key].assign(with_outliers=both["efficiency_leverage"])
    points = measured.points.merge(of_both, on=key, how="left")
    value = points["with_outliers"]
    moved = ~value.between(points["low"], points["high"]) & points["low"].notna()
    is_frontier = points["estimator"] == "frontier"
    points = points.assign(with_outliers=value.where(is_frontier & moved))
    named = "; ".join(
        f"{row.get('row', row['family'])} at {row['compute']:.3g} FLOPs, loss {row['loss']:.4g}"
        for row in found.assign(family=found.apply(family_name, axis=1)).to_dict("records")
    )
    moves = f"EL moves at {int((is_frontier & moved).sum())} point(s), given with and without"
    text = f"outlier: {named} misses the curve of its family by far and is kept from it; {moves}"
    return replace(measured, points=points, outliers=found, warnings=[text, *measured.warnings])


def _without(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that are no outliers, told by the losses and compute of their points."""
    if found.empty:
        return table
    return table[~(table["loss"].isin(found["loss"]) & table["compute"].isin(found["compute"]))]


def _optimum(dense: pd.DataFrame, resamples: int, seed: int) -> Envelope | str:
    """The envelope of the dense runs, or why there is none."""
    try:
        return fit_envelope(dense, resamples=resamples, seed=seed)
    except UnidentifiedError as error:
        return str(error)


def _beside_the_optimum(
    measured: Leverage, table: pd.DataFrame, envelope: Envelope | str
) -> Leverage:
    """Adds leverage over the optimum of a fitted L(N, D); warns where the frontier is off it."""
    dense = table[~table["is_moe"].astype(bool)]
    skipped = dict(measured.skipped)
    if isinstance(envelope, str):
        skipped["optimal frontier"] = envelope
        warnings = _usual_warnings(dense) + measured.warnings
        return replace(measured, skipped=skipped, warnings=warnings)
    frontier = measured.points[measured.points["estimator"] == "frontier"]
    points = _optimal_points(frontier, envelope, measured.noise)
    if points["efficiency_leverage"].notna().sum() == 0:
        skipped["optimal frontier"] = "no loss of a mixture lies above the floor of L(N, D)"
        return replace(measured, skipped=skipped)
    warnings = _frontier_warnings(frontier, points, dense, envelope)
    return replace(
        measured,
        points=pd.concat([measured.points, points], ignore_index=True),
        fits={**measured.fits, "dense optimum": envelope.fit},
        envelope=envelope,
        warnings=warnings + measured.warnings,
        skipped=skipped,
    )


def _optimal_points(frontier: pd.DataFrame, envelope: Envelope, noise: float) -> pd.DataFrame:
    log_loss = np.log(frontier["loss"].to_numpy(float))
    own = np.log(frontier["compute"].to_numpy(float))
    value = envelope.log_compute(log_loss)
    ends = envelope.interval(log_loss, noise) - own[:, None]
    reached = np.exp(np.where(np.isfinite(value), value, np.nan) - own)
    first, last = (
        np.log(envelope.kappa * np.multiply(*ends))
        for ends in zip(*(envelope.fit.law.domain[n] for n in ("num_params", "num_tokens")),
                        strict=True)
    )  # fmt: skip
    with np.errstate(over="ignore"):
        low, high = np.exp(ends).T
    return _points(
        frontier, "optimal frontier", efficiency_leverage=reached,
        low=np.where(np.isnan(reached), np.nan, low),
        high=np.where(np.isnan(reached), np.nan, high),
        extrapolated=(value < first) | (value > last),
    )  # fmt: skip


def _frontier_warnings(
    frontier: pd.DataFrame, optimal: pd.DataFrame, dense: pd.DataFrame, envelope: Envelope
) -> list[str]:
    """How far the dense runs are off, where the two frontiers differ by more than intervals."""
    ours, theirs = (entry.reset_index(drop=True) for entry in (frontier, optimal))
    gap = np.log(ours["efficiency_leverage"] / theirs["efficiency_leverage"])
    above, below = (
        np.log(ours["efficiency_leverage"] / ours["low"]),
        np.log(theirs["high"] / theirs["efficiency_leverage"]),
    )
    apart = gap > np.hypot(above, below)  # of independent errors
    if not apart.any():
        return []
    excess = np.log(dense["compute"].to_numpy(float))
    excess = excess - envelope.log_compute(np.log(dense["loss"].to_numpy(float)))
    over = float(np.exp(np.median(excess[np.isfinite(excess)])))
    ratio = float(np.exp(np.nanmedian(gap)))
    return [
        f"the dense runs are not compute-optimal: by their own L(N, D) they need {over:.2g} times "
        f"the compute of the optimum, and EL over them is {ratio:.2g} times that over the optimum "
        f"({int(apart.sum())} point(s) differ by more than their intervals; both are given)"
    ]


def _usual_warnings(dense: pd.DataFrame) -> list[str]:
    """A warning where tokens a parameter lie far from the usual and the runs cannot tell more."""
    try:
        ratio, excess = usual_excess(dense)
    except UnidentifiedError:
        return []
    if USUAL_RATIOS[0] <= ratio <= USUAL_RATIOS[1]:
        return []
    return [
        f"the dense runs have {ratio:.3g} tokens a parameter, far from the usual 20: by the law of "
        f"Besiroglu et al. (2024) they need {excess:.2g} times the compute of optimal ones, and EL "
        "may be too high by as much"
    ]


@dataclass(frozen=True, slots=True)
class _Draws:
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


def _frontier_points(
    dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: _Draws
) -> pd.DataFrame:
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
    return _points(
        moe,
        "frontier",
        efficiency_leverage=np.where(inside, value, np.nan),
        low=np.where(inside, low, np.nan),
        high=np.where(inside, high, np.nan),
        at_least=np.where(np.isinf(value), compute.max() / own, np.nan),
        at_most=np.where(value == 0, compute.min() / own, np.nan),
    )


def _curve_fits(
    best: pd.DataFrame, resamples: int, seed: int
) -> tuple[dict[str, Fit], dict[str, str]]:
    fits: dict[str, Fit] = {}
    skipped: dict[str, str] = {}
    clusters = "run_id" if "run_id" in best else ""
    for family, runs in best.groupby(FAMILY, dropna=False):
        for law in (PowerLaw, FlooredPowerLaw):
            name = f"{family_name(dict(zip(FAMILY, family, strict=True)))}, {law.__name__}"
            try:
                fits[name] = fit(
                    law, runs, "loss", clusters=clusters, resamples=resamples, seed=seed
                )
            except UnidentifiedError as error:
                skipped[name] = str(error)
    return fits, skipped


def _curve_points(moe: pd.DataFrame, fits: Mapping[str, Fit], level: float) -> list[pd.DataFrame]:
    points = []
    forms = ((PowerLaw, "power curves"), (FlooredPowerLaw, "floored curves"))
    for law, estimator in forms:
        dense = fits.get(f"dense, {law.__name__}")
        for family, runs in moe.groupby(FAMILY, dropna=False):
            name = f"{family_name(dict(zip(FAMILY, family, strict=True)))}, {law.__name__}"
            if dense is not None and name in fits:
                points.append(_points_of_curves(runs, estimator, dense, fits[name], level))
    return points


def _points_of_curves(
    runs: pd.DataFrame, estimator: str, dense: Fit, own: Fit, level: float
) -> pd.DataFrame:
    compute = runs["compute"].to_numpy(dtype=float)
    ours = np.concatenate([own.theta[None], own.samples])
    theirs = np.concatenate([dense.theta[None], dense.samples])
    log_loss = own.law.log_value(ours, {"compute": compute})
    log_compute = inverse_log_compute(type(dense.law), theirs, log_loss)
    leverage = np.exp(np.clip(log_compute - np.log(compute), -700, 700))
    tail = (1 - level) / 2
    low, high = np.quantile(leverage[1:], [tail, 1 - tail], axis=0, method="nearest")
    first, last = dense.law.domain["compute"]
    reached = leverage[0] * compute
    value = np.where(np.isinf(log_compute[0]), np.nan, leverage[0])
    beyond = (reached < first) | (reached > last)
    return _points(
        runs, estimator, efficiency_leverage=value, low=low, high=high, extrapolated=beyond
    )


def inverse_log_compute(law: type[Law], theta: Array, log_loss: Array) -> Array:
    """Ln C at which the loss curves theta (B, P) reach log losses (B, n); inf below the floor."""
    with np.errstate(all="ignore"):
        if law is FlooredPowerLaw:
            rest = np.log(np.exp(log_loss) - np.exp(theta[:, :1]))  # NaN below the floor
            result = (rest - theta[:, 1:2]) / theta[:, 2:3]
            return np.asarray(np.where(np.isnan(rest), np.inf, result))
        return np.asarray((log_loss - theta[:, :1]) / theta[:, 1:2])


def _dense_draws(
    dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: _Draws, rows: NDArray[np.int64]
) -> Array:
    """Ln EL (B, rows) under seed noise of the dense runs alone, the error all points share."""
    compute, own = dense["compute"].to_numpy(dtype=float), moe.iloc[rows]
    wanted = np.broadcast_to(np.log(own["loss"].to_numpy(float)), (draws.count, len(rows)))
    reached = frontier_compute(compute, draws.log_losses(dense)[1:], wanted, floor)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(reached / own["compute"].to_numpy(dtype=float)))


def is_held_out(points: pd.DataFrame) -> NDArray[np.bool_]:
    """Points kept from the joint fit: those marked, variants, and the largest sixth of the rest."""
    kept = points["held_out"] | (points["variant"] != "")
    cut = points["efficiency_leverage"][~kept].quantile(1 - HELD_OUT_SHARE)
    return np.asarray(kept | (points["efficiency_leverage"] > cut))


def _joint_fit(
    points: pd.DataFrame, dense_draws: Callable[[NDArray[np.int64]], Array], seed: int
) -> Fit:
    fitted_on = points["efficiency_leverage"].notna().to_numpy() & ~is_held_out(points)
    for name in ("activation_ratio", "granularity"):
        if points[name].isna().any():
            raise UnidentifiedError(f"{name}: not in the table")
    if not fitted_on.any():
        raise UnidentifiedError(
            "efficiency_leverage: no point of the plain recipe lies inside the frontier"
        )
    rows = np.flatnonzero(fitted_on)
    if len(rows) > MOST_JOINT:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_JOINT, replace=False))
    fitted = fit(JointLaw, points.iloc[rows], "efficiency_leverage", resamples=0, seed=seed)
    return refit(fitted, dense_draws(rows), seed=seed)


def _joint_points(points: pd.DataFrame, fitted: Fit, level: float) -> pd.DataFrame:
    inputs = {name: points[name].to_numpy() for name in JointLaw.inputs}
    predicted = fitted.predict(inputs, level=level)
    low, high = predicted.confidence.T
    held_out = is_held_out(points)
    value = predicted.value
    return _points(
        points, "joint", efficiency_leverage=value, low=low, high=high, held_out=held_out
    )


def _points(
    moe: pd.DataFrame, estimator: str, **columns: Array | NDArray[np.bool_]
) -> pd.DataFrame:
    names = [*FAMILY, "compute", "loss", *(name for name in ("run_id", "row") if name in moe)]
    kept = moe[names].reset_index(drop=True)
    blank: dict[str, Any] = {"at_least": np.nan, "at_most": np.nan}
    blank["extrapolated"] = False
    return kept.assign(estimator=estimator, **(blank | columns))


def family_name(family: Mapping[str, object] | pd.Series) -> str:
    """A short name: `dense`, or the axes of an MoE family."""
    variant = f" {family['variant']}" if family.get("variant") else ""
    if not family["is_moe"]:
        return f"dense{variant}"
    letters = {"A": "activation_ratio", "G": "granularity", "S": "shared_ratio"}
    known = {k: float(str(family[name])) for k, name in letters.items()}
    if np.isnan(known["A"]) and np.isnan(known["G"]):
        return f"mixtures{variant}"
    return " ".join(f"{k}={v:.4g}" for k, v in known.items() if not np.isnan(v)) + variant


def _noise(
    table: pd.DataFrame, dense: Fit | None, optimum: Envelope | str
) -> tuple[float, int, str]:
    """Noise of ln loss as wide as its degrees of freedom ask for, these, and where it is from.

    NaN where nothing tells it: then there is no interval.
    """
    plain = table[table["variant"].fillna("") == ""] if "variant" in table else table
    sigma, freedom = table_noise(plain)  # a variant has a noise of its own
    if freedom >= MIN_SEED_PAIRS:
        words = f"between seeds, {freedom} degrees of freedom"
        return sigma * student_ratio(freedom), freedom, words
    if isinstance(optimum, Envelope):  # which sizes far from their optimum do not widen
        sigma, freedom = optimum.noise
        source = f"residuals of the dense L(N, D), for want of repeated seeds, {freedom} degrees"
        return sigma * student_ratio(freedom), freedom, f"{source} of freedom"
    spread = np.empty(0) if dense is None else dense.residuals
    size = 0 if dense is None else len(dense.theta)
    of_curve = max(len(spread) - size, 0)
    both = freedom + of_curve
    if both == 0:
        return float("nan"), 0, "nothing repeats and no curve is left over: no interval"
    # the two are of one size where the curve holds; where it does not, the misfit counts as noise
    pooled = float(np.sqrt((sigma**2 * freedom + (spread**2).sum()) / both))
    degrees = f"{both} degree{'s' if both > 1 else ''} of freedom"
    source = f"residuals of the dense curve, for want of repeated seeds, {degrees}"
    return pooled * student_ratio(both), both, source


def _dominated_warnings(dropped: pd.DataFrame) -> list[str]:
    """Which dense points are no part of the frontier; those of our own ledger bear no row."""
    if dropped.empty or "row" not in dropped:
        return []
    named = ", ".join(dropped["row"])
    return [f"dense points dominated by a cheaper one are kept from the curves: {named}"]


def _noise_warnings(noise: float) -> list[str]:
    if np.isfinite(noise):
        return []
    return ["no interval: two dense budgets and no repeated seeds leave no degree of freedom"]


def _prepared(table: pd.DataFrame) -> pd.DataFrame:
    for name in REQUIRED:
        require(
            name in table,
            name,
            None,
            f"is not a column of the table ({', '.join(map(str, table))})",
        )
    for name in ("compute", "loss"):
        bad = ~(table[name].to_numpy(dtype=float) > 0) | ~np.isfinite(table[name].to_numpy(float))
        row = int(bad.argmax())
        value = float(table[name].iloc[row])
        require(not bad.any(), f"{name}, row {row}", value, "must be positive and finite")
    known = {name: table.get(name, 0.0) for name in SIZES if name != "configuration"}
    table = table.assign(**known, variant=table.get("variant", ""))
    for name in ("activation_ratio", "granularity", "shared_ratio"):
        rounded = _significant(table[name].astype(float))
        dense = {"activation_ratio": 1.0, "granularity": 0.0, "shared_ratio": 0.0}[name]
        table = table.assign(**{name: rounded.where(table["is_moe"], dense)})
    marked = table["held_out"].eq(True) if "held_out" in table else False
    table = table.assign(
        variant=table["variant"].fillna("").where(table["is_moe"], ""),
        held_out=marked & table["is_moe"],
    )
    table = table.assign(is_moe=table["is_moe"].astype(bool), budget=budgets(table))
    key = table[[*FAMILY, "budget", *(name for name in SIZES if name != "configuration")]]
    return table.assign(configuration=_configuration(table, key))


def _configuration(table: pd.DataFrame, key: pd.DataFrame) -> pd.Series:
    """What tells settings apart beside family, budget and sizes.

    The table's own `config_id` if it has one: two runs that differ in anything but seeds are no
    repeats. Else rows of a table with seeds are repeats where their seeds differ, and of one
    without each is its own.
    """
    if "config_id" in table:
        return table["config_id"]
    if "seed" not in table:
        return pd.Series(np.arange(len(table)), table.index)
    setting = key.assign(seed=table["seed"])
    again: pd.Series = setting.groupby(list(setting), dropna=False).cumcount()
    return again


def _significant(column: pd.Series, digits: int = 4) -> pd.Series:
    """Rounded to so many significant digits: equal axes from unequal arithmetic."""
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(column.abs().where(column != 0, 1.0))))
    rounded: pd.Series = (column * scale).round() / scale
    return rounded


def _mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    key = [*FAMILY, "budget", *SIZES]
    named: dict[str, Any] = {"run_id": ("run_id", " ".join)} if "run_id" in table else {}
    named |= {"row": ("row", ", ".join)} if "row" in table else {}
    groups = table.groupby(key, as_index=False, dropna=False)  # a size may be unknown
    means: pd.DataFrame = groups.agg(
        loss=("loss", "mean"), compute=("compute", "mean"), num_seeds=("loss", "size"), **named
    )
    return means
