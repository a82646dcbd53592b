"""How far a fit can be trusted: is each coefficient identified, and do other laws predict better?

Neither question is asked in the paper, which prints six coefficients for Equation 13 (Table 2), one
of them 5.28e16, and compares it with no rival.

    profile    least objective with one coefficient held at a value, the others free
    deviance   n ln (profile / minimum): compared with Student's quantile, squared, at n - P
    K, n, P    problems, rows and coefficients, as in `optimise`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_leverage.analysis.bootstrap import (
    LEVEL,
    NORMAL_95,
    TRIAL_ITERATIONS,
    covariance,
    student_quantile,
)
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import (
    FEW_MINIMA,
    MANY_ROWS,
    UnidentifiedError,
    fit,
    require_column,
)
from moe_leverage.analysis.optimise import Problem, Solution, minimise
from moe_leverage.rules import require
from moe_leverage.theory.law import Array, Law, LogLinearLaw

POINTS = 25  # of a profile, on each side of the estimate
REFINEMENTS, REFINED_POINTS = 3, 9  # of the step in which a profile leaves what it holds
# How far from its estimate a profile follows a coefficient: a positive one beyond 1 and beyond
# itself, any other over both of these, so that 0 and the other sign are tried.
REACH_DECADES = 4.0
REACH_ERRORS = 30.0  # standard errors
REACH_SIZES = 2.0  # of the coefficient itself
PROFILE_ITERATIONS = 40  # what is gained after them is far below the threshold
PROFILE_STARTS = 8  # besides the estimate, of every point: a law may have several minima
UNTOLD_REACH = 3.0  # of theta: a factor of 20 in a positive coefficient
FOLDS = 10
COMPARED_STARTS, FOLD_STARTS = 32, 16
MOST_COMPARED = 400  # rows by which laws are compared: more tell no more
SMALLEST = 1e-300

Verdict = Literal["identified", "weakly identified", "not identified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The deviance of one coefficient over values around its estimate, and what it means."""

    name: str
    values: Array  # coefficient
    deviance: Array
    interval: tuple[float, float]  # infinite where the deviance never reaches the threshold
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        low, high = self.interval
        reach = f"tried from {self.values[0]:.3g} to {self.values[-1]:.3g}"
        if self.verdict == "identified":
            return f"{self.name} is identified: {low:.3g} to {high:.3g}"
        if self.verdict == "weakly identified":
            side = f"above {low:.3g}" if np.isinf(high) else f"below {high:.3g}"
            return f"{self.name} is weakly identified: the data only say {side} ({reach})"
        return f"{self.name} is not identified: any value fits as well ({reach})"


def profile(fitted: Fit, level: float = LEVEL) -> dict[str, Profile]:
    """The profile likelihood of every coefficient.

    A coefficient is identified if its deviance passes the threshold of Student's quantile, at the
    degrees of freedom that the runs leave, on both sides; weakly if on one.
    """
    names = fitted.law.theta_names or fitted.law.coefficient_names
    if fitted.num_clusters > MANY_ROWS:
        return {name: _quadratic(fitted, name, number) for number, name in enumerate(names)}
    return _profiles(fitted, names, level)


def _quadratic(fitted: Fit, name: str, number: int) -> Profile:
    """The profile of a coefficient by its standard error: what many rows have for a limit."""
    error = float(np.sqrt(max(fitted.covariance[number, number], 0.0)))
    steps = np.linspace(-3.0, 3.0, 2 * POINTS + 1)
    values = fitted.theta[number] + error * steps
    low, high = fitted.theta[number] + error * NORMAL_95 * np.array([-1.0, 1.0])
    if name in fitted.law.positive:
        with np.errstate(over="ignore"):  # one that the rows do not tell
            values, low, high = np.exp(values), np.exp(low), np.exp(high)
    told = error < (1.0 if name in fitted.law.positive else np.inf)
    return Profile(
        name=name,
        values=values,
        deviance=steps**2,
        interval=(float(low), float(high)),
        verdict="identified" if told else "not identified",
    )


def holds(fitted: Fit, name: str, value: float, level: float = LEVEL) -> bool:
    """Whether the profile interval of a coefficient holds a value, without walking the profile.

    >>> from moe_leverage.theory.laws import PowerLaw
    >>> compute = np.geomspace(1e11, 1e14, 6)
    >>> noise = 1 + 0.01 * np.array([1, -1, 1, -1, 1, -1])
    >>> own = fit(PowerLaw, {"compute": compute, "loss": 9 * compute**-0.1 * noise}, "loss")
    >>> holds(own, "exponent", -0.1), holds(own, "exponent", -0.2)
    (True, False)
    """
    names = fitted.law.theta_names or fitted.law.coefficient_names
    number = names.index(name)
    start = np.array(fitted.theta)[None]
    start[:, number] = np.log(value) if name in fitted.law.positive else value
    lowest = max(float(minimise(fitted.problem, fitted.theta[None]).objective[0]), SMALLEST)
    there = _lowest(fitted.problem, np.array([number]), start)
    return bool(there.objective[0] <= _limit(fitted, number, lowest, level))


def _limit(fitted: Fit, number: int, lowest: float, level: float) -> float:
    """The objective up to which a value is held: Student's quantile at what freedom is left."""
    told = _num_told(fitted, lowest)
    freedom = max(fitted.num_clusters - told, 1)
    quantile = student_quantile(freedom, level)
    spare = max(len(fitted.log_target) - told, 1)  # of rows: their noise is lowest's
    return lowest * (1 + quantile**2 * _dependence(fitted, number) / spare)


def _num_told(fitted: Fit, lowest: float) -> int:
    """How many coefficients the rows tell: the others take no degree of freedom from the noise.

    A direction in which theta may go as far as UNTOLD_REACH before the rows show one standard
    deviation of their noise is none that they tell.
    """
    slopes = fitted.law.log_gradient(fitted.theta, fitted.inputs)
    if not np.isfinite(slopes).all():
        return len(fitted.theta)
    seen = UNTOLD_REACH * np.linalg.svd(slopes, compute_uv=False)
    told = len(fitted.theta)
    for _ in fitted.theta:  # fewer coefficients leave less noise: settled after as many turns
        noise = np.sqrt(2 * lowest / max(len(slopes) - told, 1))
        told = max(int((seen > noise).sum()), 1)
    return told


def _dependence(fitted: Fit, number: int) -> float:
    """How much larger the variance of a coefficient is than if rows were independent; 1 or more."""
    if fitted.num_clusters == len(fitted.log_target):
        return 1.0
    alone = covariance(fitted.problem, fitted.theta, np.arange(len(fitted.log_target)))
    own, rows = fitted.covariance[number, number], alone[number, number]
    return float(max(own / rows, 1.0)) if rows > 0 else 1.0


def _profiles(fitted: Fit, names: Sequence[str], level: float) -> dict[str, Profile]:
    """The profiles of all coefficients, walked side by side: a call costs more than a problem."""
    problem, count = fitted.problem, 2 * POINTS + 1
    is_log = np.array([name in fitted.law.positive for name in names])
    starts = np.concatenate([_walk(fitted, number, log) for number, log in enumerate(is_log)])
    numbers = np.arange(len(names))
    paths = _lowest(problem, np.repeat(numbers, count), starts)
    theta = paths.theta.reshape(len(names), count, -1)
    objective = paths.objective.reshape(len(names), count)
    lowest = np.maximum(objective.min(axis=1), SMALLEST)
    limits = np.array([_limit(fitted, k, float(lowest[k]), level) for k in range(len(names))])
    ends = np.stack([
        _last_held(problem, numbers, theta[:, walk], objective[:, walk], limits)
        for walk in (slice(None, None, -1), slice(None))
    ], axis=1)  # fmt: skip
    verdicts: tuple[Verdict, ...] = ("not identified", "weakly identified", "identified")
    found = {}
    for number, name in enumerate(names):
        values = starts.reshape(theta.shape)[number, :, number]
        bottom = 0.0 if is_log[number] else -np.inf
        with np.errstate(over="ignore"):
            shown, (low, high) = (
                (np.exp(part) if is_log[number] else part) for part in (values, ends[number])
            )
        found[name] = Profile(
            name=name,
            values=shown,
            deviance=len(fitted.log_target)
            * np.log(np.maximum(objective[number], SMALLEST) / lowest[number]),
            interval=(
                bottom if np.isnan(low) else float(low), np.inf if np.isnan(high) else float(high)
            ),
            verdict=verdicts[int(np.isfinite(ends[number]).sum())],
        )  # fmt: skip
    return found


def _walk(fitted: Fit, number: int, is_log: bool) -> Array:
    """Theta with one coefficient moved away from its estimate on both sides, (2 POINTS + 1, P)."""
    error = float(np.sqrt(max(fitted.covariance[number, number], 0.0)))
    step = min(error, 1.0) or 1e-3 * max(abs(fitted.theta[number]), 1e-3)
    decades = REACH_DECADES * np.log(10) + abs(fitted.theta[number])
    sizes = max(REACH_ERRORS * step, REACH_SIZES * abs(fitted.theta[number]))
    side = np.geomspace(0.05 * step, max(decades if is_log else sizes, step), POINTS)
    starts = np.repeat(fitted.theta[None], 2 * POINTS + 1, axis=0)
    starts[:, number] += np.concatenate([-side[::-1], [0.0], side])
    return starts


def _lowest(problem: Problem, fixed: NDArray[np.int64], starts: Array) -> Solution:
    """The least objective with one coefficient held at its value in each of a row of starts."""
    count = PROFILE_STARTS if problem.log_target.shape[-1] < FEW_MINIMA else 2
    drawn = problem.law.starts(problem.inputs, problem.log_target, count, np.random.default_rng(0))
    count, own = len(starts), np.arange(len(starts))
    begin = np.concatenate([starts, np.repeat(drawn, count, axis=0)])
    held = np.tile(fixed, 1 + len(drawn))
    begin[np.arange(len(begin)), held] = np.tile(starts[own, fixed], 1 + len(drawn))
    # all at once: one call, however many starts, of which the lowest go on to the end
    every = minimise(problem, begin, fixed=held, most=TRIAL_ITERATIONS)
    rows = every.objective.reshape(-1, count).argmin(axis=0) * count + own
    solved = minimise(problem, every.theta[rows], fixed=fixed, most=PROFILE_ITERATIONS)
    if issubclass(problem.law, LogLinearLaw):  # convex: there is one minimum, and it is found
        return solved
    for inward in (1, -1):  # each point again from its neighbour's optimum: paths bend
        begin = np.roll(solved.theta, inward, axis=0)
        begin[own, fixed] = starts[own, fixed]
        other = minimise(problem, begin, fixed=fixed, most=PROFILE_ITERATIONS)
        better = other.objective < solved.objective
        theta = np.where(better[:, None], other.theta, solved.theta)
        lower = np.minimum(other.objective, solved.objective)
        solved = replace(solved, theta=theta, objective=lower)
    return solved


def _last_held(
    problem: Problem, fixed: NDArray[np.int64], walks: Array, objective: Array, limits: Array
) -> Array:
    """Where walks leave for good the values whose objective keeps within the limit; NaN if never.

    A law of several minima leaves them more than once, and what lies beyond is held as well.
    `walks` (K, points, P) holds solved thetas; the step that leaves is walked again, ever finer.
    """
    ends = np.full(len(walks), np.nan)
    left, is_held = np.arange(len(walks)), objective <= limits[:, None]
    shares = np.linspace(0.0, 1.0, REFINED_POINTS)[:, None]
    for _ in range(REFINEMENTS):
        leaves = ~is_held[:, -1]
        left, walks, is_held = left[leaves], walks[leaves], is_held[leaves]
        if len(left) == 0:
            return ends
        inner, outer = _step_that_leaves(walks, is_held)
        finer = (inner[:, None] + shares * (outer - inner)[:, None]).reshape(-1, walks.shape[-1])
        held = np.repeat(fixed[left], REFINED_POINTS)
        solved = minimise(problem, finer, fixed=held, most=PROFILE_ITERATIONS)
        walks = solved.theta.reshape(len(left), REFINED_POINTS, -1)
        is_held = solved.objective.reshape(len(left), -1) <= limits[left, None]
        is_held[:, -1] = False  # as it was from its neighbour, if not from here
    _, outer = _step_that_leaves(walks, is_held)
    ends[left] = outer[np.arange(len(left)), fixed[left]]
    return ends


def _step_that_leaves(walks: Array, is_held: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Theta at both ends of the last step of each walk from a value held to one that is not."""
    own, points = np.arange(len(walks)), walks.shape[1]
    outer = np.clip(points - is_held[:, ::-1].argmax(axis=1), 1, points - 1)
    outer = np.where(is_held.any(axis=1), outer, 1)
    return walks[own, outer - 1], walks[own, outer]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One law's standing among rivals; lower is better everywhere."""

    law: str
    num_coefficients: int
    error: float  # root mean squared log residual of the rows fitted
    held_out_error: float  # the same on rows the fit did not see
    num_held_out: int
    aic: float
    bic: float


def compare(
    forms: Sequence[type[Law]],
    table: Mapping[str, Any] | pd.DataFrame,
    target: str,
    *,
    held_out: str = "",
    clusters: str = "",
    seed: int = 0,
) -> list[Score]:
    """Laws fitted to the same rows, in order of the error on rows they did not see.

    `held_out` names a column that is true for rows kept from every fit; without it the rows are
    left out in ten folds of whole clusters. AIC = n ln(2 F / n) + 2 P and BIC with P ln n, for the
    Huber objective F at one delta for all laws: the usual ones where noise is normal. A law that
    the table cannot identify is left out of the list.

    >>> from moe_leverage.theory.laws import PowerLaw
    >>> from moe_leverage.theory.rivals import FlooredPowerLaw
    >>> compute = np.geomspace(1e11, 1e14, 12)
    >>> table = {"compute": compute, "loss": 2 + 300 * compute**-0.2}
    >>> [score.law for score in compare([PowerLaw, FlooredPowerLaw], table, "loss")]
    ['FlooredPowerLaw', 'PowerLaw']
    """
    table = _sampled(table, target, seed)
    rows = len(np.asarray(table[target]))
    outside = np.asarray(table[held_out], dtype=bool) if held_out else np.zeros(rows, dtype=bool)
    require(not outside.all(), held_out or "rows", rows, "leaves no row to fit")
    columns = {name for law in forms for name in law.inputs} | {target} | {clusters} - {""}
    for name in sorted(columns):
        require_column(table, name)
    inside = {name: np.asarray(table[name])[~outside] for name in columns}
    fits = []
    for law in forms:
        try:
            fits.append(
                fit(
                    law, inside, target, clusters=clusters, starts=COMPARED_STARTS, resamples=0,
                    seed=seed,
                )
            )  # fmt: skip
        except UnidentifiedError:
            continue
    require(bool(fits), "forms", [law.__name__ for law in forms], "none is identified by the table")
    delta = max(fitted.delta for fitted in fits)
    beyond = {name: np.asarray(table[name])[outside] for name in columns}
    scores = [_score(fitted, delta, beyond if held_out else None, target, seed) for fitted in fits]
    return sorted(scores, key=lambda score: score.held_out_error)


def _sampled(
    table: Mapping[str, Any] | pd.DataFrame, target: str, seed: int
) -> Mapping[str, Any] | pd.DataFrame:
    """At most MOST_COMPARED rows of a table, drawn by chance."""
    count = len(np.asarray(table[target]))
    if count <= MOST_COMPARED:
        return table
    rows = np.sort(np.random.default_rng(seed).choice(count, MOST_COMPARED, replace=False))
    return {name: np.asarray(table[name])[rows] for name in map(str, table)}


def _score(
    fitted: Fit, delta: float, beyond: Mapping[str, Array] | None, target: str, seed: int
) -> Score:
    problem = replace(fitted.problem, delta=delta)
    solved = minimise(problem, fitted.theta[None])
    rows, size = len(problem.log_target), len(fitted.theta)
    if beyond is None:
        errors = _cross_validate(fitted, problem, seed)
    else:
        inputs = {name: np.asarray(beyond[name], dtype=float) for name in fitted.law.inputs}
        errors = fitted.law.log_value(solved.theta[0], inputs) - np.log(beyond[target])
    fit_term = rows * np.log(max(2 * float(solved.objective[0]) / rows, SMALLEST))
    return Score(
        law=type(fitted.law).__name__,
        num_coefficients=size,
        error=_root_mean_square(problem.residuals(solved.theta[0])),
        held_out_error=_root_mean_square(errors),
        num_held_out=len(errors),
        aic=float(fit_term) + 2 * size,
        bic=float(fit_term) + size * float(np.log(rows)),
    )


def _cross_validate(fitted: Fit, problem: Problem, seed: int) -> Array:
    """Log error of every row, predicted from the folds that it is not in."""
    generator = np.random.default_rng(seed)
    count = int(fitted.clusters.max()) + 1
    fold_of = (generator.permutation(count) % FOLDS)[fitted.clusters]
    folds = np.unique(fold_of)
    begin = fitted.law.starts(problem.inputs, problem.log_target, FOLD_STARTS, generator)
    begin = np.concatenate([fitted.theta[None], begin])
    weights = (fold_of != folds[:, None]).astype(float)
    every, of_every = np.tile(begin, (len(folds), 1)), np.repeat(weights, len(begin), axis=0)
    tried = minimise(problem, every, weights=of_every, most=TRIAL_ITERATIONS)
    best = tried.objective.reshape(len(folds), -1).argmin(axis=1)
    lowest = tried.theta.reshape(len(folds), len(begin), -1)[np.arange(len(folds)), best]
    errors = problem.residuals(minimise(problem, lowest, weights=weights).theta)
    own: Array = errors[np.searchsorted(folds, fold_of), np.arange(len(fold_of))]
    return own


def _root_mean_square(errors: Array) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
