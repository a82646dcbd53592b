"""Laws that the paper does not print: losses with a floor, rivals of its joint law (Section 4.2).

A law is only as good as the simpler and the freer ones that it beats on runs it has not seen; these
are the ones it is compared with.

    C    compute            training compute, FLOPs
    N    num_params         parameters
    D    num_tokens         training tokens
    A, G                    activation ratio and granularity, as in `laws`
    EL   efficiency leverage
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from moe_leverage.theory.law import UNSOURCED, Array, Inputs, Law, LogLinearLaw, Source, columns
from moe_leverage.theory.saturation import START_BOX, saturation

MOST_APART = 700.0  # ln of two terms of a loss: beyond, floats overflow
FLOORS = 16  # that are tried: a fit is told by its floor alone
NO_FLOOR = 1e-12  # of the smallest loss


@dataclass(frozen=True, slots=True)
class FlooredPowerLaw(Law):
    """Loss with an irreducible part: L = floor + coefficient C^exponent.

    >>> round(FlooredPowerLaw(1.5, 400.0, -0.2).evaluate(compute=1e10), 6)
    5.5
    """

    floor: float
    coefficient: float
    exponent: float
    source: Source = UNSOURCED
    rival_for = "loss"
    inputs = ("compute",)
    positive = frozenset({"floor", "coefficient"})
    min_values = MappingProxyType({"compute": 4})

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Ln (floor + coefficient C^exponent)."""
        floor, power = theta[..., 0, None], _log_power(theta, inputs["compute"])
        # `logaddexp` takes five times as long, and a thousand curves of resamples come here
        value: Array = np.maximum(floor, power) + np.log(1 + np.exp(-np.abs(floor - power)))
        return value

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By log floor, log coefficient and exponent."""
        return cls.log_value_and_gradient(theta, inputs)[1]

    @classmethod
    def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Both from one evaluation of the sum."""
        power = _log_power(theta, inputs["compute"])
        # a fit comes here a thousand times a second: value and slopes share one exponential
        share = np.minimum(theta[..., 0, None] - power, MOST_APART)  # of the power in the loss
        np.exp(share, out=share)
        share += 1
        np.divide(1, share, out=share)
        power -= np.log(share)
        return power, columns(theta, 1 - share, share, (share, np.log(inputs["compute"])))

    @classmethod
    def starts(
        cls, inputs: Inputs, log_target: Array, count: int, generator: np.random.Generator
    ) -> Array:
        """None and floors below the smallest loss, each with its line in (ln C, ln(L - floor)).

        A start off its line runs off to a floor of 0, from where the way back is long; so is the
        way there, where a power law alone is best.
        """
        target, log_c = np.exp(log_target), np.log(inputs["compute"])
        drawn = generator.exponential(0.5, min(count, FLOORS) - 1)
        floor = target.min() * np.exp(np.append(np.log(NO_FLOOR), -drawn - 0.01))
        above = target - floor[:, None]
        weight = (above / target) ** 2  # of ln(L - floor), so that errors are those of ln L
        weight /= weight.sum(axis=1, keepdims=True)
        height, middle = (weight * np.log(above)).sum(axis=1), weight @ log_c
        aside = log_c - middle[:, None]
        exponent = (weight * aside * np.log(above)).sum(axis=1) / (weight * aside**2).sum(axis=1)
        return np.stack([np.log(floor), height - exponent * middle, exponent], axis=-1)

    @classmethod
    def followed(cls, starts: Array, inputs: Inputs, log_target: Array) -> Array:
        """No floor, and the floors that miss less than both neighbours, with these.

        A floor tells the rest, so that starts in order of their floors show where the minima are.
        Those far below one are a long way from it, and all others would wait for them.
        """
        starts = starts[np.argsort(starts[:, 0])]
        missed = ((cls.log_value(starts, inputs) - log_target) ** 2).sum(axis=-1)
        around = np.pad(missed, 1, constant_values=np.inf)
        is_low = np.pad((missed <= around[:-2]) & (missed <= around[2:]), 1)
        near = is_low[:-2] | is_low[1:-1] | is_low[2:]
        near[0] = True
        return np.asarray(starts[near])


@dataclass(frozen=True, slots=True)
class ChinchillaLaw(Law):
    """Hoffmann et al. (2022), Equation 10: L(N, D) = floor + a / N^alpha + b / D^beta.

    >>> law = ChinchillaLaw(1.69, 406.4, 410.7, 0.34, 0.28)
    >>> round(law.evaluate(num_params=70e9, num_tokens=1.4e12), 3)
    1.937
    """

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    source: Source = UNSOURCED
    rival_for = "loss"
    inputs = ("num_params", "num_tokens")
    positive = frozenset({"floor", "a", "b"})
    min_values = MappingProxyType({"num_params": 3, "num_tokens": 3})

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Logarithm of the sum of the three terms."""
        return np.log(sum(_chinchilla_terms(theta, inputs)))

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By log floor, log a, log b, alpha and beta: each term's share of the loss."""
        return cls.log_value_and_gradient(theta, inputs)[1]

    @classmethod
    def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Both from one evaluation of the three terms."""
        floor, of_params, of_tokens = _chinchilla_terms(theta, inputs)
        total = floor + of_params + of_tokens
        params, tokens = of_params / total, of_tokens / total
        by_alpha = -params * np.log(inputs["num_params"])
        by_beta = -tokens * np.log(inputs["num_tokens"])
        gradient = columns(theta, floor / total, params, tokens, by_alpha, by_beta)
        return np.log(total), gradient

    @classmethod
    def starts(
        cls, inputs: Inputs, log_target: Array, count: int, generator: np.random.Generator
    ) -> Array:
        """Floors and exponents at random; a and b share what is above the floor."""
        target = np.exp(log_target)
        floor = target.min() * np.exp(-generator.exponential(0.4, count) - 0.01)
        alpha, beta = np.exp(generator.uniform(np.log(0.1), 0.0, (2, count)))
        split = generator.uniform(0.1, 0.9, count)
        rest = target.mean() - floor
        log_a = np.log(split * rest) + alpha * np.log(inputs["num_params"]).mean()
        log_b = np.log((1 - split) * rest) + beta * np.log(inputs["num_tokens"]).mean()
        return np.stack([np.log(floor), log_a, log_b, alpha, beta], axis=-1)


@dataclass(frozen=True, slots=True)
class ConstantLeverage(LogLinearLaw):
    """Ln EL = level, whatever the architecture and the budget."""

    level: float
    source: Source = UNSOURCED
    rival_for = "efficiency_leverage"
    inputs = ("activation_ratio",)
    min_values = MappingProxyType({})

    @classmethod
    def features(cls, inputs: Inputs) -> tuple[Array, ...]:
        """One."""
        return (np.ones_like(inputs["activation_ratio"]),)


@dataclass(frozen=True, slots=True)
class ActivationPowerLaw(LogLinearLaw):
    """Ln EL = level + slope ln A: a power of the activation ratio alone."""

    level: float
    slope: float
    source: Source = UNSOURCED
    rival_for = "efficiency_leverage"
    inputs = ("activation_ratio",)
    min_values = MappingProxyType({"activation_ratio": 2})

    @classmethod
    def features(cls, inputs: Inputs) -> tuple[Array, ...]:
        """One and ln A."""
        log_a = np.log(inputs["activation_ratio"])
        return np.ones_like(log_a), log_a


@dataclass(frozen=True, slots=True)
class JointLawWithoutGranularity(Law):
    """Equation 13 without its granularity terms: EL = A^^(a + d log10 C)."""

    a: float
    d: float
    a_start: float
    a_max: float
    source: Source = UNSOURCED
    rival_for = "efficiency_leverage"
    inputs = ("activation_ratio", "compute")
    positive = frozenset({"a_start", "a_max"})
    min_values = MappingProxyType({"activation_ratio": 3, "compute": 2})
    start_box = MappingProxyType(START_BOX)
    num_linear = 2

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Exponent x ln A^."""
        log_saturated, _, _ = saturation(theta[..., -2:], inputs["activation_ratio"])
        return _exponent(theta, inputs) * log_saturated

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By a, d, log A_start and log A_max."""
        return cls.log_value_and_gradient(theta, inputs)[1]

    @classmethod
    def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Both from one evaluation of the transform."""
        log_saturated, by_start, by_max = saturation(theta[..., -2:], inputs["activation_ratio"])
        exponent = _exponent(theta, inputs)
        gradient = columns(
            theta,
            log_saturated,
            (log_saturated, np.log10(inputs["compute"])),
            (exponent, by_start),
            (exponent, by_max),
        )
        return exponent * log_saturated, gradient


@dataclass(frozen=True, slots=True)
class FreeInteraction(LogLinearLaw):
    """A surface of ln EL in ln A, log2 G and log10 C with all three pairwise interactions."""

    level: float
    by_a: float
    by_c: float
    by_g: float
    by_gg: float
    by_ac: float
    by_ag: float
    by_gc: float
    source: Source = UNSOURCED
    rival_for = "efficiency_leverage"
    inputs = ("activation_ratio", "granularity", "compute")
    min_values = MappingProxyType({"activation_ratio": 2, "granularity": 3, "compute": 2})

    @classmethod
    def features(cls, inputs: Inputs) -> tuple[Array, ...]:
        """One, ln A, log10 C, log2 G, its square, and the products A C, A G and G C."""
        log_a, log_c = np.log(inputs["activation_ratio"]), np.log10(inputs["compute"])
        log_g = np.log2(inputs["granularity"])
        one = np.ones_like(log_a)
        return one, log_a, log_c, log_g, log_g**2, log_a * log_c, log_a * log_g, log_g * log_c


def _log_power(theta: Array, compute: Array) -> Array:
    return theta[..., 1, None] + theta[..., 2, None] * np.log(compute)


def _chinchilla_terms(theta: Array, inputs: Inputs) -> tuple[Array, Array, Array]:
    floor, a, b, alpha, beta = (theta[..., i, None] for i in range(5))
    of_params = a - alpha * np.log(inputs["num_params"])
    return np.exp(floor), np.exp(of_params), np.exp(b - beta * np.log(inputs["num_tokens"]))


def _exponent(theta: Array, inputs: Inputs) -> Array:
    return theta[..., 0, None] + theta[..., 1, None] * np.log10(inputs["compute"])
