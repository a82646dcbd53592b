"""Any law fitted to any table, with intervals (the paper's procedure of Section 4.2.2 and ours).

The paper minimises a Huber loss by BFGS and prints point estimates; here the same loss is minimised
from many starts, and the whole fit is repeated on bootstrap resamples of the runs.

    theta     coefficients as the fit sees them (module `law`)
    n, P      rows of the table, coefficients of the law
    cluster   rows that are not independent of one another: seeds of a run, budgets of a sweep
    delta     Huber threshold of log residuals: quadratic within it, linear outside

How resamples are drawn and intervals taken is said in `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_leverage.analysis.bootstrap import (
    TRIAL_ITERATIONS,
    covariance,
    distinct_minima,
    draw_weights,
    resampled,
    small_sample_factor,
    widened,
)
from moe_leverage.analysis.fitted import Convergence, Fit
from moe_leverage.analysis.optimise import Problem, Solution, minimise
from moe_leverage.rules import refuse, require
from moe_leverage.theory.law import Array, Inputs, Law, Source

if TYPE_CHECKING:  # a fit is loaded by commands that must start at once, without pandas
    import pandas as pd

HUBER_EFFICIENCY = 1.345  # delta over sigma: 95 % efficient under normal noise (Huber, 1981)
MAD_TO_SIGMA = 1.4826  # standard deviation over median absolute deviation, normal noise
SMALLEST_DELTA = 1e-6
SAME_OBJECTIVE = 1e-4  # relative: starts that end this close found the same optimum
SAME_FIT = 0.01  # of chi squared: as good a fit, a tenth of a standard error away
MANY_ROWS = 300  # independent ones, beyond which samples are drawn from the covariance
BETTER_STARTS = 32  # of many, that go on after TRIAL_ITERATIONS
FEW_MINIMA = 100  # rows from which on a law hardly has several minima: few starts do
ENDS_DIGITS = 6  # of theta: ends that agree to so many decimals are one
POLISHED = 4  # starts that go on from a share of the rows to all


class UnidentifiedError(ValueError):
    """The table cannot tell a law's coefficients; the message says what it lacks."""


def fit(
    law: type[Law],
    table: Mapping[str, Any] | pd.DataFrame,
    target: str,
    *,
    clusters: str = "",
    delta: float = 0.0,
    starts: int = 64,
    resamples: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a law to the columns of a table that bear the names of its inputs and of the target.

    Minimises sum_i huber(ln law_i - ln target_i). `clusters` names the column that tells dependent
    rows; without it every row is its own. `delta` = 0 takes 1.345 robust standard deviations of the
    least-squares residuals. Raises UnidentifiedError when the table cannot tell the coefficients,
    ValueError when a value is missing, not positive or not finite.

    >>> from moe_leverage.theory.laws import PowerLaw
    >>> compute = 10.0 ** np.arange(11, 15)
    >>> exact = fit(PowerLaw, {"compute": compute, "loss": 9 * compute**-0.1}, "loss")
    >>> round(exact.law.coefficient, 6), round(exact.law.exponent, 6)
    (9.0, -0.1)
    """
    inputs = {name: _column(table, name) for name in law.inputs}
    log_target = np.log(_column(table, target))
    groups = np.arange(len(log_target)) if not clusters else np.asarray(table[clusters])
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    require_variation(law, inputs, int(groups.max()) + 1)
    generator = np.random.default_rng(seed)
    begin = law.starts(inputs, log_target, starts, generator)
    begin = law.followed(begin, inputs, log_target)
    problem = Problem(law=law, inputs=inputs, log_target=log_target, delta=delta or np.inf)
    if len(log_target) > MANY_ROWS:
        begin = _polished(problem, begin, generator)
    problem, ended = _minimum(problem, begin)
    best = _best(ended)
    spread = covariance(problem, best, groups)
    if int(groups.max()) + 1 > MANY_ROWS:  # the bootstrap's limit for so many clusters
        redrawn = _normal_samples(best, spread, resamples, generator)
        minima = best[None]
    else:
        weights = draw_weights(groups, resamples, generator)
        minima = distinct_minima(ended, len(log_target))
        redrawn = resampled(problem, minima, weights)
    fitted = Fit(
        law=law.from_coefficients(law.from_theta(best), _source(target, inputs, log_target)),
        target=target,
        inputs=inputs,
        log_target=log_target,
        clusters=groups,
        theta=best,
        covariance=spread,
        samples=redrawn.theta,
        delta=problem.delta,
        convergence=_convergence(ended, redrawn, len(log_target) - begin.shape[-1]),
    )
    return replace(fitted, samples=widened(fitted.problem, redrawn.theta, minima, fitted.widening))


def _polished(problem: Problem, begin: Array, generator: np.random.Generator) -> Array:
    """The few best ends of all starts on a share of many rows, from which to start on all."""
    rows = generator.choice(problem.log_target.shape[-1], MANY_ROWS, replace=False)
    inputs = {name: column[rows] for name, column in problem.inputs.items()}
    part = replace(problem, inputs=inputs, log_target=problem.log_target[rows])
    tried = minimise(part, begin, most=TRIAL_ITERATIONS)
    lowest = np.argsort(tried.objective, kind="stable")[: 2 * POLISHED]
    ended = minimise(part, tried.theta[lowest])
    return np.asarray(ended.theta[np.argsort(ended.objective)[:POLISHED]])


def _normal_samples(
    best: Array, spread: Array, resamples: int, generator: np.random.Generator
) -> Solution:
    """Samples of theta from the normal with this covariance."""
    drawn = generator.multivariate_normal(
        best, spread, resamples, method="eigh", check_valid="ignore"
    )
    return Solution(
        theta=drawn,
        objective=np.zeros(resamples),
        converged=np.ones(resamples, dtype=bool),
        iterations=np.zeros(resamples, dtype=np.int64),
    )


def refit(fitted: Fit, log_targets: Array, *, seed: int = 0) -> Fit:
    """The same fit with bootstrap samples that also carry an error its rows have in common.

    Resample b is fitted to `log_targets[b]` (B, n), drawn by whoever knows that error, under fresh
    cluster weights. A target that is not finite is left out of its resample.
    """
    known = np.isfinite(log_targets)
    generator = np.random.default_rng(seed)
    if fitted.num_clusters > MANY_ROWS:
        moved = np.where(known, log_targets, fitted.log_target) - fitted.log_target
        drawn = _normal_samples(fitted.theta, fitted.covariance, len(log_targets), generator)
        samples = drawn.theta + moved @ _response(fitted)
        return replace(fitted, samples=samples)
    weights = draw_weights(fitted.clusters, len(log_targets), generator) * known
    targets = np.where(known, log_targets, fitted.log_target)
    begin = fitted.law.starts(
        fitted.inputs, fitted.log_target, fitted.convergence.num_starts, generator
    )
    ended = minimise(fitted.problem, np.concatenate([fitted.theta[None], begin]))
    minima = distinct_minima(ended, len(fitted.log_target))
    redrawn = resampled(replace(fitted.problem, log_target=targets), minima, weights)
    convergence = replace(
        fitted.convergence,
        num_resamples=len(targets),
        resamples_converged=int(redrawn.converged.sum()),
    )
    return replace(
        fitted,
        samples=widened(fitted.problem, redrawn.theta, minima, fitted.widening),
        convergence=convergence,
    )


def _response(fitted: Fit) -> Array:
    """How theta follows a small change of each log target, (n, P): one Gauss-Newton step."""
    slopes = fitted.law.log_gradient(fitted.theta, fitted.inputs)
    inside = (np.abs(fitted.residuals) <= fitted.delta)[:, None]
    scale = 1 / np.sqrt(np.maximum((slopes**2 * inside).sum(axis=0), 1e-300))  # decades apart
    scaled = slopes * scale
    inverse = np.linalg.pinv((scaled * inside).T @ scaled, hermitian=True)
    return np.asarray(inside * (scaled @ inverse) * scale)


def require_variation(law: type[Law], inputs: Inputs, num_clusters: int) -> None:
    """Raise an UnidentifiedError if these rows cannot tell the law's coefficients."""
    for name, needed in law.min_values.items():
        values = len(np.unique(np.round(np.log(inputs[name]), 6)))
        if values < needed:
            seen = f"{name} = {_shown(inputs[name])}: {values} different value(s)"
            raise UnidentifiedError(f"{seen}; {law.__name__} needs {needed} or more")
    size = len(law.coefficient_names)
    points = np.round(np.log(np.stack(list(inputs.values()))), 6)
    counts = {
        "independent runs": num_clusters,
        "different rows": np.unique(points, axis=1).shape[1],
    }
    for name, count in counts.items():
        if count <= size and not (size == 1 and name == "different rows"):
            rule = f"{law.__name__} has {size} coefficients and needs at least {size + 1}"
            raise UnidentifiedError(f"{name} = {count}: {rule}")


def require_column(table: Mapping[str, Any] | pd.DataFrame, name: str) -> None:
    """Raise a ValueError that lists the columns of a table if this is not among them."""
    rule = f"is not a column of the table ({', '.join(map(str, table))})"
    require(name in table, name, None, rule)


def _column(table: Mapping[str, Any] | pd.DataFrame, name: str) -> Array:
    """A column of positive finite numbers; the first other value is named with its row."""
    require_column(table, name)
    try:
        values = np.asarray(table[name], dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: must hold numbers ({error})") from error
    require(values.size > 0, name, [], "the table has no rows")
    bad = ~((values > 0) & (values < np.inf))
    if bad.any():
        row = int(bad.argmax())
        refuse(f"{name}, row {row}", float(values[row]), "must be positive and finite")
    return values


def _minimum(problem: Problem, begin: Array) -> tuple[Problem, Solution]:
    """Where the better starts end; an infinite delta is replaced by that of its residuals."""
    rows = problem.log_target.shape[-1]
    if len(begin) > BETTER_STARTS and rows >= FEW_MINIMA:  # a few would keep all others waiting
        tried = minimise(problem, begin, most=TRIAL_ITERATIONS)
        begin = tried.theta[np.argsort(tried.objective, kind="stable")[:BETTER_STARTS]]
    ended = minimise(problem, begin)
    if np.isinf(problem.delta):
        problem = replace(problem, delta=_resolve_delta(problem, _best(ended)))
        ended = _from_each_end(problem, ended.theta)
    found = bool(np.isfinite(ended.objective).any())
    require(found, problem.law.__name__, None, "no start has a finite loss")
    return problem, ended


def _from_each_end(problem: Problem, ends: Array) -> Solution:
    """Where a problem leads from the ends of another, most of which are in the same few places."""
    _, first, own = np.unique(
        ends.round(ENDS_DIGITS), axis=0, return_index=True, return_inverse=True
    )
    ended = minimise(problem, ends[first])
    return Solution(
        theta=ended.theta[own],
        objective=ended.objective[own],
        converged=ended.converged[own],
        iterations=ended.iterations[own],
    )


def _source(target: str, inputs: Inputs, log_target: Array) -> Source:
    """What the fit is of, and the range of the rows behind it."""
    ranges = dict(inputs)
    if target == "efficiency_leverage":  # a law of leverage also warns beyond the largest seen
        ranges[target] = np.exp(log_target)
    domain = {name: (float(column.min()), float(column.max())) for name, column in ranges.items()}
    return Source(output=target, domain=domain)


def _resolve_delta(problem: Problem, theta: Array) -> float:
    residuals = problem.residuals(theta)
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(residuals)))
    return max(
        HUBER_EFFICIENCY * sigma * small_sample_factor(len(residuals), len(theta)), SMALLEST_DELTA
    )


def _best(solution: Solution) -> Array:
    best: Array = solution.theta[int(solution.objective.argmin())]
    return best


def _convergence(ended: Solution, redrawn: Solution, freedom: int) -> Convergence:
    """How the starts and resamples ended; a start counts as at the best that fits as well.

    Where a floor runs off to 0 the starts end all along a flat valley, none at the same place.
    """
    close = max(SAME_OBJECTIVE, SAME_FIT / max(freedom, 1))
    best = ended.objective.min()
    return Convergence(
        num_starts=len(ended.objective),
        starts_converged=int(ended.converged.sum()),
        starts_at_best=int((ended.objective <= best * (1 + close) + 1e-300).sum()),
        num_resamples=len(redrawn.objective),
        resamples_converged=int(redrawn.converged.sum()),
        most_iterations=int(max(ended.iterations.max(), redrawn.iterations.max(initial=0))),
    )


def _shown(values: Array) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
