"""Efficiency leverage from tables of losses, by three estimators with intervals (Section 3, Eq. 5).

EL = C_dense / C_moe at equal loss. The dense compute for a loss is read from the measured dense
frontier, from fitted curves L(C) as in the paper, or, through Equation 13, from all points at once.

    C     compute, training FLOPs
    L     loss, nats per token on held-out documents
    B     bootstrap draws

A table of runs is told of in `points`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.bootstrap import LEVEL, student_ratio
from moe_leverage.analysis.dense_frontier import Draws, dense_draws, frontier_points
from moe_leverage.analysis.envelope import Envelope
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import UnidentifiedError, fit, refit
from moe_leverage.analysis.points import (
    FAMILY,
    best_runs,
    dominated,
    family_name,
    points_of,
    table_noise,
)
from moe_leverage.rules import require
from moe_leverage.theory.law import Array, Law
from moe_leverage.theory.laws import JointLaw, PowerLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

Lack = Literal["", "dense", "mixtures"]  # which runs there are too few of for a leverage
MIN_SEED_PAIRS = 3  # degrees of freedom that make the seed noise worth using
HELD_OUT_SHARE = 1 / 6  # largest leverages, kept from the joint fit as the paper keeps EL >= 6
RESAMPLES = 1000
STRAIGHT = 2  # dense points of a frontier, which are joined by one line whatever it does between
STRAIGHT_WARNING = (
    "two dense budgets are joined by a straight line, which overstates every EL where the losses "
    "bend towards a floor: EL is given as at most that; four budgets tell the floor, and --floor "
    "pins one that is known"
)
MOST_JOINT = 1000  # points of a joint fit: more tell no more


class NoLeverageError(UnidentifiedError):
    """There is no leverage to read; `lacks` says of which runs there are too few."""

    lacks: Lack = ""


class NoFrontierError(NoLeverageError):
    """The dense runs make no frontier."""

    lacks = "dense"


class NoMixtureError(NoLeverageError):
    """There is no mixture."""

    lacks = "mixtures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Leverage:
    """The three estimators side by side.

    `points` has a row for each estimator and MoE point: the family, `compute, loss,
    efficiency_leverage, low, high, at_least, at_most, extrapolated, held_out`. A loss beyond the
    dense frontier has no leverage, only a bound in `at_least` or `at_most`; the leverage over a
    straight frontier is itself a bound. `run_id`, if the table has it, names the seeds whose mean a
    point is, spaces between.
    """

    points: pd.DataFrame
    best: pd.DataFrame  # the run behind each point, dense ones included
    noise: float  # standard deviation of ln loss between seeds
    noise_source: str
    noise_freedom: int  # degrees of freedom behind it, at least 1 where there is noise
    noise_is_between_seeds: bool  # and no guess from what a dense law leaves over
    floor: float  # of the loss, between the dense points of the frontier
    fits: Mapping[str, Fit]
    skipped: Mapping[str, str] = field(default_factory=dict)  # estimator or family: reason
    warnings: list[str] = field(default_factory=list)
    outliers: pd.DataFrame = field(default_factory=pd.DataFrame)  # points that no law of theirs has
    with_outliers: Leverage | None = None  # the same of all points, without intervals
    envelope: Envelope | None = None  # the optimum of the dense runs, where they tell it
    is_straight: bool = False  # two dense points and no floor: a chord of a frontier that bends

    def side_by_side(self) -> pd.DataFrame:
        """A row an MoE point, a column an estimator, and whether all intervals overlap.

        What outliers move beyond its interval has a column of its own with them.
        """
        key = [*(name for name in FAMILY if name != "held_out"), "compute"]
        place = self.points.groupby(key, sort=False, dropna=False).ngroup().rename("place")
        placed = self.points.assign(place=place)
        kinds = ("efficiency_leverage", *(["with_outliers"] if "with_outliers" in placed else []))
        by_kind = [
            placed.pivot_table(
                kind, "place", "estimator", aggfunc="last", sort=False, dropna=False
            ).sort_index()
            for kind in kinds
        ]  # fmt: skip
        values, *moved = by_kind
        beside = [
            with_all.dropna(axis=1, how="all").add_suffix(", with outliers") for with_all in moved
        ]
        known = self.points.dropna(subset=["low", "high"]).groupby(place)
        agree = (known["low"].max() <= known["high"].min()).reindex(values.index, fill_value=True)
        axes = self.points[key].groupby(place).head(1).reset_index(drop=True)
        return pd.concat([axes, values, *beside, agree.rename("agree")], axis=1)

    def plain_points(self) -> pd.DataFrame:
        """The leverages of the plain recipe that lie inside the dense frontier."""
        inside = (self.points["estimator"] == "frontier") & self.points[
            "efficiency_leverage"
        ].notna()
        return self.points[inside & (self.points["variant"] == "")]


def estimate(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    floor: float | None = None,
    best: pd.DataFrame | None = None,
    residual_noise: tuple[float, int] | None = None,
    known_curves: Mapping[str, Fit] = MappingProxyType({}),
) -> Leverage:
    """Leverage of every MoE point of a table of runs by all estimators that the table allows.

    `floor` pins the loss floor of the dense frontier. `best` are the points where not all of
    `best_runs(table)` are to count. `residual_noise` is a noise of ln loss and its degrees of
    freedom, for a table without repeats. `known_curves` are fits by name, taken where they are of
    the same losses. NoLeverageError where there is no dense frontier or no mixture.
    """
    best = best_runs(table) if best is None else best
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]
    beaten = dominated(dense)
    _require_frontier(dense.drop(index=beaten.index), len(dense))
    require(len(moe) >= 1, "MoE runs", len(moe), "there is no leverage to estimate", NoMixtureError)
    fits, skipped = _curve_fits(best.drop(index=beaten.index), resamples, seed, known_curves)
    floored = fits.get("dense, FlooredPowerLaw")
    noise, freedom, source, is_of_seeds = _noise(
        table, floored or fits.get("dense, PowerLaw"), residual_noise
    )
    if floor is None:
        floor = 0.0 if floored is None else float(floored.law.coefficients[0])
        is_straight = len(dense) - len(beaten) <= STRAIGHT
    else:
        is_straight = False
    draws = Draws(noise, resamples, level, np.random.default_rng(seed))
    points = [frontier_points(dense, moe, floor, draws), *_curve_points(moe, fits, level)]
    if is_straight:  # a curve in (ln C, ln L) that bends towards a floor lies below its chord
        points[0] = points[0].assign(
            at_most=points[0]["at_most"].fillna(points[0]["efficiency_leverage"])
        )
    try:
        drawn = partial(dense_draws, dense, moe, floor, draws)
        fits["joint"] = _joint_fit(points[0], drawn, seed)
        points.append(_joint_points(points[0], fits["joint"], level))
    except UnidentifiedError as error:
        skipped["joint"] = str(error)
    return Leverage(
        points=pd.concat(points, ignore_index=True),
        best=best,
        noise=noise,
        noise_source=source,
        noise_freedom=freedom,
        noise_is_between_seeds=is_of_seeds,
        floor=floor,
        fits=fits,
        skipped=skipped,
        warnings=[
            *([STRAIGHT_WARNING] if is_straight else []),
            *_noise_warnings(noise),
            *_dominated_warnings(beaten),
        ],
        is_straight=is_straight,
    )


def _require_frontier(dense: pd.DataFrame, count: int) -> None:
    """Refuse dense points, those without dominated ones among `count`, that are no frontier."""
    rule = "the dense frontier needs 2 or more"
    require(count >= 2, "dense budgets", count, rule, NoFrontierError)
    losses = dense["loss"]
    rule = (
        f"no dense run has less than the cheapest, {losses.max():.4g}: no frontier to read EL off"
    )
    require(losses.nunique() >= 2, "dense losses", count, rule, NoFrontierError)


def family_curves(
    best: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Fit], dict[str, str]]:
    """L(C) of every family, with a floor and without, of the points that `best_runs` gives."""
    dense = best[~best["is_moe"]]
    return _curve_fits(best.drop(index=dominated(dense).index), resamples, seed)


def _curve_fits(
    best: pd.DataFrame,
    resamples: int,
    seed: int,
    known: Mapping[str, Fit] = MappingProxyType({}),
) -> tuple[dict[str, Fit], dict[str, str]]:
    fits: dict[str, Fit] = {}
    skipped: dict[str, str] = {}
    clusters = "run_id" if "run_id" in best else ""
    for family, runs in best.groupby(FAMILY, dropna=False):
        for law in (PowerLaw, FlooredPowerLaw):
            name = f"{family_name(dict(zip(FAMILY, family, strict=True)))}, {law.__name__}"
            try:
                before = _same_rows(known.get(name), runs, resamples)
                fits[name] = before or fit(
                    law, runs, "loss", clusters=clusters, resamples=resamples, seed=seed
                )
            except UnidentifiedError as error:
                skipped[name] = str(error)
    return fits, skipped


def _same_rows(before: Fit | None, runs: pd.DataFrame, resamples: int) -> Fit | None:
    """An earlier fit of a curve, if it is of these losses, with so many of its samples."""
    if before is None or not np.array_equal(
        before.log_target, np.log(runs["loss"].to_numpy(float))
    ):
        return None
    return replace(before, samples=before.samples[:resamples])


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
    ratio = np.clip(log_compute - np.log(compute), -700, 700)
    tail = (1 - level) / 2
    low, high = np.exp(np.quantile(ratio[1:], [tail, 1 - tail], axis=0, method="nearest"))
    first, last = dense.law.domain["compute"]
    leverage = np.exp(ratio[0])
    reached = leverage * compute
    value = np.where(np.isinf(log_compute[0]), np.nan, leverage)
    beyond = (reached < first) | (reached > last)
    return points_of(
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


def is_held_out(points: pd.DataFrame) -> NDArray[np.bool_]:
    """Points kept from the joint fit: those marked, variants, and the largest sixth of the rest."""
    kept = points["held_out"] | (points["variant"] != "")
    cut = points["efficiency_leverage"][~kept].quantile(1 - HELD_OUT_SHARE)
    return np.asarray(kept | (points["efficiency_leverage"] > cut))


def _joint_fit(points: pd.DataFrame, drawn: Callable[[NDArray[np.int64]], Array], seed: int) -> Fit:
    fitted_on = points["efficiency_leverage"].notna().to_numpy() & ~is_held_out(points)
    for name in ("activation_ratio", "granularity"):
        if points[name].isna().any():
            raise UnidentifiedError(f"{name}: not in the table")
    if not fitted_on.any():
        raise UnidentifiedError(
            "efficiency_leverage: no point of the plain recipe lies inside the frontier"
        )
    used = most_joint(points[fitted_on], seed)
    fitted = fit(JointLaw, used, "efficiency_leverage", resamples=0, seed=seed)
    return refit(fitted, drawn(used.index.to_numpy()), seed=seed)


def most_joint(points: pd.DataFrame, seed: int) -> pd.DataFrame:
    """As many points as a joint fit takes, drawn by chance."""
    if len(points) <= MOST_JOINT:
        return points
    rows = np.random.default_rng(seed).choice(len(points), MOST_JOINT, replace=False)
    return points.iloc[np.sort(rows)]


def _joint_points(points: pd.DataFrame, fitted: Fit, level: float) -> pd.DataFrame:
    inputs = {name: points[name].to_numpy() for name in JointLaw.inputs}
    predicted = fitted.predict(inputs, level=level)
    low, high = predicted.confidence.T
    held_out = is_held_out(points)
    value = predicted.value
    return points_of(
        points, "joint", efficiency_leverage=value, low=low, high=high, held_out=held_out
    )


def _noise(
    table: pd.DataFrame, dense: Fit | None, residual: tuple[float, int] | None
) -> tuple[float, int, str, bool]:
    """Noise of ln loss as wide as its degrees of freedom ask for, these, and where it is from.

    Last, whether that is from repeated seeds.

    NaN where nothing tells it: then there is no interval.
    """
    plain = table[table["variant"].fillna("") == ""] if "variant" in table else table
    sigma, freedom = table_noise(plain)  # a variant has a noise of its own
    if freedom >= MIN_SEED_PAIRS:
        words = f"between seeds, {freedom} degrees of freedom"
        return sigma * student_ratio(freedom), freedom, words, True
    if residual is not None:
        sigma, freedom = residual
        source = f"residuals of the dense L(N, D), for want of repeated seeds, {freedom} degrees"
        return sigma * student_ratio(freedom), freedom, f"{source} of freedom", False
    spread = np.empty(0) if dense is None else dense.residuals
    size = 0 if dense is None else len(dense.theta)
    of_curve = max(len(spread) - size, 0)
    both = freedom + of_curve
    if both == 0:
        return float("nan"), 0, "nothing repeats and no curve is left over: no interval", False
    # the two are of one size where the curve holds; where it does not, the misfit counts as noise
    pooled = float(np.sqrt((sigma**2 * freedom + (spread**2).sum()) / both))
    degrees = f"{both} degree{'s' if both > 1 else ''} of freedom"
    source = f"residuals of the dense curve, for want of repeated seeds, {degrees}"
    return pooled * student_ratio(both), both, source, False


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
