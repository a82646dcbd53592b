"""Whether the rows of a fit identify each of its coefficients: profile likelihood.

The question is not asked in the paper, which prints six coefficients for Equation 13 (Table 2), one
of them 5.28e16.

    profile    least objective with one coefficient held at a value, the others free
    deviance   n ln (profile / minimum): compared with Student's quantile, squared, at n - P
    K, n, P    problems, rows and coefficients, as in `optimise`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moe_leverage.analysis.bootstrap import (
    LEVEL,
    NORMAL_95,
    TRIAL_ITERATIONS,
    covariance,
    student_quantile,
)
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import FEW_MINIMA, MANY_ROWS
from moe_leverage.analysis.optimise import Problem, Solution, minimise
from moe_leverage.theory.law import Array, LogLinearLaw

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
STILL = 0.05  # standard errors: what a law moves beyond the end of a coefficient
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

    >>> from moe_leverage.analysis.fitting import fit
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
    return bool(there.objective[0] <= _limits(fitted, number, there.theta, lowest, level)[0])


def _limits(fitted: Fit, number: int, theta: Array, lowest: float, level: float) -> Array:
    """The objective up to which each of these values is held, by what freedom is left, (m,).

    `theta` (m, P) has a coefficient at its values and the others where they fit best. From A_max
    the law soon stops changing, so that an estimate misses a large truth on one side alone, and
    the quantile is that of a coefficient with little room (Feldman and Cousins, 1998).
    """
    told = _num_told(fitted, lowest)
    freedom = max(fitted.num_clusters - told, 1)
    spare = max(len(fitted.log_target) - told, 1)  # of rows: their noise is lowest's
    error = float(np.sqrt(2 * lowest * _dependence(fitted, number) / spare))
    rooms = _rooms(fitted, number, theta, error)
    quantiles = np.array([student_quantile(freedom, level, float(room)) for room in rooms])
    return np.asarray(lowest + (quantiles * error) ** 2 / 2)


def _rooms(fitted: Fit, number: int, theta: Array, error: float) -> Array:
    """How many errors the law moves as a coefficient goes from each value to its nearer end, (m,).

    The others follow. A positive coefficient has an end, at nothing or beyond all, where going as
    far again moves the law no more; without one the room is infinite.
    """
    room = np.full(len(theta), np.inf)
    if not _is_positive(fitted, number):
        return room
    drawn = fitted.law.log_value(theta, fitted.inputs)
    problem = replace(fitted.problem, log_target=drawn, delta=np.inf)
    held = np.full(len(theta), number)
    for side in (-1.0, 1.0):
        moved = []
        for far in (1.0, 2.0):
            begin = np.array(theta)
            begin[:, number] = fitted.theta[number] + side * far * _reach(fitted, number)
            ended = minimise(problem, begin, fixed=held, most=PROFILE_ITERATIONS)
            objective = np.nan_to_num(ended.objective, nan=np.inf, posinf=np.inf)
            moved.append(np.sqrt(2 * objective) / error)
        is_end = moved[1] <= moved[0] + STILL
        room = np.where(is_end, np.minimum(room, moved[0]), room)
    return np.asarray(room)


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
    numbers = np.arange(len(names))
    is_log = [_is_positive(fitted, number) for number in range(len(names))]
    starts = np.concatenate([_walk(fitted, number) for number in range(len(names))])
    paths = _lowest(problem, np.repeat(numbers, count), starts)
    theta = paths.theta.reshape(len(names), count, -1)
    objective = paths.objective.reshape(len(names), count)
    lowest = np.maximum(objective.min(axis=1), SMALLEST)
    limits = np.stack([
        _limits(fitted, k, theta[k], float(lowest[k]), level) for k in range(len(names))
    ])  # fmt: skip
    ends = np.stack([
        _last_held(problem, numbers, theta[:, walk], objective[:, walk], limits[:, walk])
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


def _is_positive(fitted: Fit, number: int) -> bool:
    return (fitted.law.theta_names or fitted.law.coefficient_names)[number] in fitted.law.positive


def _step(fitted: Fit, number: int) -> float:
    """About a standard error of a coefficient: the scale of a walk's first steps."""
    error = float(np.sqrt(max(fitted.covariance[number, number], 0.0)))
    return float(min(error, 1.0) or 1e-3 * max(abs(fitted.theta[number]), 1e-3))


def _reach(fitted: Fit, number: int) -> float:
    """How far from its estimate a coefficient is followed, in theta."""
    step, size = _step(fitted, number), abs(float(fitted.theta[number]))
    if _is_positive(fitted, number):
        return max(REACH_DECADES * float(np.log(10)) + size, step)
    return max(REACH_ERRORS * step, REACH_SIZES * size)


def _walk(fitted: Fit, number: int) -> Array:
    """Theta with one coefficient moved away from its estimate on both sides, (2 POINTS + 1, P)."""
    side = np.geomspace(0.05 * _step(fitted, number), _reach(fitted, number), POINTS)
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
    `walks` (K, points, P) holds solved thetas, `limits` (K, points) those of their objective; the
    step that leaves is walked again, ever finer.
    """
    ends = np.full(len(walks), np.nan)
    left, is_held = np.arange(len(walks)), objective <= limits
    shares = np.linspace(0.0, 1.0, REFINED_POINTS)
    for _ in range(REFINEMENTS):
        leaves = ~is_held[:, -1]
        left, is_held = left[leaves], is_held[leaves]
        if len(left) == 0:
            return ends
        inner, outer = _step_that_leaves(is_held)
        walks = _between(walks[leaves], inner, outer, shares)
        limits = _between(limits[leaves], inner, outer, shares)
        held = np.repeat(fixed[left], REFINED_POINTS)
        solved = minimise(
            problem, walks.reshape(len(held), -1), fixed=held, most=PROFILE_ITERATIONS
        )  # fmt: skip
        walks = solved.theta.reshape(walks.shape)
        is_held = solved.objective.reshape(limits.shape) <= limits
        is_held[:, -1] = False  # as it was from its neighbour, if not from here
    own = np.arange(len(left))
    ends[left] = walks[own, _step_that_leaves(is_held)[1], fixed[left]]
    return ends


def _step_that_leaves(is_held: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both ends of the last step of each walk from a value held to one that is not."""
    points = is_held.shape[1]
    outer = np.clip(points - is_held[:, ::-1].argmax(axis=1), 1, points - 1)
    outer = np.where(is_held.any(axis=1), outer, 1)
    return outer - 1, outer


def _between(
    values: Array, inner: NDArray[np.int64], outer: NDArray[np.int64], shares: Array
) -> Array:
    """Values of each walk at these shares of the way from one of its points to another."""
    own = np.arange(len(values))
    from_here, to_there = values[own, inner][:, None], values[own, outer][:, None]
    shares = shares.reshape(1, -1, *[1] * (values.ndim - 2))
    return np.asarray(from_here + shares * (to_there - from_here))
