"""Leverage kept from points that no law of theirs has, with what it is with them beside it.

Dense points and mixtures alike: a point far from the curve of its own family, or a mixture far
from the joint law of all, is named and kept from every estimate. Where sizes and tokens of the
dense runs tell their optimum, leverage over it is one of the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pandas as pd

from moe_leverage.analysis.as_leverage import Frontier
from moe_leverage.analysis.envelope import (
    Envelope,
    fit_envelope,
    frontier_warnings,
    optimal_points,
    usual_warnings,
)
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import UnidentifiedError, fit
from moe_leverage.analysis.leverage import RESAMPLES, Leverage, estimate, most_joint
from moe_leverage.analysis.outliers import find_outliers, missed_mixtures, without
from moe_leverage.analysis.points import FAMILY, best_runs, family_name
from moe_leverage.theory.laws import JointLaw

PLACE = ["estimator", *(name for name in FAMILY if name != "held_out"), "compute", "loss"]


def screened(
    table: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    floor: float | None = None,
) -> Leverage:
    """`estimate` without the outliers, which are named; what it is with them in `with_outliers`."""
    whole = best_runs(table)
    found = find_outliers(whole)
    kept = without(table, found)
    best = whole.drop(index=found.index)
    measured = _over_both(kept, best, resamples, seed, floor)
    missed = _missed_mixtures(measured, seed)
    if len(missed):
        found = pd.concat([found, missed])
        kept, best = without(kept, missed), best.drop(index=missed.index)
        measured = _over_both(kept, best, resamples, seed, floor)
    if found.empty:
        return measured
    return _beside(measured, _with_all(table, whole, seed, floor, measured.fits), found)


def outlier_warning(found: pd.DataFrame) -> str:
    """The outliers by row and place, and what misses them."""
    named = "; ".join(
        f"{row.get('row', row['family'])} at {row['compute']:.3g} FLOPs, loss {row['loss']:.4g}, "
        f"is missed by far by {row['missed_by']}"
        for row in found.assign(family=found.apply(family_name, axis=1)).to_dict("records")
    )
    return f"outlier: {named}; kept from every estimate"


def _over_both(
    table: pd.DataFrame,
    best: pd.DataFrame,
    resamples: int,
    seed: int,
    floor: float | None,
    known: Mapping[str, Fit] = MappingProxyType({}),
) -> Leverage:
    """Leverage over the dense runs, and over the optimum of their L(N, D) where they tell it."""
    dense = table[~table["is_moe"].astype(bool)]
    envelope: Envelope | str
    try:
        envelope = fit_envelope(dense, resamples=resamples, seed=seed)
    except UnidentifiedError as error:
        envelope = str(error)
    # sizes far from their optimum do not widen what L(N, D) leaves over
    noise = envelope.noise if isinstance(envelope, Envelope) else None
    measured = estimate(
        table,
        resamples=resamples,
        seed=seed,
        floor=floor,
        best=best,
        residual_noise=noise,
        known_curves=known,
    )
    return _beside_the_optimum(measured, dense, envelope)


def _with_all(
    table: pd.DataFrame,
    whole: pd.DataFrame,
    seed: int,
    floor: float | None,
    known: Mapping[str, Fit],
) -> Leverage | None:
    """The estimates with the outliers, without intervals; None where they leave no frontier."""
    try:
        return _over_both(table, whole, 1, seed, floor, known)
    except UnidentifiedError:
        return None


def _beside_the_optimum(
    measured: Leverage, dense: pd.DataFrame, envelope: Envelope | str
) -> Leverage:
    """Adds leverage over the optimum of a fitted L(N, D); warns where the frontier is off it."""
    skipped = dict(measured.skipped)
    if isinstance(envelope, str):
        skipped["optimal frontier"] = envelope
        warnings = usual_warnings(dense) + measured.warnings
        return replace(measured, skipped=skipped, warnings=warnings)
    frontier = measured.points[measured.points["estimator"] == "frontier"]
    points = optimal_points(frontier, envelope, measured.noise)
    if points["efficiency_leverage"].notna().sum() == 0:
        skipped["optimal frontier"] = "no loss of a mixture lies above the floor of L(N, D)"
        return replace(measured, skipped=skipped)
    warnings = frontier_warnings(frontier, points, dense, envelope)
    return replace(
        measured,
        points=pd.concat([measured.points, points], ignore_index=True),
        fits={**measured.fits, "dense optimum": envelope.fit},
        envelope=envelope,
        warnings=warnings + measured.warnings,
        skipped=skipped,
    )


def _missed_mixtures(measured: Leverage, seed: int) -> pd.DataFrame:
    """Mixtures that the joint law of all of them misses, those kept from its own fit included."""
    points = measured.points[measured.points["estimator"] == "frontier"].reset_index(drop=True)
    moe = measured.best["is_moe"]
    plain = ~points["held_out"] & (points["variant"] == "")
    inside = points[plain & points["efficiency_leverage"].notna()]
    mixtures = measured.best[moe][plain.to_numpy()]
    if "joint" not in measured.fits:
        return mixtures.iloc[:0]
    law = fit(JointLaw, most_joint(inside, seed), "efficiency_leverage", resamples=0, seed=seed).law
    return missed_mixtures(law, mixtures, Frontier.through(measured.best[~moe], measured.floor))


def _beside(measured: Leverage, both: Leverage | None, found: pd.DataFrame) -> Leverage:
    """Every estimate without the outliers, and with them where it leaves its interval."""
    points, moved = measured.points, 0
    if both is not None:
        with_all = both.points.drop_duplicates(PLACE).set_index(PLACE)["efficiency_leverage"]
        of_both = with_all.reindex(pd.MultiIndex.from_frame(points[PLACE])).to_numpy()
        value = pd.Series(of_both, points.index)
        is_moved = (value < points["low"]) | (value > points["high"])
        points, moved = points.assign(with_outliers=value.where(is_moved)), int(is_moved.sum())
        found = found.assign(estimator="frontier")
        own = with_all.reindex(pd.MultiIndex.from_frame(found[PLACE])).to_numpy()
        found = found.drop(columns="estimator").assign(efficiency_leverage=own)
    moves = f"{moved} estimate(s) of EL leave their intervals with it, and are given both ways"
    none = "no estimate of EL leaves its interval with it"
    text = f"{outlier_warning(found)}; {moves if moved else none}"
    return replace(
        measured,
        points=points,
        outliers=found,
        with_outliers=both,
        warnings=[text, *measured.warnings],
    )
