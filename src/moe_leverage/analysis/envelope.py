"""The dense frontier that optimal sizes would give, from a fitted L(N, D) (Section 2.3).

A dense run with more tokens a parameter than is optimal has a higher loss than its compute could
buy, and every leverage read from it is too high. Where dense sizes and tokens vary, the law tells
what the optimum at each compute would reach.

    N, D    parameters and training tokens
    kappa   training FLOPs over N D: 6 but for conventions
    L*(C)   the least of L(N, D) with kappa N D = C
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moe_leverage.analysis.bootstrap import LEVEL, central_interval
from moe_leverage.analysis.fitted import Fit
from moe_leverage.analysis.fitting import UnidentifiedError, fit
from moe_leverage.analysis.points import points_of
from moe_leverage.theory.law import Array
from moe_leverage.theory.rivals import ChinchillaLaw

MIN_RATIO_RANGE = 3.0  # of tokens over parameters, below which the optimum is not told
GRID_DECADES, GRID_POINTS = 2.0, 241  # beyond the runs, and of compute
USUAL_RATIOS = (8.0, 60.0)  # tokens a parameter that cost little: by Hoffmann et al. about 20
ELSEWHERE = ChinchillaLaw(1.82, 482.0, 2085.0, 0.3478, 0.3658)  # Besiroglu et al. (2024), Table 1
MOST_ROWS = 4000  # of a fit: more tell no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """L*(C) of the dense runs, with the samples of its fit."""

    fit: Fit
    kappa: float

    def log_compute(self, log_loss: Array, theta: Array | None = None) -> Array:
        """Ln of the least compute for log losses (n,); inf below the floor.

        By the fitted coefficients, or by others.
        """
        grid, own = self._grid(), self.fit.theta if theta is None else theta
        heights = optimal_log_loss(own[None], grid / self.kappa)[0]
        return np.asarray(np.interp(-log_loss, -heights, np.log(grid), right=np.inf))

    def _grid(self) -> Array:
        """Computes from far below the runs to far beyond them."""
        low, high = self.fit.law.domain["num_params"]
        least, most = self.fit.law.domain["num_tokens"]
        reach = 10.0**GRID_DECADES
        ends = (self.kappa * low * least / reach, self.kappa * high * most * reach)
        return np.geomspace(*ends, GRID_POINTS)

    @property
    def noise(self) -> tuple[float, int]:
        """Standard deviation of ln loss about the law, and its degrees of freedom."""
        spread, freedom = self.fit.residuals, len(self.fit.residuals) - len(self.fit.theta)
        return float(np.sqrt((spread**2).sum() / freedom)), freedom

    def interval(self, log_loss: Array, noise: float, seed: int = 0) -> Array:
        """Ends (n, 2) of the interval of ln C*(L), for log losses that bear this noise."""
        drawn = np.random.default_rng(seed).standard_normal((len(self.fit.samples), len(log_loss)))
        return central_interval(self._drawn(log_loss + noise * drawn), LEVEL)

    def _drawn(self, log_losses: Array) -> Array:
        """Ln C* (B, n) of each sample at log losses of its own (B, n)."""
        grid = self._grid()
        heights = optimal_log_loss(self.fit.samples, grid / self.kappa)
        pairs = zip(log_losses, heights, strict=True)
        return np.stack([np.interp(-w, -row, np.log(grid), right=np.inf) for w, row in pairs])


def optimal_log_loss(theta: Array, product: Array) -> Array:
    """Ln L* (B, m) of laws theta (B, 5) at N D = product (m,), from the closed form of N*.

    >>> law = np.array([np.log([1.69, 406.4, 410.7]).tolist() + [0.34, 0.28]])
    >>> float(np.exp(optimal_log_loss(law, np.array([1e21])))[0, 0].round(3))
    2.175
    """
    floor, a, b = np.exp(np.clip(theta[:, :3], -700, 700)).T[:, :, None]
    alpha, beta = np.maximum(theta[:, 3:].T, 1e-3)[:, :, None]
    log_n = (np.log(alpha * a / (beta * b)) + beta * np.log(product)) / (alpha + beta)
    log_d = np.log(product) - log_n
    return np.asarray(np.log(floor + a * np.exp(-alpha * log_n) + b * np.exp(-beta * log_d)))


def fit_envelope(dense: pd.DataFrame, *, resamples: int, seed: int) -> Envelope:
    """The envelope of dense runs; UnidentifiedError where sizes and tokens do not tell it."""
    sized = with_sizes(dense)
    ratio = sized["num_tokens"] / sized["num_params"]
    spread = float(ratio.max() / ratio.min())
    if spread < MIN_RATIO_RANGE:
        raise UnidentifiedError(
            f"tokens over parameters = {ratio.min():.3g} to {ratio.max():.3g}: the optimum needs "
            f"a range of {MIN_RATIO_RANGE:g} times"
        )
    if len(sized) > MOST_ROWS:
        sized = sized.sample(MOST_ROWS, random_state=seed)
    clusters = "run_id" if "run_id" in sized else ""
    fitted = fit(ChinchillaLaw, sized, "loss", clusters=clusters, resamples=resamples, seed=seed)
    product = sized["num_params"] * sized["num_tokens"]
    return Envelope(fit=fitted, kappa=float(np.exp(np.log(sized["compute"] / product).median())))


def with_sizes(dense: pd.DataFrame) -> pd.DataFrame:
    """Dense runs with `num_params`; UnidentifiedError where sizes or tokens are not known."""
    size = next((name for name in ("active_params", "total_params") if name in dense), "")
    if not size or "num_tokens" not in dense or dense[[size, "num_tokens"]].isna().any(axis=None):
        raise UnidentifiedError("sizes or tokens of the dense runs: not in the table")
    return dense.assign(num_params=dense[size])


def usual_excess(dense: pd.DataFrame) -> tuple[float, float]:
    """Median tokens a parameter of dense runs, and their compute over the optimum's, elsewhere.

    The second is by the law of Besiroglu et al. (2024): what to expect where the runs cannot tell.
    """
    sized = with_sizes(dense)
    ratio = float((sized["num_tokens"] / sized["num_params"]).median())
    inputs = {name: sized[name].to_numpy(float) for name in ChinchillaLaw.inputs}
    theta = ChinchillaLaw.to_theta(ELSEWHERE.coefficients)
    product = inputs["num_params"] * inputs["num_tokens"]
    grid = np.geomspace(product.min() / 1e3, product.max(), GRID_POINTS)
    heights = optimal_log_loss(theta[None], grid)[0]
    needed = np.interp(-ChinchillaLaw.log_value(theta, inputs), -heights, np.log(grid))
    return ratio, float(np.exp(np.median(np.log(product) - needed)))


def optimal_points(frontier: pd.DataFrame, envelope: Envelope, noise: float) -> pd.DataFrame:
    """Leverage over the optimum at the points of the dense frontier, as rows of an estimator."""
    log_loss = np.log(frontier["loss"].to_numpy(float))
    own = np.log(frontier["compute"].to_numpy(float))
    value = envelope.log_compute(log_loss)
    ends = envelope.interval(log_loss, noise) - own[:, None]
    reached = np.exp(np.where(np.isfinite(value), value, np.nan) - own)
    first, last = (
        np.log(envelope.kappa * np.multiply(*ends))
        for ends in zip(*(envelope.fit.law.domain[n] for n in ("num_params", "num_tokens")),
                        strict=True)
    )  # fmt: skip
    with np.errstate(over="ignore"):
        low, high = np.exp(ends).T
    return points_of(
        frontier, "optimal frontier", efficiency_leverage=reached,
        low=np.where(np.isnan(reached), np.nan, low),
        high=np.where(np.isnan(reached), np.nan, high),
        extrapolated=(value < first) | (value > last),
    )  # fmt: skip


def frontier_warnings(
    frontier: pd.DataFrame, optimal: pd.DataFrame, dense: pd.DataFrame, envelope: Envelope
) -> list[str]:
    """How far the dense runs are off, where the two frontiers differ by more than intervals."""
    ours, theirs = (entry.reset_index(drop=True) for entry in (frontier, optimal))
    gap = np.log(ours["efficiency_leverage"] / theirs["efficiency_leverage"])
    above, below = (
        np.log(ours["efficiency_leverage"] / ours["low"]),
        np.log(theirs["high"] / theirs["efficiency_leverage"]),
    )
    apart = gap > np.hypot(above, below)  # of independent errors
    if not apart.any():
        return []
    excess = np.log(dense["compute"].to_numpy(float))
    excess = excess - envelope.log_compute(np.log(dense["loss"].to_numpy(float)))
    over = float(np.exp(np.median(excess[np.isfinite(excess)])))
    ratio = float(np.exp(np.nanmedian(gap)))
    return [
        f"the dense runs are not compute-optimal: by their own L(N, D) they need {over:.2g} times "
        f"the compute of the optimum, and EL over them is {ratio:.2g} times that over the optimum "
        f"({int(apart.sum())} point(s) differ by more than their intervals; both are given)"
    ]


def usual_warnings(dense: pd.DataFrame) -> list[str]:
    """A warning where tokens a parameter lie far from the usual and the runs cannot tell more."""
    try:
        ratio, excess = usual_excess(dense)
    except UnidentifiedError:
        return []
    if USUAL_RATIOS[0] <= ratio <= USUAL_RATIOS[1]:
        return []
    return [
        f"the dense runs have {ratio:.3g} tokens a parameter, far from the usual 20: by the law of "
        f"Besiroglu et al. (2024) they need {excess:.2g} times the compute of optimal ones, and EL "
        "may be too high by as much"
    ]
