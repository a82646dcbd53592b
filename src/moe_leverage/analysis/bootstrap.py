"""Resamples of clusters, and the intervals and covariance of a fit that follow from its rows.

A law may have several minima that its rows cannot tell apart; resamples start at each of them.

The bootstrap draws a weight for each cluster from the exponential distribution (Rubin, 1981), which
unlike drawing clusters with replacement never loses the only run at a budget. For m clusters the
deviations from the estimate are widened by sqrt(m / (m - P)) and by the ratio of Student's quantile
at m - P degrees of freedom to the normal one: without both, small tables look too sure.

    m, P    clusters and coefficients
    theta   coefficients as a fit sees them (module `law`)
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from moe_leverage.analysis.optimise import Problem, Solution, minimise
from moe_leverage.theory.law import Array

Groups = NDArray[np.int64]  # the cluster number of each row

LEVEL = 0.90  # of every interval unless another is asked for
NORMAL_95 = NormalDist().inv_cdf(
    (1 + LEVEL) / 2
)  # of the normal: LEVEL lies within it on both sides
MOST_SUMMED = 1000  # degrees of freedom whose series is summed: beyond, an expansion is exact
HALVINGS = 60
SMALL_ROOM = 1e-6
APART = 0.5  # in a coefficient over 1 + its size: minima this far apart are different ones
MOST_MINIMA = 8
TRIAL_ITERATIONS = 20  # after which only the lowest of several beginnings goes on
MOST_BENT = 300  # rows at which it is seen how far a law bends: more tell no more
# Widening a sample by a factor should move the law's values by that factor. A law bends: up to this
# many times as far is let pass, beyond it the sample stays as it was drawn.
MOST_BEND = 1.5


def draw_weights(groups: Groups, resamples: int, generator: np.random.Generator) -> Array:
    """Row weights (resamples, n): exponential, one draw a cluster."""
    drawn = generator.exponential(size=(resamples, int(groups.max()) + 1))
    return np.asarray(drawn[:, groups])


def distinct_minima(ended: Solution, num_rows: int) -> Array:
    """Where starts ended that the data cannot tell from the best, far apart, the best first.

    A law may have several minima nearly as deep, such as Equation 13 where EL hardly depends on A.
    An interval that saw one of them alone would be too narrow.
    """
    # Of n normal residuals: where n ln(objective) has risen by z^2 the likelihood ratio rejects.
    limit = ended.objective.min() * np.exp(NORMAL_95**2 / num_rows)
    order = np.argsort(ended.objective)
    near = ended.theta[order[ended.objective[order] <= limit]]
    chosen: Array = near[:1]
    while len(chosen) < MOST_MINIMA:
        # the one farthest from all chosen: many starts end in the same few places
        gaps = _apart(near, chosen).min(axis=-1)
        if gaps.max() < APART:
            break
        chosen = np.concatenate([chosen, near[[gaps.argmax()]]])
    return chosen


def _apart(samples: Array, minima: Array) -> Array:
    """How far each sample lies from each minimum, in the coefficient that differs most."""
    apart: Array = (np.abs(samples[:, None] - minima) / (1 + np.abs(minima))).max(axis=-1)
    return apart


def resampled(problem: Problem, minima: Array, weights: Array) -> Solution:
    """What each row of weights reaches from the minimum that leads lowest."""
    begin = np.repeat(minima[:1], len(weights), axis=0)
    if len(minima) > 1:  # only the most promising of them is followed to its end
        tried = [
            minimise(
                problem,
                np.repeat(entry[None], len(weights), axis=0),
                weights=weights,
                most=TRIAL_ITERATIONS,
            )
            for entry in minima
        ]
        lowest = np.argmin([entry.objective for entry in tried], axis=0)
        begin = np.stack([entry.theta for entry in tried])[lowest, np.arange(len(weights))]
    return minimise(problem, begin, weights=weights)


def widened(problem: Problem, samples: Array, minima: Array, factor: float) -> Array:
    """Bootstrap deviations made up for few clusters, except where the law would lose its meaning.

    Each from the nearest minimum. A sample stays as it is where the widened one leaves the domain
    of the law, as where A_start passes A_max, or the neighbourhood of its minimum: coefficients
    that trade off against each other do so along a curve, and a straight line leaves it.
    """
    # from the best minimum alone, samples of another would be thrown far from both
    centres = minima[_apart(samples, minima).argmin(axis=-1)]
    wide = centres + factor * (samples - centres)
    step = -(-problem.log_target.shape[-1] // MOST_BENT)
    inputs = {name: column[::step] for name, column in problem.inputs.items()}
    middle, drawn, moved = (
        np.asarray(problem.law.log_value(theta, inputs)) for theta in (centres, samples, wide)
    )
    with np.errstate(invalid="ignore"):  # outside its domain a law is not a number: not sound
        reach = MOST_BEND * factor * np.abs(drawn - middle).max(axis=-1, keepdims=True)
        is_sound = np.abs(moved - middle).max(axis=-1, keepdims=True) <= reach
    return np.where(is_sound, wide, samples)


def small_sample_factor(count: int, size: int) -> float:
    """sqrt(m / (m - P)), the correction of standard errors for the coefficients fitted."""
    return float(np.sqrt(count / max(count - size, 1)))


def student_ratio(freedom: int) -> float:
    """Student's over the normal quantile at LEVEL: how much wider few degrees of freedom are.

    >>> round(student_ratio(1), 3), round(student_ratio(30), 3)
    (3.838, 1.032)
    """
    return student_quantile(freedom, LEVEL) / NORMAL_95


def student_quantile(freedom: int, level: float, room: float = math.inf) -> float:
    """How far Student's t lies from 0 with probability `level`, at whole degrees of freedom.

    With `room` for what is estimated from the truth up to an end, in standard errors: an estimate
    x beyond it stays there, and lies off the truth by the root of x^2 - (x - room)^2, so that the
    quantile falls towards the one of one side (Feldman and Cousins, 1998, with Student's t).

    >>> round(student_quantile(2, 0.9), 6), round(student_quantile(2, 0.9, room=0.0), 6)
    (2.919986, 1.885618)
    """
    two_sided = _two_sided(freedom, level)
    if room >= two_sided:
        return two_sided
    low, high = _two_sided(freedom, 2 * level - 1), two_sided
    if room * two_sided < SMALL_ROOM:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        up = middle if middle <= room else (middle**2 + room**2) / (2 * room)
        share = (_share(middle, freedom) + _share(up, freedom)) / 2
        low, high = (middle, high) if share < level else (low, middle)
    return low


@cache
def _two_sided(freedom: int, level: float) -> float:
    """Where |t| lies within, with probability `level`.

    Written out, since scipy's takes a third of a second to load, which every fit would pay.
    """
    if freedom > MOST_SUMMED:
        z = NormalDist().inv_cdf((1 + level) / 2)
        terms = (  # Abramowitz and Stegun (1964), 26.7.5
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return float(sum(term / freedom**power for power, term in enumerate(terms)))
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _share(distance: float, freedom: int) -> float:
    """How probable it is that |t| < distance."""
    if freedom > MOST_SUMMED:
        return math.erf(distance / math.sqrt(2))
    return _within(math.atan(distance / math.sqrt(freedom)), freedom)


def _within(angle: float, freedom: int) -> float:
    """How probable it is that |t| < sqrt(freedom) tan(angle) (26.7.3 and 26.7.4, ibid.)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for count in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= cosine**2 * (count - 1) / count
    if freedom % 2:
        return 2 / math.pi * (angle + sine * total)
    return sine * total


def central_interval(samples: Array, level: float) -> Array:
    """Ends (m, 2) of the central interval of each column of samples (resamples, m)."""
    shares = [(1 - level) / 2, (1 + level) / 2]
    ends = np.quantile(samples, shares, axis=0, method="nearest")  # some samples are infinite
    return np.swapaxes(ends, 0, -1)


def covariance(problem: Problem, theta: Array, groups: Groups) -> Array:
    """Sandwich covariance H^-1 (sum of squared cluster scores) H^-1, H the Huber curvature."""
    residuals = problem.residuals(theta)
    slopes = problem.law.log_gradient(theta, problem.inputs)
    inside = np.abs(residuals) <= problem.delta
    curvature = (slopes * inside[:, None]).T @ slopes
    scores = np.zeros((groups.max() + 1, len(theta)))
    pull = np.clip(residuals, -problem.delta, problem.delta)
    np.add.at(scores, groups, slopes * pull[:, None])
    scale = 1 / np.sqrt(np.maximum(np.diag(curvature), 1e-300))  # the columns differ by decades
    inverse = np.linalg.pinv(curvature * np.outer(scale, scale), hermitian=True)
    inverse *= np.outer(scale, scale)
    widening = small_sample_factor(len(scores), len(theta)) ** 2
    found: Array = widening * inverse @ (scores.T @ scores) @ inverse
    return found
