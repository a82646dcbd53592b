"""What our own runs say about a claim: one regression, an effect, and a 90 % interval.

A claim registers its study, statistic and the region of effects that agree with it. Every statistic
is a function of the coefficients of one least-squares fit with an intercept per group (a budget, or
an architecture); its interval comes from a bootstrap of the residuals with a fixed seed, widened
by Student's quantile over the normal one, since small tables look too sure without it. An error of
the dense frontier moves the leverages of many runs together, and is drawn as such. A study
that lacks a planned run decides nothing, and one without enough runs gives the reason.

    x    the axis under study, ln by default       z    ln of a second variable, `by`
    y    loss in nats, ln loss, or ln EL           optimum    x at the bottom of the parabola

    slope          y = group + b x                              b
    curvature      y = group + b x + c x^2                      c
    optimum        y = group + b x + c x^2                      exp(-b / 2c)
    drift          y = group + b x + b' x z + c x^2             -b' / 2c: ln optimum per unit of z
    shift          the same with z = 0 or 1                     -b' / 2c: ln ratio of the two optima
    interaction    y = group + b x + b' x z                     b'
    level          y = group                                    smallest or largest group mean
                   (and the smallest or largest slope, where each budget has its own)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from moe_leverage.analysis.bootstrap import LEVEL, student_ratio
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.gates import UNJUDGED
from moe_leverage.analysis.identification import NOT_IDENTIFIED, verdicts
from moe_leverage.audit import evidence
from moe_leverage.audit.claims import Measurement, check, require_arguments
from moe_leverage.paper import STUDY_BUDGETS_FLOPS
from moe_leverage.paths import DATA
from moe_leverage.rules import require

Array = npt.NDArray[np.float64]

FITS = DATA / "fits"
DRAWS = 2_000
PUBLISHED_AXIS = "published_leverage"  # of `evidence.with_columns`
SPARE_RUNS = 3  # runs beyond the number of coefficients, below which no interval is given
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Which runs, which columns and which statistic: the arguments a claim registers."""

    study: str | Sequence[str]
    statistic: str
    axis: str = ""
    response: str = "loss"
    scale: Literal["log", "linear"] = "log"
    by: str = ""
    within: str = "budget"
    each: str = ""  # "compute": one slope or level per budget; `pick` says which one counts
    pick: Literal["min", "max"] = "min"
    near: float = 0.0  # times the lowest loss of its budget and family, above which none is used
    over: str = ""  # a second swept variable: its best value is taken first
    where: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def studies(self) -> list[str]:
        """The names of the studies, one or several."""
        return [self.study] if isinstance(self.study, str) else list(self.study)

    @property
    def of_leverage(self) -> bool:
        """Whether EL has a part in it, for which there must be a dense frontier."""
        return any("leverage" in name for name in (self.response, self.axis, self.by))


Effect = Callable[[Array, "_Regression", Design], Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """How an effect follows from the coefficients, and which terms the regression has for it."""

    effect: Effect
    is_level: bool  # no x at all
    is_curved: bool  # x^2, the last of the terms
    is_bent: bool  # x^2 z, where there is a z


STATISTICS: dict[str, Statistic] = {}


def statistic(
    *names: str, is_level: bool = False, is_curved: bool = False, is_bent: bool = False
) -> Callable[[Effect], Effect]:
    """Register the effect (draws, k) of a statistic that claims know by these names."""

    def register(effect: Effect) -> Effect:
        for name in names:
            require(name not in STATISTICS, "statistic", name, "is already a statistic")
            STATISTICS[name] = Statistic(
                effect=effect, is_level=is_level, is_curved=is_curved, is_bent=is_bent
            )
        return effect

    return register


@partial(check, name="measured")
def measure(**arguments: Any) -> Measurement:
    """The effect that our runs show, or the reason why they show none.

    What the published law says below its own runs is said by us, not by the paper: an effect along
    it there is of another scale.
    """
    require_arguments(Design, arguments, "measured")
    design = Design(**arguments)
    known = f"must be one of {', '.join(STATISTICS)}"
    require(design.statistic in STATISTICS, "statistic", design.statistic, known)
    if lacking := evidence.shortfall(design.studies, design.response, design.axis):
        return Measurement(effect=None, detail=f"decided when complete: {lacking}")
    runs = evidence.runs(design.studies)
    if runs.empty:
        return Measurement(effect=None, detail=f"no finished run of {_names(design)}")
    _require_columns(runs, design)
    runs, num_unread = _select(evidence.with_response(runs, design.response), design)
    runs, alone = _varied(runs, design)
    fit, reason = _fit(runs, design)
    if fit is None:
        return Measurement(effect=None, detail=f"{reason} ({len(runs)} runs of {_names(design)})")
    scope = _scope(runs, design, num_unread, alone)
    statistic = STATISTICS[design.statistic].effect
    effects = statistic(fit.theta[None], fit, design)[0]
    shared = evidence.shared_error(runs, DRAWS) if design.response == "log_leverage" else 0.0
    draws = statistic(fit.draws(shared), fit, design)
    if not np.isfinite(effects).all() or np.mean(~np.isfinite(draws)) > (1 - LEVEL) / 2:
        return Measurement(effect=None, detail=f"no optimum is resolved by {scope}")
    effect, low, high = _picked(effects, np.where(np.isfinite(draws), draws, np.nan), design.pick)
    found = _measurement(effect, low, high, scope, design.studies, of_leverage=design.of_leverage)
    is_outside = design.axis == PUBLISHED_AXIS and evidence.is_below_the_paper(design.studies)
    return replace(found, is_of_another_scale=is_outside)


@check
def fitted(fit: str, coefficient: str, study: str | Sequence[str]) -> Measurement:
    """A coefficient of our own fit to these studies (data/fits) with its interval, if there is.

    One that the profile likelihood does not identify has no effect: a resample keeps to the minima
    that its fit has, while any value would do as well. One that is no exponent belongs to the
    budgets of its fit: of runs below the paper's it is of another scale.
    """
    studies = [study] if isinstance(study, str) else study
    found = _fitted(fit, coefficient, studies)
    is_below = coefficient != "exponent" and evidence.is_below_the_paper(studies)
    return replace(found, is_of_another_scale=is_below)


def _fitted(fit: str, coefficient: str, studies: Sequence[str]) -> Measurement:
    if lacking := evidence.shortfall(studies):
        return Measurement(effect=None, detail=f"decided when complete: {lacking}")
    path = FITS / f"{fit}.json"
    if not path.is_file():
        return Measurement(effect=None, detail=f"no fit {fit} of our runs yet")
    law = Fit.load(path)
    names = law.law.coefficient_names
    require(coefficient in names, "coefficient", coefficient, f"must be one of {', '.join(names)}")
    low, high = law.interval(LEVEL)[coefficient]
    detail = f"fit {fit} to {len(law.log_target)} points of our runs"
    if verdicts(FITS).get((fit, coefficient)) == NOT_IDENTIFIED:
        return Measurement(effect=None, detail=f"the data do not identify it: {detail}")
    return _measurement(float(getattr(law.law, coefficient)), low, high, detail, studies)


def _measurement(
    effect: float,
    low: float,
    high: float,
    detail: str,
    studies: Sequence[str],
    *,
    of_leverage: bool = True,
) -> Measurement:
    """An effect with the gates that keep it from deciding anything, if one does."""
    failing = evidence.failing_gates(studies, of_leverage=of_leverage)
    if failing:
        held = "" if failing == (UNJUDGED,) else "gates that fail: "
        detail = f"{held}{', '.join(failing)}; {detail}"
    return Measurement(effect=effect, low=low, high=high, detail=detail, gates=failing)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Regression:
    theta: Array  # coefficients, groups first
    inverse: Array  # pseudo-inverse of the design matrix
    fitted: Array
    residuals: Array  # scaled by their leverage
    num_groups: int

    def draws(self, shared: Array | float = 0.0) -> Array:
        """Coefficients of bootstrap samples of the residuals, shape (DRAWS, P).

        `shared` (DRAWS, n) is an error that the responses have in common, on top of their own.
        """
        generator = np.random.default_rng(SEED)
        picks = generator.integers(0, len(self.residuals), (DRAWS, len(self.residuals)))
        samples: Array = (self.fitted + self.residuals[picks]) @ self.inverse.T
        freedom = len(self.residuals) - len(self.theta)
        own = self.theta + student_ratio(freedom) * (samples - self.theta)
        return own + (np.broadcast_to(shared, picks.shape) @ self.inverse.T)


def _require_columns(runs: pd.DataFrame, design: Design) -> None:
    """Raise a ValueError if the design names a column that the runs do not have."""
    named = {name: getattr(design, name) for name in ("axis", "by", "over")}
    named["within"] = "" if design.within == "none" else design.within
    named |= {f"where.{column}": column for column in design.where}
    for name, column in named.items():
        require(not column or column in runs, name, column, f"no run of {_names(design)} has it")


def _select(runs: pd.DataFrame, design: Design) -> tuple[pd.DataFrame, int]:
    """Rows inside `where`, the best over `over` only; and how many have no response to use."""
    for column, (low, high) in design.where.items():
        runs = runs[runs[column].astype(float).between(low, high)]
    if design.near and len(runs):
        least = runs.groupby(["budget", "is_moe"])["loss_nats"].transform("min")
        runs = runs[runs["loss_nats"] <= design.near * least]
    columns = [name for name in (design.axis, design.by) if name]
    num_inside = len(runs)
    runs = runs.dropna(subset=["response", *columns])
    num_unread = num_inside - len(runs)
    if design.over and len(runs):
        own = [name for name in columns if name != "training_flops"]  # rounding moves it per run
        keys = ["budget", "is_moe", "seed", *own]
        best = runs.groupby(list(dict.fromkeys(keys)))["response"].idxmin()
        runs = runs.loc[best]
    return runs, num_unread


def _varied(runs: pd.DataFrame, design: Design) -> tuple[pd.DataFrame, list[str]]:
    """Runs of the groups that can have a slope of their own, and the groups that cannot.

    A group with one value along the axis says nothing of it; where none varies, all are kept, for
    `_fit` to refuse.
    """
    if not design.each or STATISTICS[design.statistic].is_level or runs.empty:
        return runs, []
    groups = _groups(runs, design)
    varies = runs.groupby(groups)[design.axis].transform("nunique") > 1
    if not varies.any():
        return runs, []
    alone = runs.loc[~varies].sort_values("training_flops")
    return runs[varies], list(dict.fromkeys(groups[alone.index]))


def _fit(runs: pd.DataFrame, design: Design) -> tuple[_Regression | None, str]:
    """Least squares of the response on group intercepts and the terms of the statistic."""
    if runs.empty:
        return None, "none of them can be used"
    matrix, num_groups = _matrix(runs, design)
    rank = np.linalg.matrix_rank(matrix)
    if rank < matrix.shape[1]:
        return None, "they do not vary enough along the axis"
    if len(runs) < matrix.shape[1] + SPARE_RUNS:
        return None, f"at least {matrix.shape[1] + SPARE_RUNS} are needed"
    response = runs["response"].to_numpy(dtype=float)
    inverse: Array = np.linalg.pinv(matrix).astype(np.float64)
    theta = inverse @ response
    fitted = matrix @ theta
    hat = np.clip(np.einsum("ij,ji->i", matrix, inverse), 0, 1 - 1e-9)
    residuals = (response - fitted) / np.sqrt(1 - hat)
    return _Regression(
        theta=theta, inverse=inverse, fitted=fitted, residuals=residuals, num_groups=num_groups
    ), ""


def _matrix(runs: pd.DataFrame, design: Design) -> tuple[Array, int]:
    """Group indicators, then the terms in x and z, both centred."""
    groups = pd.get_dummies(_groups(runs, design)).to_numpy(dtype=float)
    statistic = STATISTICS[design.statistic]
    if statistic.is_level:
        return groups, groups.shape[1]
    x = runs[design.axis].to_numpy(dtype=float)
    x = np.log(x) if design.scale == "log" else x
    if design.each:
        return np.hstack([groups, groups * x[:, None]]), groups.shape[1]
    terms = [x]
    if design.by:
        z = runs[design.by].to_numpy(dtype=float)
        z = np.log(z) - np.log(z).mean() if z.min() > 0 and z.max() > 1 else z
        terms += [x * z, x**2 * z] if statistic.is_bent else [x * z]
    if statistic.is_curved:
        terms.append(x**2)
    return np.column_stack([groups, *terms]), groups.shape[1]


def _groups(runs: pd.DataFrame, design: Design) -> pd.Series[str]:
    """The label of each run's intercept; what moderates the axis has intercepts of its own."""
    if design.within == "none":
        return pd.Series("all", runs.index)
    labels = runs[design.within].astype(str)
    if design.by and design.by != "training_flops":
        labels = labels + "/" + runs[design.by].astype(str)
    return labels


def _picked(effects: Array, draws: Array, pick: str) -> tuple[float, float, float]:
    """The smallest (largest) of several effects with the interval of the smallest (largest).

    The least of noisy slopes lies low whatever the true ones are. So the smallest is surely above
    a value when every effect is, and surely below it when one is after allowing for the choice
    among k of them (Bonferroni): its ends are the smallest of the ends, the upper ones at 1/k of
    the tail. One effect has its central interval.
    """
    tail, sign = (1 - LEVEL) / 2, 1.0 if pick == "min" else -1.0
    near = np.nanquantile(sign * draws, tail, axis=0).min()
    far = np.nanquantile(sign * draws, 1 - tail / draws.shape[1], axis=0).min()
    low, high = sorted((sign * float(near), sign * float(far)))
    return sign * float((sign * effects).min()), low, high


@statistic("slope")
def _slope(theta: Array, fit: _Regression, design: Design) -> Array:
    slopes = theta[:, fit.num_groups :]
    return slopes if design.each else slopes[:, :1]


@statistic("level", is_level=True)
def _level(theta: Array, fit: _Regression, design: Design) -> Array:
    return theta


@statistic("curvature", is_curved=True)
def _last(theta: Array, fit: _Regression, design: Design) -> Array:
    return theta[:, -1:]


@statistic("interaction")
def _second(theta: Array, fit: _Regression, design: Design) -> Array:
    return theta[:, fit.num_groups + 1, None]


@statistic("curvature_interaction", is_curved=True, is_bent=True)
def _third(theta: Array, fit: _Regression, design: Design) -> Array:
    return theta[:, fit.num_groups + 2, None]


@statistic("optimum", is_curved=True)
def _optimum(theta: Array, fit: _Regression, design: Design) -> Array:
    place = _bottom(theta[:, fit.num_groups], theta[:, -1])[:, None]
    return np.exp(place) if design.scale == "log" else place


@statistic("drift", "shift", is_curved=True)
def _moved(theta: Array, fit: _Regression, design: Design) -> Array:
    return _bottom(theta[:, fit.num_groups + 1], theta[:, -1])[:, None]


def _bottom(slope: Array, curvature: Array) -> Array:
    """Where the parabola is lowest; NaN where it opens downwards."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(curvature > 0, -slope / (2 * curvature), np.nan)


def _names(design: Design) -> str:
    return "the study " + " and ".join(design.studies)


def _scope(runs: pd.DataFrame, design: Design, num_unread: int, alone: Collection[str] = ()) -> str:
    """How many runs at which computes, and how far below the paper's budgets."""
    without = f", {num_unread} more outside the losses of the dense runs" if num_unread else ""
    if alone:
        without += f", without {', '.join(alone)} FLOPs, where one value is left"
    low, high = runs["training_flops"].min(), runs["training_flops"].max()
    gap = STUDY_BUDGETS_FLOPS[-1] / high
    return (
        f"{len(runs)} runs of {_names(design)}{without}, {low:.0e} to {high:.0e} FLOPs, "
        f"{gap:.0e} times below the paper's largest"
    )
