"""Resamples of clusters, and the intervals and covariance of a fit that follow from its rows.

The bootstrap draws a weight for each cluster from the exponential distribution (Rubin, 1981), which
unlike drawing clusters with replacement never loses the only run at a budget. For m clusters the
deviations from the estimate are widened by sqrt(m / (m - P)) and by the ratio of Student's quantile
at m - P degrees of freedom to the normal one: without both, small tables look too sure.

    m, P    clusters and coefficients
    theta   coefficients as a fit sees them (module `law`)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_leverage.statistics.optimise import Problem
from moe_leverage.theory.law import Array

Groups = NDArray[np.int64]  # the cluster number of each row

LEVEL = 0.90  # of every interval unless another is asked for
NORMAL_95 = 1.6448536  # quantile of the normal distribution: 90 % lie within it on both sides


def draw_weights(groups: Groups, resamples: int, generator: np.random.Generator) -> Array:
    """Row weights (resamples, n): exponential, one draw a cluster."""
    drawn = generator.exponential(size=(resamples, int(groups.max()) + 1))
    return np.asarray(drawn[:, groups])


def small_sample_factor(count: int, size: int) -> float:
    """sqrt(m / (m - P)), the correction of standard errors for the coefficients fitted."""
    return float(np.sqrt(count / max(count - size, 1)))


def student_ratio(freedom: int) -> float:
    """Student's over the normal 95 % quantile, by the expansion of Fisher and Cornish (1960)."""
    z2 = NORMAL_95**2
    return 1 + (z2 + 1) / (4 * freedom) + (5 * z2**2 + 16 * z2 + 3) / (96 * freedom**2)


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
