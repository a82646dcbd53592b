"""Points that a law misses by many standard deviations: their family's curve, or the joint law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from moe_leverage.analysis.as_leverage import Frontier
from moe_leverage.analysis.bootstrap import (
    TRIAL_ITERATIONS,
    small_sample_factor,
    student_ratio,
)
from moe_leverage.analysis.fitting import MAD_TO_SIGMA
from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.analysis.points import FAMILY, SIZES, prepared
from moe_leverage.theory.law import Array, Law
from moe_leverage.theory.laws import PowerLaw
from moe_leverage.theory.rivals import FlooredPowerLaw

MIN_SCREENED = 5  # points of a family that can tell one of them as an outlier
OUTLYING = 8.0  # standard deviations from the curve of the others, widened by Student's ratio
SCREEN_STARTS = 8
MOST_LEFT_OUT = 60  # points of a family that are left out in turn; among more, one moves no curve
LEAST_OUTLYING = 0.02  # ln loss: nothing nearer is an outlier, however well the others lie
MIN_FREEDOM = 3  # degrees of it, with which a joint law can tell a mixture as an outlier
NEAREST_FLOOR = (
    0.95  # of the smallest loss, above which a floor of other runs says nothing of these
)
MOST_OUTLYING = 0.25  # share of a family; more are no outliers but another curve


def find_outliers(best: pd.DataFrame) -> pd.DataFrame:
    """Points that the curve of the others of their family misses by many standard deviations."""
    odd: list[Any] = []
    floor = 0.0
    for family, runs in best.groupby(FAMILY, dropna=False):  # the dense one first
        limit = int(MOST_OUTLYING * len(runs))
        if len(runs) > MOST_LEFT_OUT:
            odd += _far_points(runs)[:limit]
            continue  # a family of so many has a floor of its own
        left = runs
        while len(runs) - len(left) < limit and len(left) >= MIN_SCREENED:
            worst = _worst_point(left, floor)
            if worst is None:
                break
            left = left.drop(index=worst)
            odd.append(worst)
        if not family[0] and len(left) > MIN_SCREENED:
            floor = _floor(left)
    return best.loc[odd].assign(missed_by="the curve of its family")


def far_from(law: Law, table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Rows that a law misses by many robust standard deviations, the farthest first.

    For a law that a robust loss was fitted with, which an outlier hardly moves. More than a quarter
    of the rows are no outliers but another curve: then none is.
    """
    value = law.evaluate(**{name: table[name].to_numpy(float) for name in law.inputs})
    missed = np.abs(np.log(table[target].to_numpy(float) / value))
    sigma = max(MAD_TO_SIGMA * float(np.median(missed)), LEAST_OUTLYING / OUTLYING)
    far = (missed > OUTLYING * sigma) & (missed > LEAST_OUTLYING)
    if far.mean() > MOST_OUTLYING:
        return table.iloc[:0]
    order = np.argsort(-missed)
    found: pd.DataFrame = table.iloc[order[far[order]]]
    return found


def missed_mixtures(law: Law, mixtures: pd.DataFrame, frontier: Frontier) -> pd.DataFrame:
    """Mixtures whose loss is far from the dense one at C x EL of a law of EL fitted to them.

    For families too small for a curve. A loss that is too high may lie above all dense ones, where
    it has only a bound of its EL; what the law says of it must lie inside the dense budgets.
    """
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
    return found.assign(missed_by="the joint law of the mixtures")


def _far_points(runs: pd.DataFrame) -> list[Any]:
    """The indices of outliers among many points, the farthest first, told by one robust curve."""
    inputs = {"compute": runs["compute"].to_numpy(float)}
    log_loss = np.log(runs["loss"].to_numpy(float))
    delta = LEAST_OUTLYING / OUTLYING  # so small that the curve goes through the middle of points
    problem = Problem(law=FlooredPowerLaw, inputs=inputs, log_target=log_loss, delta=delta)
    starts = FlooredPowerLaw.starts(inputs, log_loss, SCREEN_STARTS, np.random.default_rng(0))
    missed = np.abs(problem.residuals(_lowest(problem, starts)))
    sigma = max(MAD_TO_SIGMA * float(np.median(missed)), LEAST_OUTLYING / OUTLYING)
    far = np.flatnonzero((missed > OUTLYING * sigma) & (missed > LEAST_OUTLYING))
    return list(runs.index[far[np.argsort(-missed[far])]])


def _floor(runs: pd.DataFrame) -> float:
    """The floor of the curve through a family's points."""
    inputs = {"compute": runs["compute"].to_numpy(float)}
    log_loss = np.log(runs["loss"].to_numpy(float))
    problem = Problem(law=FlooredPowerLaw, inputs=inputs, log_target=log_loss, delta=np.inf)
    starts = FlooredPowerLaw.starts(inputs, log_loss, SCREEN_STARTS, np.random.default_rng(0))
    return float(np.exp(_lowest(problem, starts)[0]))


def _worst_point(runs: pd.DataFrame, floor: float) -> Any:
    """The index of the point farthest from the curve of all others, if that is an outlier.

    A family too small to tell a floor of its own has that of the dense runs.
    """
    law: type[Law] = FlooredPowerLaw if len(runs) > MIN_SCREENED else PowerLaw
    if runs["compute"].nunique() <= len(law.coefficient_names) + 1:
        return None
    inputs = {"compute": runs["compute"].to_numpy(float)}
    loss, count = runs["loss"].to_numpy(float), len(runs)
    lowered = 0.0 if law is FlooredPowerLaw else min(floor, NEAREST_FLOOR * float(loss.min()))
    log_loss = np.log(loss - lowered)
    share = lowered / loss
    problem = Problem(law=law, inputs=inputs, log_target=log_loss, delta=np.inf)
    starts = law.starts(inputs, log_loss, SCREEN_STARTS, np.random.default_rng(0))
    freedom = count - 1 - len(law.coefficient_names)
    # under a floor of other runs least squares are not those of ln L, which this rests on
    if lowered == 0.0 and _all_are_near(problem, starts, freedom):
        return None
    weights = 1.0 - np.eye(count)  # each point left out in turn
    tried = minimise(
        problem, np.repeat(starts, count, axis=0), weights=np.tile(weights, (len(starts), 1)),
        most=TRIAL_ITERATIONS,
    )  # fmt: skip
    lowest = tried.objective.reshape(len(starts), count).argmin(axis=0)
    begin = tried.theta.reshape(len(starts), count, -1)[lowest, np.arange(count)]
    ended = minimise(problem, begin, weights=weights).theta
    spread = _in_log_loss(problem.residuals(ended), share)
    missed = np.abs(np.diag(spread))
    sigma = np.sqrt(((spread**2).sum(axis=1) - missed**2) / freedom)
    times = missed / np.maximum(sigma, LEAST_OUTLYING / OUTLYING)
    place = int(times.argmax())
    is_far = times[place] > OUTLYING * student_ratio(freedom) and missed[place] > LEAST_OUTLYING
    return runs.index[place] if is_far else None


def _all_are_near(problem: Problem, starts: Array, freedom: int) -> bool:
    """Whether no point can be an outlier: with each left out, to first order, all are near.

    Of e, a residual of least squares, and h, its leverage, e / (1 - h) is what the curve of the
    others misses, and e^2 / (1 - h) what their sum of squares is less. Half of a limit is near.
    """
    best = _lowest(problem, starts)
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


def _in_log_loss(residuals: Array, share: Array) -> Array:
    """Residuals of ln(L - floor) as those of ln L; the floor is a share of each loss."""
    return np.asarray(np.log(share + (1 - share) * np.exp(residuals)))


def _lowest(problem: Problem, starts: Array) -> Array:
    """Where the most promising of several starts ends."""
    tried = minimise(problem, starts, most=TRIAL_ITERATIONS)
    return np.asarray(minimise(problem, tried.theta[[tried.objective.argmin()]]).theta[0])


def without(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that are not behind these of its points."""
    if found.empty:
        return table
    key = [*FAMILY, "budget", *SIZES]
    places = pd.concat([found[key], prepared(table)[key]]).groupby(key, dropna=False).ngroup()
    odd = places[: len(found)]
    return table[~places[len(found) :].isin(odd).to_numpy()]
