"""A law of the loss read as a law of leverage, so that it meets Equation 13 on equal terms.

The dense frontier turns a loss at compute C into the dense compute F that reaches it, and so into
EL = F / C (Section 3). Fitted through it, a law of N, D or G is scored on the same points, in the
same unit, ln EL, as the laws that speak of leverage themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moe_leverage.analysis.fitting import fit
from moe_leverage.theory.law import Array, Inputs, Law

LEAST_SHARE = 1e-9  # of a loss, by which it is taken to lie above the floor at least
LEAST_STEP = 1e-9  # of ln (L - floor) from knot to knot; the frontier falls


@dataclass(frozen=True, slots=True)
class Frontier:
    """Dense compute and loss, knot by knot, linear in ln C and ln (L - floor) also beyond its ends.

    >>> dense = pd.DataFrame({"compute": [1e12, 1e14], "loss": [4.0, 2.0]})
    >>> line = Frontier.through(dense)
    >>> np.exp(line.log_compute(np.log([4.0, 1.0]))[0]).round(-9).tolist()
    [1000000000000.0, 1e+16]
    """

    knots: Array  # ln C, rising
    heights: Array  # ln (L - floor) there, falling
    floor: float = 0.0

    @classmethod
    def through(cls, dense: pd.DataFrame, floor: float = 0.0) -> Frontier:
        """The frontier of dense runs: what is no better than a cheaper run is no part of it."""
        runs = dense.sort_values("compute")
        floor = min(floor, 0.999 * float(runs["loss"].min()))
        heights = np.log(runs["loss"].to_numpy(float) - floor)
        before = np.concatenate([[np.inf], np.minimum.accumulate(heights)[:-1]])
        kept = heights < before - LEAST_STEP
        return cls(np.log(runs["compute"].to_numpy(float))[kept], heights[kept], floor)

    def log_compute(self, log_loss: Array) -> tuple[Array, Array]:
        """Ln F at these ln L, and its derivative by ln L."""
        loss = np.exp(log_loss)
        above = np.maximum(loss - self.floor, LEAST_SHARE * loss)
        height = np.log(above)
        right = np.clip(np.searchsorted(-self.heights, -height), 1, len(self.heights) - 1)
        slope = np.diff(self.knots)[right - 1] / np.diff(self.heights)[right - 1]
        value = self.knots[right] + slope * (height - self.heights[right])
        return value, slope * loss / above

    def log_loss(self, log_compute: Array) -> Array:
        """Ln L of the frontier at these ln C."""
        right = np.clip(np.searchsorted(self.knots, log_compute), 1, len(self.knots) - 1)
        slope = np.diff(self.heights)[right - 1] / np.diff(self.knots)[right - 1]
        height = self.heights[right] + slope * (log_compute - self.knots[right])
        return np.asarray(np.log(self.floor + np.exp(height)))


def as_leverage(law: type[Law], frontier: Frontier) -> type[Law]:
    """The law of EL that a law of the loss implies, with the same coefficients and name."""

    fitted: dict[bytes, Array] = {}  # a fit and its folds start from the same rows

    class Implied(law, is_form=False):  # type: ignore[valid-type,misc,call-arg]
        __slots__ = ()
        rival_for = "efficiency_leverage"
        inputs = tuple(dict.fromkeys((*law.inputs, "compute")))
        num_linear = 0

        @classmethod
        def log_value(cls, theta: Array, inputs: Inputs) -> Array:
            reached, _ = frontier.log_compute(law.log_value(theta, inputs))
            return reached - np.log(inputs["compute"])

        @classmethod
        def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
            return cls.log_value_and_gradient(theta, inputs)[1]

        @classmethod
        def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
            log_loss, gradient = law.log_value_and_gradient(theta, inputs)
            reached, slope = frontier.log_compute(log_loss)
            return reached - np.log(inputs["compute"]), slope[..., None] * gradient

        @classmethod
        def starts(
            cls, inputs: Inputs, log_target: Array, count: int, generator: np.random.Generator
        ) -> Array:
            """The coefficients of the law fitted to the losses themselves."""
            rows = np.stack([*inputs.values(), log_target]).tobytes()
            if rows not in fitted:
                loss = np.exp(frontier.log_loss(log_target + np.log(inputs["compute"])))
                fitted[rows] = fit(law, {**inputs, "loss": loss}, "loss", resamples=0).theta[None]
            return fitted[rows]

    Implied.__name__ = law.__name__
    return Implied
