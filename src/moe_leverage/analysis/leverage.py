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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.bootstrap import LEVEL, student_ratio
from moe_leverage.analysis.fitting import Fit, UnidentifiedError, fit, refit
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
    fits: Mapping[str, Fit]
    skipped: Mapping[str, str] = field(default_factory=dict)  # estimator or family: reason

    def side_by_side(self) -> pd.DataFrame:
        """A row an MoE point, a column an estimator, and whether all intervals overlap."""
        key = [*(name for name in FAMILY if name != "held_out"), "compute"]
        rows = []
        for names, group in self.points.groupby(key, sort=False):
            row = dict(zip(key, names, strict=True))
            row |= dict(zip(group["estimator"], group["efficiency_leverage"], strict=True))
            known = group.dropna(subset=["low", "high"])
            row["agree"] = bool(known["low"].max() <= known["high"].min()) if len(known) else True
            rows.append(row)
        return pd.DataFrame(rows)


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
    chosen = configurations.loc[configurations.groupby(key)["loss"].idxmin()]
    counts = table.groupby(key).size().rename("num_runs").reset_index()
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
    table: pd.DataFrame, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Leverage:
    """Leverage of every MoE point of a table of runs by all estimators that the table allows."""
    best = best_runs(table)
    dense, moe = best[~best["is_moe"]], best[best["is_moe"]]
    require(len(dense) >= 2, "dense budgets", len(dense), "the dense frontier needs 2 or more")
    require(len(moe) >= 1, "MoE runs", len(moe), "there is no leverage to estimate")
    fits, skipped = _curve_fits(best, resamples, seed)
    floored = fits.get("dense, FlooredPowerLaw")
    noise, source = _noise(table, floored or fits.get("dense, PowerLaw"))
    floor = 0.0 if floored is None else float(floored.law.coefficients[0])
    draws = _Draws(noise, resamples, level, np.random.default_rng(seed))
    points = [_frontier_points(dense, moe, floor, draws)]
    points += _curve_points(moe, fits, level)
    try:
        fits["joint"] = _joint_fit(points[0], _dense_draws(dense, moe, floor, draws), seed)
        points.append(_joint_points(points[0], fits["joint"], level))
    except UnidentifiedError as error:
        skipped["joint"] = str(error)
    return Leverage(
        points=pd.concat(points, ignore_index=True),
        best=best,
        noise=noise,
        noise_source=source,
        fits=fits,
        skipped=skipped,
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    noise: float
    count: int
    level: float
    generator: np.random.Generator

    def log_losses(self, runs: pd.DataFrame) -> Array:
        """(1 + B, rows) of ln loss: as measured, then with seed noise drawn anew."""
        scale = self.noise / np.sqrt(runs["num_seeds"].to_numpy(dtype=float))
        drawn = self.generator.standard_normal((self.count, len(runs))) * scale
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
    floor = min(floor, 0.999 * float(np.exp(min(knots.min(), wanted.min()))))
    heights, levels = np.log(np.exp(knots) - floor), np.log(np.exp(wanted) - floor)
    passed = (heights[:, :, None] >= levels[:, None, :]).sum(axis=1)  # knots at or above the loss
    right = np.clip(passed, 1, knots.shape[1] - 1)
    high, low = (np.take_along_axis(heights, right - shift, axis=1) for shift in (1, 0))
    share = (high - levels) / (high - low)
    log_c = np.log(compute)
    value = np.exp(log_c[right - 1] + share * (log_c[right] - log_c[right - 1]))
    at_end = np.isclose(levels, heights[:, -1:], rtol=0, atol=1e-11)
    value = np.where((passed == knots.shape[1]) & ~at_end, np.inf, value)
    return np.asarray(np.where(passed == 0, 0.0, value))


def _frontier_points(
    dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: _Draws
) -> pd.DataFrame:
    compute = dense["compute"].to_numpy(dtype=float)
    own = moe["compute"].to_numpy(dtype=float)
    of_dense, of_moe = draws.log_losses(dense), draws.log_losses(moe)
    leverage = frontier_compute(compute, of_dense, of_moe, floor) / own
    tail = (1 - draws.level) / 2
    low, high = np.quantile(leverage[1:], [tail, 1 - tail], axis=0, method="nearest")
    value = leverage[0]
    inside = np.isfinite(value) & (value > 0)
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
    for family, runs in best.groupby(FAMILY):
        for law in (PowerLaw, FlooredPowerLaw):
            name = f"{family_name(dict(zip(FAMILY, family, strict=True)))}, {law.__name__}"
            try:
                fits[name] = fit(law, runs, "loss", resamples=resamples, seed=seed)
            except UnidentifiedError as error:
                skipped[name] = str(error)
    return fits, skipped


def _curve_points(moe: pd.DataFrame, fits: Mapping[str, Fit], level: float) -> list[pd.DataFrame]:
    points = []
    forms = ((PowerLaw, "power curves"), (FlooredPowerLaw, "floored curves"))
    for law, estimator in forms:
        dense = fits.get(f"dense, {law.__name__}")
        for family, runs in moe.groupby(FAMILY):
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


def _dense_draws(dense: pd.DataFrame, moe: pd.DataFrame, floor: float, draws: _Draws) -> Array:
    """Ln EL (B, n) under seed noise of the dense runs alone, the error all points share."""
    compute = dense["compute"].to_numpy(dtype=float)
    wanted = np.broadcast_to(np.log(moe["loss"].to_numpy(float)), (draws.count, len(moe)))
    reached = frontier_compute(compute, draws.log_losses(dense)[1:], wanted, floor)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(reached / moe["compute"].to_numpy(dtype=float)))


def is_held_out(points: pd.DataFrame) -> NDArray[np.bool_]:
    """Points kept from the joint fit: those marked, variants, and the largest sixth of the rest."""
    kept = points["held_out"] | (points["variant"] != "")
    cut = points["efficiency_leverage"][~kept].quantile(1 - HELD_OUT_SHARE)
    return np.asarray(kept | (points["efficiency_leverage"] > cut))


def _joint_fit(points: pd.DataFrame, dense_draws: Array, seed: int) -> Fit:
    fitted_on = points["efficiency_leverage"].notna().to_numpy() & ~is_held_out(points)
    if not fitted_on.any():
        raise UnidentifiedError(
            "efficiency_leverage: no point of the plain recipe lies inside the frontier"
        )
    fitted = fit(JointLaw, points[fitted_on], "efficiency_leverage", resamples=0, seed=seed)
    return refit(fitted, dense_draws[:, fitted_on], seed=seed)


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
    names = [*FAMILY, "compute", "loss", *({"run_id"} & set(moe))]
    kept = moe[names].reset_index(drop=True)
    blank: dict[str, Any] = {"at_least": np.nan, "at_most": np.nan}
    blank["extrapolated"] = False
    return kept.assign(estimator=estimator, **(blank | columns))


def family_name(family: Mapping[str, object]) -> str:
    """A short name: `dense`, or the axes of an MoE family."""
    variant = f" {family['variant']}" if family.get("variant") else ""
    if not family["is_moe"]:
        return f"dense{variant}"
    a, g, s = (family[name] for name in ("activation_ratio", "granularity", "shared_ratio"))
    return f"A={a:.4g} G={g:.4g} S={s:.4g}{variant}"


def _noise(table: pd.DataFrame, dense: Fit | None) -> tuple[float, str]:
    plain = table[table["variant"].fillna("") == ""] if "variant" in table else table
    sigma, freedom = table_noise(plain)  # a variant has a noise of its own
    if freedom >= MIN_SEED_PAIRS:
        return sigma * student_ratio(freedom), f"between seeds, {freedom} degrees of freedom"
    if dense is None:
        return sigma, f"between seeds, only {freedom} degrees of freedom: intervals are too short"
    spread = dense.residuals
    sigma = float(np.sqrt((spread**2).sum() / max(len(spread) - len(dense.theta), 1)))
    return sigma, "residuals of the dense curve, for want of repeated seeds"


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
    known = {name: table.get(name, 0.0) for name in SIZES}
    known["configuration"] = _configuration(table)
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
    return table.assign(is_moe=table["is_moe"].astype(bool), budget=budgets(table))


def _configuration(table: pd.DataFrame) -> pd.Series:
    """What tells settings apart beside family, budget and sizes.

    The table's own `config_id` if it has one: two runs that differ in anything but seeds are no
    repeats. Else rows of a table with seeds are repeats, and of one without each is its own.
    """
    if "config_id" in table:
        return table["config_id"]
    return pd.Series(0 if "seed" in table else np.arange(len(table)), table.index)


def _significant(column: pd.Series, digits: int = 4) -> pd.Series:
    """Rounded to so many significant digits: equal axes from unequal arithmetic."""
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(column.abs().where(column != 0, 1.0))))
    rounded: pd.Series = (column * scale).round() / scale
    return rounded


def _mean_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    key = [*FAMILY, "budget", *SIZES]
    named = {"run_id": ("run_id", " ".join)} if "run_id" in table else {}
    groups = table.groupby(key, as_index=False, dropna=False)  # a size may be unknown
    return groups.agg(
        loss=("loss", "mean"), compute=("compute", "mean"), num_seeds=("loss", "size"), **named
    )
