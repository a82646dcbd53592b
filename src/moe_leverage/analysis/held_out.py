"""How well laws tell rows that they were not fitted to, rivals side by side.

The question is not asked in the paper, which compares Equation 13 with no rival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import TRIAL_ITERATIONS
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import UnidentifiedError, fit, require_column
from moe_leverage.analysis.optimise import Problem, minimise
from moe_leverage.rules import require
from moe_leverage.theory.law import Array, Law

FOLDS = 10
COMPARED_STARTS, FOLD_STARTS = 32, 16
MOST_COMPARED = 400  # rows by which laws are compared: more tell no more
SMALLEST = 1e-300


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
