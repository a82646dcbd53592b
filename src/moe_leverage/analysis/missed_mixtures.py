"""Mixtures that the joint law of them all misses by far: for families too small for a curve."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.analysis.as_leverage import Frontier
from moe_leverage.analysis.bootstrap import small_sample_factor, student_ratio
from moe_leverage.analysis.fitting import MAD_TO_SIGMA
from moe_leverage.analysis.leverage import Leverage, is_held_out
from moe_leverage.analysis.outliers import LEAST_OUTLYING, MOST_OUTLYING, OUTLYING
from moe_leverage.analysis.points import family_name
from moe_leverage.theory.law import Law

MIN_FREEDOM = 3  # degrees of it, with which a joint law can tell a mixture as an outlier


def missed_mixtures(measured: Leverage) -> list[str]:
    """A warning for each mixture whose loss is far from the dense one at C x EL of the joint law.

    A loss that is too high may lie above all dense ones: then there is only a bound of its EL, and
    the joint law is fitted without it.
    """
    if "joint" not in measured.fits:
        return []
    points = measured.points[measured.points["estimator"] == "frontier"].reset_index(drop=True)
    best = measured.best[measured.best["is_moe"]].reset_index(drop=True)
    frontier = Frontier.through(measured.best[~measured.best["is_moe"]], measured.floor)
    odd = _far(measured.fits["joint"].law, best[~is_held_out(points)], frontier)
    return [
        f"outlier: {row.get('row', family_name(row))} at {row['compute']:.3g} FLOPs, loss "
        f"{row['loss']:.4g}: the joint law of the mixtures misses it by far; its own EL is as read"
        for _, row in odd.iterrows()
    ]  # fmt: skip


def _far(law: Law, mixtures: pd.DataFrame, frontier: Frontier) -> pd.DataFrame:
    """The mixtures that are missed, among those whose C x EL lies inside the dense budgets."""
    axes = {name: mixtures[name].to_numpy(float) for name in law.inputs}
    equal = np.log(mixtures["compute"].to_numpy(float) * law.evaluate(**axes))
    inside = (equal >= frontier.knots[0]) & (equal <= frontier.knots[-1])
    count, size = int(inside.sum()), len(law.coefficient_names)
    if count - size < MIN_FREEDOM:
        return mixtures.iloc[:0]
    missed = np.abs(np.log(mixtures["loss"].to_numpy(float)) - frontier.log_loss(equal))[inside]
    widening = small_sample_factor(count, size) * student_ratio(count - size)
    sigma = max(MAD_TO_SIGMA * float(np.median(missed)) * widening, LEAST_OUTLYING / OUTLYING)
    far = (missed > OUTLYING * sigma) & (missed > LEAST_OUTLYING)
    found: pd.DataFrame = mixtures[inside][far & (far.mean() <= MOST_OUTLYING)]
    return found
