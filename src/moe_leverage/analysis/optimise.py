"""Fit one law to many weightings of one table at once: Huber loss on log residuals (Section 4.2.2).

Starts and bootstrap resamples are a leading axis of arrays, so one iteration moves all of them;
blocks of that axis that fit the cache are shared among threads.

    K   problems: starting points, resamples, folds or profile points
    n   rows of the table
    P   coefficients of the law

The step is quasi-Newton. Where residuals lie within delta the Gauss-Newton matrix is the curvature
of the Huber loss; outside it the loss is linear and that curvature vanishes, so the matrix is
blended with the one of iteratively reweighted least squares, which bounds the loss from above and
makes every full step safe. `damping` moves between them, per problem, with success.

Products of matrices are taken problem by problem: small enough that BLAS starts no threads of its
own, which would fight with ours.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moe_leverage.theory.law import Array, Inputs, Law

BLOCK_VALUES = 200_000  # derivatives held at once by a thread, 1.6 MB: the size of an L2 cache
MAX_ITERATIONS = 200
DECREASE_TOLERANCE = 1e-7  # relative decrease a full step would still bring
FIRST_DAMPING = 0.1
LEAST_GAIN = 1e-4  # share of the promised decrease that a step must bring to be taken
SMALLEST_BLEND = 1e-3  # share of the quadratic bound that always stays in the matrix
RIDGE = 1e-11  # on the scaled matrix, against coefficients that only their sum tells
FLATNESS = 1e-10  # curvature, over the largest, below which a coefficient barely moves
LARGEST_DAMPING = 1e10
LARGEST_STEP = 100.0  # of any coefficient: a flat one must not leave the range of floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Where each of K problems ended."""

    theta: Array  # (K, P)
    objective: Array  # (K,) weighted sum of the Huber loss
    converged: NDArray[np.bool_]  # (K,)
    iterations: NDArray[np.int64]  # (K,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One table and the law to be fitted to it."""

    law: type[Law]
    inputs: Inputs  # (n,) arrays
    log_target: Array  # (n,), or (K, n) where each problem has its own
    delta: float  # Huber threshold of the log residual

    def residuals(self, theta: Array) -> Array:
        """Ln law - ln target, (..., n)."""
        with np.errstate(all="ignore"):
            return self.law.log_value(theta, self.inputs) - self.log_target

    def part(self, rows: slice | NDArray[np.bool_]) -> Problem:
        """The problems numbered `rows`."""
        if self.log_target.ndim == 1:
            return self
        return replace(self, log_target=self.log_target[rows])

    def pull(self, residuals: Array) -> Array:
        """The slope of the Huber loss: r within delta, delta with the sign of r outside."""
        if self.delta == np.inf:
            return residuals
        pull = np.minimum(residuals, self.delta)
        return np.maximum(pull, -self.delta, out=pull)

    def huber(self, residuals: Array) -> Array:
        """r^2 / 2 within delta, delta (|r| - delta / 2) outside."""
        return _huber(residuals, self.pull(residuals))


def minimise(
    problem: Problem,
    theta: Array,
    *,
    weights: Array | None = None,
    fixed: NDArray[np.int64] | None = None,
    most: int = MAX_ITERATIONS,
) -> Solution:
    """Minimise sum_i w_i huber(r_i) from every row of theta (K, P), under row weights (K, n).

    `fixed` (K,) numbers the coefficient of each problem that keeps its starting value; `most` is
    the number of iterations after which a problem stays where it is.

    >>> from moe_leverage.theory.laws import PowerLaw
    >>> compute = np.array([1e12, 1e13, 1e14])
    >>> exact = Problem(law=PowerLaw, inputs={"compute": compute},
    ...     log_target=np.log(PowerLaw(9.0, -0.1)(compute)), delta=0.1)
    >>> PowerLaw.from_theta(minimise(exact, np.zeros((1, 2))).theta).round(6).tolist()
    [[9.0, -0.1]]
    """
    count, rows = len(theta), problem.log_target.shape[-1]
    weights = np.ones((1, rows)) if weights is None else weights
    size = max(1, BLOCK_VALUES // (rows * theta.shape[1]))
    blocks = [slice(i, i + size) for i in range(0, max(count, 1), size)]

    def solve(block: slice) -> Solution:
        own = weights if len(weights) == 1 else weights[block]
        held = None if fixed is None else fixed[block]
        with np.errstate(all="ignore"):  # a step too far may overflow: its value is then refused
            return _solve_block(problem.part(block), np.array(theta[block], float), own, held, most)

    if len(blocks) == 1:
        return solve(blocks[0])
    with ThreadPoolExecutor(min(len(blocks), os.cpu_count() or 1)) as pool:
        parts = list(pool.map(solve, blocks))
    return Solution(
        theta=np.concatenate([part.theta for part in parts]),
        objective=np.concatenate([part.objective for part in parts]),
        converged=np.concatenate([part.converged for part in parts]),
        iterations=np.concatenate([part.iterations for part in parts]),
    )


def _solve_block(
    problem: Problem, theta: Array, weights: Array, fixed: NDArray[np.int64] | None, most: int
) -> Solution:
    """Move all problems until each settles; the first axis of `state` holds those still moving."""
    count = len(theta)
    final, objective = theta.copy(), np.full(count, np.inf)
    converged, iterations = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64)
    left = np.arange(count)
    state = _State(problem, theta, weights)
    for iteration in range(1, most + 1):
        settled = state.advance(problem, weights, fixed)
        leave = settled | (state.damping > LARGEST_DAMPING) | ~np.isfinite(state.value)
        leave |= iteration == most
        if leave.any():
            out = left[leave]
            final[out], objective[out] = state.theta[leave], state.value[leave]
            converged[out], iterations[out] = settled[leave], iteration
            left = left[~leave]
            state.keep(~leave)
            problem = problem.part(~leave)
            weights = weights if len(weights) == 1 else weights[~leave]
            fixed = None if fixed is None else fixed[~leave]
        if len(left) == 0:
            break
    return Solution(theta=final, objective=objective, converged=converged, iterations=iterations)


class _State:
    """Where the problems that still move stand."""

    def __init__(self, problem: Problem, theta: Array, weights: Array) -> None:
        self.theta = theta
        same = len(theta) > 1 and problem.log_target.ndim == 1 and bool((theta == theta[0]).all())
        self.residuals, self.slopes = _linearise(problem, theta[:1] if same else theta)
        if same:  # resamples start from one fit: what they share is computed once
            self.residuals = np.repeat(self.residuals, len(theta), axis=0)
            self.slopes = np.broadcast_to(self.slopes, (len(theta), *self.slopes.shape[1:]))
        self.pull = problem.pull(self.residuals)
        self.value = _total(self.residuals, self.pull, weights)
        self.damping = np.full(len(theta), FIRST_DAMPING)
        self.growth = np.full(len(theta), 2.0)  # factor on the damping at the next failure

    def advance(
        self, problem: Problem, weights: Array, fixed: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """Try one step of every problem; say which had nothing left to gain."""
        step, promised = self.step(problem.delta, weights, fixed)
        residuals, slopes = _linearise(problem, self.theta + step)
        pull = problem.pull(residuals)
        value = _total(residuals, pull, weights)
        gain = np.where(promised > 0, (self.value - value) / promised, 0.0)
        # `tiny` for an exact fit, whose value is 0
        settled = promised <= DECREASE_TOLERANCE * self.value + np.finfo(float).tiny
        settled &= np.isfinite(self.value)
        # the last step of a settled problem is taken as well, but only if it does no harm
        better = (gain > LEAST_GAIN) | (settled & (value <= self.value))
        if better.all():  # as mostly: whole arrays change hands instead of being copied row by row
            self.theta, self.value = self.theta + step, value
            self.residuals, self.pull, self.slopes = residuals, pull, slopes
        else:
            # a row that stands for all of them, as at the start, must be copied to be written to
            self.slopes = np.array(self.slopes) if self.slopes.strides[0] == 0 else self.slopes
            self.theta[better] += step[better]
            self.value[better] = value[better]
            self.residuals[better], self.slopes[better] = residuals[better], slopes[better]
            self.pull = problem.pull(self.residuals)
        # Damp less where the model kept its promise, more where it did not, and after several
        # failures in a row ever faster (Nielsen's rule for Levenberg-Marquardt).
        trusted = np.where(gain > 0.7, 0.1, np.where(gain > 0.2, 0.5, 2.0))
        self.damping = self.damping * np.where(better, trusted, self.growth)
        self.growth = np.where(better, 2.0, 2.0 * self.growth)
        return np.asarray(settled)

    def step(
        self, delta: float, weights: Array, fixed: NDArray[np.int64] | None
    ) -> tuple[Array, Array]:
        """The next step of each problem and the decrease its quadratic model promises."""
        slopes = self.slopes
        if delta == np.inf:  # least squares
            curvature = np.broadcast_to(weights, self.residuals.shape)
        else:
            # beyond delta, 1 is the quadratic that bounds the loss from above, 0 is Gauss-Newton
            blend = np.minimum(np.maximum(self.damping, SMALLEST_BLEND), 1.0)[:, None]
            curvature = self.pull / self.residuals
            curvature *= blend
            np.copyto(curvature, 1.0, where=self.pull == self.residuals)
            curvature *= weights
        gradient = (slopes @ (weights * self.pull)[..., None])[..., 0]
        matrix = _weighted_squares(slopes, curvature)
        if fixed is not None:
            own = np.arange(len(fixed))
            gradient[own, fixed], matrix[own, fixed], matrix[own, :, fixed] = 0.0, 0.0, 0.0
        # One problem that overflowed must not keep `solve` from the others: its step becomes 0.
        if not np.isfinite(matrix.sum() + gradient.sum()):  # seldom: looked at one by one
            sound = np.isfinite(matrix).all((-2, -1)) & np.isfinite(gradient).all(-1)
            matrix[~sound], gradient[~sound] = 0.0, 0.0
        # Coefficients differ by decades: scaled to a diagonal of ones they can be damped alike.
        diagonal = np.einsum("kii->ki", matrix)  # a view, written to below
        least = FLATNESS * diagonal.max(-1, keepdims=True) + np.finfo(float).tiny
        scale = 1 / np.sqrt(np.maximum(diagonal, least))
        matrix *= scale[:, :, None] * scale[:, None, :]
        diagonal[...] = 1 + RIDGE + 1e-3 * self.damping[:, None]  # 1 already, but where flat
        gradient *= scale
        step = -np.linalg.solve(matrix, gradient[..., None])[..., 0]
        # a step cut to this share of itself still brings (share - share^2 / 2) of the whole's 1 / 2
        share = LARGEST_STEP / np.maximum(np.abs(step * scale).max(-1), LARGEST_STEP)
        promised = -share * (1 - share / 2) * (step * gradient).sum(-1)
        return share[:, None] * step * scale, promised

    def keep(self, stay: NDArray[np.bool_]) -> None:
        """Drop the problems that are done."""
        self.theta, self.value = self.theta[stay], self.value[stay]
        self.residuals, self.pull = self.residuals[stay], self.pull[stay]
        is_shared = self.slopes.strides[0] == 0  # by all: of a law that is linear, or at the start
        self.slopes = self.slopes[: int(stay.sum())] if is_shared else self.slopes[stay]
        self.damping, self.growth = self.damping[stay], self.growth[stay]


def _weighted_squares(slopes: Array, weights: Array) -> Array:
    """sum_n w_n slopes_n slopes_n^T of each problem, (K, P, P)."""
    if len(slopes) > 1 and slopes.strides[0] == 0:  # the same throughout: squared once
        squares = slopes[0][:, None, :] * slopes[0][None, :, :]
        summed: Array = weights[:, None, :] @ squares.reshape(-1, squares.shape[-1]).T
        return summed.reshape(-1, *squares.shape[:2])
    return np.asarray((slopes * weights[:, None, :]) @ np.swapaxes(slopes, -1, -2))


def _linearise(problem: Problem, theta: Array) -> tuple[Array, Array]:
    """Residuals (K, n) and their derivatives (K, P, n)."""
    log_value, gradient = problem.law.log_value_and_gradient(theta, problem.inputs)
    return log_value - problem.log_target, np.swapaxes(gradient, -1, -2)


def _huber(residuals: Array, pull: Array) -> Array:
    """The Huber loss by its slope p, p (r - p / 2)."""
    height = np.multiply(pull, -0.5)
    height += residuals
    height *= pull
    return height


def _total(residuals: Array, pull: Array, weights: Array) -> Array:
    height = _huber(residuals, pull)
    height *= weights
    total = height.sum(-1)
    return np.where(np.isfinite(total), total, np.inf)
