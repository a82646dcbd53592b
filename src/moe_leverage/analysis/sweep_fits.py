"""Laws through the best settings of sweeps: learning rate and batch, isoFLOP sizes and tokens.

What a budget tells is where its best lies, and how surely; the law follows from these places.

    M, D, C   FLOPs per token, tokens, compute
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import NORMAL_95
from moe_leverage.analysis.fitted import Fit, described
from moe_leverage.analysis.fitting import UnidentifiedError, fit
from moe_leverage.analysis.points import FAMILY, family_name
from moe_leverage.analysis.reductions import (
    budgets,
    mean_over_seeds,
    near_optimal,
    redrawn_optima,
)
from moe_leverage.theory.law import Array
from moe_leverage.theory.laws import PowerLaw

MIN_BUDGET_CLUSTERS = 4  # budgets that serve as the independent units of a fit
MIN_SWEPT_BUDGETS = 2


def hyperparameter_fit(
    runs: pd.DataFrame, name: str, least: int, resamples: int, seed: int, noise: float
) -> Fit:
    """Equation 3 through the near-optimal runs of the budgets that try `least` values or more.

    With `noise`, the deviation of ln loss between seeds, intervals follow from it and from the
    steps of the grid.
    """
    if name not in runs:
        raise UnidentifiedError(f"{name}: not in the table")
    budget = pd.Series(budgets(runs), index=runs.index)
    swept = runs[name].groupby(budget).transform("nunique") >= least
    if budget[swept].nunique() < MIN_SWEPT_BUDGETS:
        raise UnidentifiedError(
            f"{name}: {budget[swept].nunique()} budget(s) try {least} or more values; "
            f"a power law needs {MIN_SWEPT_BUDGETS}"
        )
    if noise:
        return _grid_fit(runs[swept], name, noise, resamples, seed)
    points = near_optimal(runs[swept])
    points = points.assign(compute=points["budget"])
    by_budget = points["budget"].nunique() >= MIN_BUDGET_CLUSTERS
    clusters = "budget" if by_budget else ""
    fitted = fit(PowerLaw, points, name, clusters=clusters, resamples=resamples, seed=seed)
    units = "budgets" if by_budget else "near-optimal runs, for want of budgets"
    return described(fitted, name, note=f"{_family_of(runs)}; independent units: {units}")


def _grid_fit(runs: pd.DataFrame, name: str, noise: float, resamples: int, seed: int) -> Fit:
    """A law through the near-optimal settings, its samples from seed noise and the grid's steps."""
    names = [other for other in ("learning_rate", "batch_tokens") if other in runs]
    settings = mean_over_seeds(runs, names)
    points = near_optimal(settings).assign(compute=lambda found: found["budget"])
    fitted = fit(PowerLaw, points, name, resamples=0, seed=seed)
    optima, log_compute = redrawn_optima(settings, name, noise, resamples, seed)
    note = f"intervals from seed noise of {noise:.1%} and half a step of the grid"
    fitted = _through(fitted, optima, log_compute)
    return described(fitted, name, note=f"{_family_of(runs)}; {note}")


def allocation_fit(optima: pd.DataFrame, column: str, resamples: int, seed: int) -> Fit:
    """A law through isoFLOP optima; with few of them its samples follow from their own intervals.

    Three optima that happen to lie on a line would else be a law without doubt.
    """
    fitted = fit(PowerLaw, optima, column, resamples=resamples, seed=seed)
    if len(optima) >= MIN_BUDGET_CLUSTERS:
        return fitted
    low, value, high = (
        np.log(optima[f"{column}{end}"].to_numpy()) for end in ("_low", "", "_high")
    )
    drawn = np.random.default_rng(seed).standard_normal((resamples, len(optima)))
    spread = np.where(drawn < 0, value - low, high - value) / NORMAL_95  # the ends lie unevenly
    return _through(fitted, value + drawn * spread, np.log(optima["compute"].to_numpy(float)))


def _through(fitted: Fit, log_optima: Array, log_compute: Array) -> Fit:
    """The fit with samples that are the lines through drawn optima (resamples, budgets)."""
    centred = log_compute - log_compute.mean()
    exponent = log_optima @ centred / (centred**2).sum()
    height = log_optima.mean(axis=1) - exponent * log_compute.mean()
    samples = np.stack([height, exponent], axis=1)
    return replace(fitted, samples=samples, covariance=np.cov(samples.T))


def _family_of(runs: pd.DataFrame) -> str:
    first = runs.iloc[0]
    return family_name({name: first[name] for name in FAMILY if name in runs})
