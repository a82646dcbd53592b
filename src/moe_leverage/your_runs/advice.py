"""Which further run would shorten the interval of the answer most, from the fit's own leverage.

    EL      efficiency leverage at the point that the answer speaks of
    s_i     how far ln EL moves when the loss behind point i moves by its standard error
    g, S    gradient of a law at a run, and the covariance of its coefficients

The frontier's interval is the root of the sum of s_i^2: another seed of point i, of n so far, takes
s_i^2 / (n + 1) from it. An interval by a fitted law with variance g0^T S g0 loses
(g0^T S g)^2 / (sigma^2 + g^T S g) by a run with gradient g (Sherman and Morrison, 1950).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import student_ratio
from moe_leverage.analysis.dense_frontier import frontier_compute
from moe_leverage.analysis.envelope import Envelope
from moe_leverage.analysis.findings import Findings
from moe_leverage.analysis.leverage import Lack, Leverage
from moe_leverage.analysis.points import family_name
from moe_leverage.theory.law import Array
from moe_leverage.theory.rivals import ChinchillaLaw
from moe_leverage.your_runs.answer import is_optimal, main_point

LEAST_SHORTER = 0.01  # of the interval: less is not worth a word
MIN_DENSE = 4  # budgets that a curve with a floor needs
RATIOS = np.geomspace(5.0, 320.0, 13)  # tokens a parameter of the runs that are weighed
BUDGETS = np.array([0.1, 0.3, 1.0])  # of theirs over the largest dense one: none costs more
STEP = 1e-4  # of a coefficient, for the slope of ln C*
LACKING: dict[Lack, list[str]] = {
    "": [],
    "dense": ["train dense models at three or more budgets"],
    "mixtures": ["train a mixture inside the range of the dense losses"],
}


def next_runs(found: Findings) -> list[str]:
    """What to train next, in words, the most useful first."""
    measured = found.leverage
    if measured is None:
        return LACKING[found.lacks]
    dense, advice = measured.best[~measured.best["is_moe"]], []
    head = main_point(found)
    if head is not None and np.isfinite(measured.noise):
        advice += _most_telling(measured, head, dense)
    beyond = measured.points["at_least"].notna() & (measured.points["estimator"] == "frontier")
    is_open = head is not None and np.isinf(head["high"])
    if beyond.any() or is_open:
        why = (
            f"{int(beyond.sum())} mixture(s) are better than every dense run, and have only a bound"
            if beyond.any() else "the interval of the answer has no upper end before it"
        )  # fmt: skip
        advice.append(f"a dense model at {3 * dense['compute'].max():.2g} FLOPs: {why}")
    if len(dense) < MIN_DENSE:
        count = MIN_DENSE - len(dense)
        advice.append(f"dense models at {count} more budget(s): a curve needs {MIN_DENSE}")
    if not measured.noise_is_between_seeds:
        advice.append("a second seed of three settings: the noise is now a guess from residuals")
    return advice


def _most_telling(measured: Leverage, head: pd.Series, dense: pd.DataFrame) -> list[str]:
    """The run that shortens the interval of the answer most, where one does."""
    if is_optimal(head):
        return _by_the_law(measured, head, dense)
    return _by_the_frontier(measured, head, dense)


def _by_the_frontier(measured: Leverage, head: pd.Series, dense: pd.DataFrame) -> list[str]:
    moe = measured.best[measured.best["is_moe"]]
    own = moe[(moe["compute"] == head["compute"]) & (moe["loss"] == head["loss"])].head(1)
    points = pd.concat([dense, own], ignore_index=True)
    seeds = points["num_seeds"].to_numpy(float)
    part = squared_shares(measured, points)
    if part.sum() <= 0:
        return []
    left = 1 - part / (seeds + 1) / part.sum()
    place = int(left.argmin())
    fewer = student_ratio(measured.noise_freedom + 1) / student_ratio(measured.noise_freedom)
    shorter = 1 - float(np.sqrt(left[place])) * fewer
    if shorter < LEAST_SHORTER:
        return []
    point = points.iloc[place]
    row = f" ({point['row']})" if "row" in points else ""
    what = f"another seed of {family_name(point)} at {point['compute']:.3g} FLOPs{row}"
    why = f"of all repeats it shortens the interval of the answer most, by about {shorter:.0%}"
    if 1 - fewer > LEAST_SHORTER:
        why += (
            f", of which {1 - fewer:.0%} as the noise then rests on {measured.noise_freedom + 1} "
            "degrees of freedom"
        )
    return [f"{what}: {why}"]


def squared_shares(measured: Leverage, points: pd.DataFrame) -> Array:
    """s_i^2 of the dense points and, last, of the mixture that the answer speaks of."""
    error = measured.noise / np.sqrt(points["num_seeds"].to_numpy(float))
    moved = np.log(points["loss"].to_numpy(float)) + np.concatenate(
        [np.diag(error), -np.diag(error)]
    )
    compute = points["compute"].to_numpy(float)[:-1]
    reached = frontier_compute(compute, moved[:, :-1], moved[:, -1:], measured.floor)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        up, down = np.log(reached).reshape(2, -1)
        shift = (up - down) / 2
    return np.where(np.isfinite(shift), shift, 0.0) ** 2  # beyond an end there is no slope


def _by_the_law(measured: Leverage, head: pd.Series, dense: pd.DataFrame) -> list[str]:
    envelope = measured.envelope
    assert envelope is not None
    law = envelope.fit
    wanted, sigma = np.log([head["loss"]]), envelope.noise[0]
    steps = STEP * np.eye(len(law.theta))
    slope = np.array([
        (envelope.log_compute(wanted, law.theta + step)
         - envelope.log_compute(wanted, law.theta - step))[0]
        for step in steps
    ]) / (2 * STEP)  # fmt: skip
    budget, ratio = (a.ravel() for a in np.meshgrid(BUDGETS * dense["compute"].max(), RATIOS))
    size = np.sqrt(budget / (envelope.kappa * ratio))
    runs = ChinchillaLaw.log_gradient(law.theta, {"num_params": size, "num_tokens": ratio * size})
    before = slope @ law.covariance @ slope + (sigma / _steepness(envelope, wanted)) ** 2
    pull = runs @ law.covariance
    gain = (pull @ slope) ** 2 / (sigma**2 + (pull * runs).sum(axis=1))
    if not np.isfinite(gain).all() or not before > 0:
        return []
    place = int(gain.argmax())
    shorter = 1 - float(np.sqrt(max(1 - gain[place] / before, 0.0)))
    if shorter < LEAST_SHORTER:
        return []
    return [
        f"a dense model of {size[place]:.2g} parameters on {ratio[place] * size[place]:.2g} tokens "
        f"({budget[place]:.2g} FLOPs): of dense runs that cost no more than yours it shortens the "
        f"interval over the optimum most, by about {shorter:.0%}"
    ]


def _steepness(envelope: Envelope, wanted: Array) -> float:
    """How fast ln L* falls with ln C there: what an error of the mixture's own loss is worth."""
    ends = envelope.log_compute(np.array([wanted[0] + STEP, wanted[0] - STEP]))
    return float(2 * STEP / (ends[1] - ends[0]))
