"""The laws of the paper as small frozen objects (Equations 3, 4 and 10 to 13; Tables 1 and 2).

Published coefficients are read from `data/paper/coefficients.toml`; the same classes, given other
coefficients, are what `fitting` returns for measured runs.

    A    activation_ratio      (E_a + E_s) / (E + E_s)
    G    granularity           2 d_model / d_expert
    C    compute               training compute, FLOPs
    EL   efficiency leverage   C_dense / C_moe at equal loss
    A^   saturated activation ratio, Equation 10
    theta                      coefficients as a fit sees them (module `law`), shape (..., P)

The published law has no interval: the paper prints point estimates only and released no runs, so a
prediction from `PUBLISHED` is one number, and how far it may be off is unknown. A measured `Fit`
carries bootstrap coefficients and predicts with intervals, at the budgets of our own small models.

The logarithm of C is to base 10 and that of G to base 2 wherever a coefficient multiplies it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moe_leverage import paths
from moe_leverage.rules import refuse, require
from moe_leverage.theory.law import UNSOURCED, Array, Inputs, Law, Source, columns, plain
from moe_leverage.theory.registry import find
from moe_leverage.theory.saturation import START_BOX, saturation
from moe_leverage.theory.saturation import saturated_activation_ratio as saturated_activation_ratio

COEFFICIENTS = paths.DATA / "paper" / "coefficients.toml"


@dataclass(frozen=True, slots=True)
class PowerLaw(Law):
    """coefficient x C^exponent: Equation 3, Table 1, and the loss model of Section 3.

    >>> round(PUBLISHED.learning_rate(1e20), 6)
    0.001013
    >>> f"{PUBLISHED.batch_tokens.compute_for(2**20):.2e}"
    '5.03e+19'
    """

    coefficient: float
    exponent: float
    source: Source = UNSOURCED
    inputs = ("compute",)
    positive = frozenset({"coefficient"})
    min_values = MappingProxyType({"compute": 2})

    def __call__(self, compute: ArrayLike) -> Any:
        """The law at `compute` FLOPs."""
        return self.evaluate(compute=compute)

    def compute_for(self, value: ArrayLike) -> Any:
        """The compute at which the law takes `value`: (value / coefficient)^(1 / exponent)."""
        require(self.exponent != 0, "exponent", self.exponent, "a constant law has no inverse")
        return plain((np.asarray(value, dtype=float) / self.coefficient) ** (1 / self.exponent))

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Log coefficient + exponent x ln C."""
        return theta[..., 0, None] + theta[..., 1, None] * np.log(inputs["compute"])

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By log coefficient: 1; by exponent: ln C."""
        return columns(theta, 1.0, np.log(inputs["compute"]))


@dataclass(frozen=True, slots=True)
class SaturatedActivationLaw(Law):
    """Equation 10, at fixed G and C: EL = A^^exponent, the paper's a_A.

    >>> law = PUBLISHED.joint.at_fixed_granularity_and_compute(12, 1e22)
    >>> round(law(activation_ratio=0.031), 2)
    7.24
    """

    exponent: float
    a_start: float
    a_max: float
    source: Source = UNSOURCED
    inputs = ("activation_ratio",)
    positive = frozenset({"a_start", "a_max"})
    min_values = MappingProxyType({"activation_ratio": 4})
    start_box = MappingProxyType(START_BOX)
    num_linear = 1

    def __call__(self, *, activation_ratio: ArrayLike) -> Any:
        """EL at these activation ratios."""
        return self.evaluate(activation_ratio=activation_ratio)

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Exponent x ln A^."""
        log_saturated, _, _ = saturation(theta[..., -2:], inputs["activation_ratio"])
        return theta[..., 0, None] * log_saturated

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By exponent, log A_start and log A_max."""
        log_saturated, by_start, by_max = saturation(theta[..., -2:], inputs["activation_ratio"])
        exponent = theta[..., 0, None]
        return columns(theta, log_saturated, exponent * by_start, exponent * by_max)


@dataclass(frozen=True, slots=True)
class GranularityLaw(Law):
    """Equation 11, at fixed C and A: ln EL = a_g + b_g (log2 G (log2 G + c_g)).

    >>> law = PUBLISHED.joint.at_fixed_activation_ratio_and_compute(0.031, 1e22)
    >>> round(law(granularity=12), 2), round(law.optimum_granularity, 1)
    (7.24, 11.3)
    """

    a_g: float
    b_g: float
    c_g: float
    source: Source = UNSOURCED
    inputs = ("granularity",)
    min_values = MappingProxyType({"granularity": 4})
    theta_names = ("a_g", "b_g", "b_g c_g")  # linear in these, so that its fit is convex

    def __call__(self, *, granularity: ArrayLike) -> Any:
        """EL at these granularities."""
        return self.evaluate(granularity=granularity)

    @property
    def optimum_granularity(self) -> float:
        """G of the largest EL, 2^(-c_g / 2); NaN when the parabola opens upwards (b_g >= 0)."""
        return 2.0 ** (-self.c_g / 2) if self.b_g < 0 else math.nan

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Equation 11."""
        log_g = np.log2(inputs["granularity"])
        return theta[..., 0, None] + (theta[..., 1, None] * log_g + theta[..., 2, None]) * log_g

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By a_g, b_g and b_g c_g."""
        log_g = np.log2(inputs["granularity"])
        return columns(theta, 1.0, log_g**2, log_g)

    @classmethod
    def to_theta(cls, coefficients: ArrayLike) -> Array:
        """(a_g, b_g, b_g c_g)."""
        a_g, b_g, c_g = np.moveaxis(np.asarray(coefficients, dtype=float), -1, 0)
        return np.stack([a_g, b_g, b_g * c_g], axis=-1)

    @classmethod
    def from_theta(cls, theta: ArrayLike) -> Array:
        """(a_g, b_g, c_g)."""
        a_g, b_g, product = np.moveaxis(np.asarray(theta, dtype=float), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([a_g, b_g, product / b_g], axis=-1)


@dataclass(frozen=True, slots=True)
class ComputeLaw(Law):
    """Equation 12, at fixed A and G: ln EL = a_c log10 C + c_c.

    >>> law = PUBLISHED.joint.at_fixed_activation_ratio_and_granularity(0.031, 12)
    >>> round(law(compute=1e22), 2), f"{law.break_even_compute:.1e}"
    (7.24, '3.0e+13')
    """

    a_c: float
    c_c: float
    source: Source = UNSOURCED
    inputs = ("compute",)
    min_values = MappingProxyType({"compute": 2})

    def __call__(self, *, compute: ArrayLike) -> Any:
        """EL at these computes."""
        return self.evaluate(compute=compute)

    def compute_for(self, leverage: ArrayLike) -> Any:
        """The compute at which EL takes `leverage`."""
        require(self.a_c != 0, "a_c", self.a_c, "a constant law has no inverse")
        return _power_of_ten((np.log(np.asarray(leverage, dtype=float)) - self.c_c) / self.a_c)

    @property
    def break_even_compute(self) -> float:
        """The compute at which EL = 1."""
        return float(self.compute_for(1.0))

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Equation 12."""
        return theta[..., 0, None] * np.log10(inputs["compute"]) + theta[..., 1, None]

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By a_c: log10 C; by c_c: 1."""
        return columns(theta, np.log10(inputs["compute"]), 1.0)


@dataclass(frozen=True, slots=True)
class JointLaw(Law):
    """Equation 13: EL = A^^(a + d log10 C + gamma (log2 G)^2 + beta log2 G).

    >>> round(PUBLISHED.joint(activation_ratio=0.031, granularity=12, compute=1e22), 2)
    7.24
    >>> f"{PUBLISHED.joint.compute_for(7.0, 0.031, 12):.1e}"
    '7.1e+21'
    """

    a: float
    d: float
    gamma: float
    beta: float
    a_start: float
    a_max: float
    source: Source = UNSOURCED
    rival_for = "efficiency_leverage"
    inputs = ("activation_ratio", "granularity", "compute")
    positive = frozenset({"a_start", "a_max"})
    min_values = MappingProxyType({"activation_ratio": 3, "granularity": 3, "compute": 2})
    start_box = MappingProxyType(START_BOX)
    num_linear = 4

    def __call__(
        self, *, activation_ratio: ArrayLike, granularity: ArrayLike, compute: ArrayLike
    ) -> Any:
        """EL at (A, G, C), broadcast together."""
        return self.evaluate(
            activation_ratio=activation_ratio, granularity=granularity, compute=compute
        )

    @classmethod
    def log_value(cls, theta: Array, inputs: Inputs) -> Array:
        """Exponent of Equation 13 x ln A^."""
        log_saturated, _, _ = saturation(theta[..., -2:], inputs["activation_ratio"])
        return _exponent(theta, inputs) * log_saturated

    @classmethod
    def log_gradient(cls, theta: Array, inputs: Inputs) -> Array:
        """By a, d, gamma, beta, log A_start and log A_max."""
        return cls.log_value_and_gradient(theta, inputs)[1]

    @classmethod
    def log_value_and_gradient(cls, theta: Array, inputs: Inputs) -> tuple[Array, Array]:
        """Both from one evaluation of the transform."""
        log_saturated, by_start, by_max = saturation(theta[..., -2:], inputs["activation_ratio"])
        exponent = _exponent(theta, inputs)
        log_c, log_g = np.log10(inputs["compute"]), np.log2(inputs["granularity"])
        gradient = columns(
            theta,
            log_saturated,
            (log_saturated, log_c),
            (log_saturated, log_g**2),
            (log_saturated, log_g),
            (exponent, by_start),
            (exponent, by_max),
        )
        return exponent * log_saturated, gradient

    @property
    def optimum_granularity(self) -> float:
        """G of the largest EL at every A and C, 2^(-beta / (2 gamma)); NaN when gamma <= 0."""
        return 2.0 ** (-self.beta / (2 * self.gamma)) if self.gamma > 0 else math.nan

    def compute_for(
        self, leverage: ArrayLike, activation_ratio: ArrayLike, granularity: ArrayLike
    ) -> Any:
        """The compute at which EL takes `leverage`; NaN where EL does not grow with compute."""
        log_saturated = self._log_saturated(activation_ratio)
        with np.errstate(divide="ignore", invalid="ignore"):
            exponent = np.log(np.asarray(leverage, dtype=float)) / log_saturated
            log_compute = (exponent - self._exponent(granularity)) / self.d
            log_compute = np.where(log_saturated * self.d > 0, log_compute, np.nan)
        return _power_of_ten(log_compute)

    def break_even_compute(self, activation_ratio: ArrayLike, granularity: ArrayLike) -> Any:
        """The compute at which EL = 1: where the exponent is 0, so the same at every A.

        >>> f"{PUBLISHED.joint.break_even_compute(0.031, 2):.1e}"
        '7.0e+14'
        """
        return self.compute_for(1.0, activation_ratio, granularity)

    def with_bases(self, *, compute: float, granularity: float) -> JointLaw:
        """The same printed coefficients read under other logarithm bases of C and G.

        >>> other = PUBLISHED.joint.with_bases(compute=math.e, granularity=math.e)
        >>> round(other(activation_ratio=0.031, granularity=12, compute=1e22))
        5334
        """
        of_c, of_g = math.log10(compute), math.log2(granularity)
        return replace(
            self, d=self.d / of_c, gamma=self.gamma / of_g**2, beta=self.beta / of_g
        )  # log_b(x) = log10(x) / log10(b)

    def at_fixed_granularity_and_compute(
        self, granularity: float, compute: float
    ) -> SaturatedActivationLaw:
        """Equation 10 as this law implies it: a_A is the exponent of Equation 13."""
        exponent = self._exponent(granularity) + self.d * math.log10(compute)
        return SaturatedActivationLaw(exponent, self.a_start, self.a_max, self._implied("Eq. 10"))

    def at_fixed_activation_ratio_and_compute(
        self, activation_ratio: float, compute: float
    ) -> GranularityLaw:
        """Equation 11 as this law implies it: b_g = gamma ln A^, c_g = beta / gamma."""
        slope = self._log_saturated(activation_ratio)
        base = slope * (self.a + self.d * math.log10(compute))
        ratio = self.beta / self.gamma
        return GranularityLaw(base, slope * self.gamma, ratio, self._implied("Eq. 11"))

    def at_fixed_activation_ratio_and_granularity(
        self, activation_ratio: float, granularity: float
    ) -> ComputeLaw:
        """Equation 12 as this law implies it: a_c = d ln A^."""
        slope = self._log_saturated(activation_ratio)
        rest = slope * self._exponent(granularity)
        return ComputeLaw(slope * self.d, rest, self._implied("Eq. 12"))

    def _log_saturated(self, activation_ratio: ArrayLike) -> Any:
        return np.log(saturated_activation_ratio(activation_ratio, self.a_start, self.a_max))

    def _exponent(self, granularity: ArrayLike) -> Any:
        """The exponent of Equation 13 without its compute term."""
        log_g = np.log2(np.asarray(granularity, dtype=float))
        return self.a + (self.gamma * log_g + self.beta) * log_g

    def _implied(self, equation: str) -> Source:
        note = f"implied by {self.source.equation}; the paper prints no coefficients of its own"
        return replace(self.source, equation=equation, note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The laws whose coefficients the paper prints."""

    learning_rate: PowerLaw
    batch_tokens: PowerLaw
    dense_model: PowerLaw
    dense_tokens: PowerLaw
    moe_model: PowerLaw
    moe_tokens: PowerLaw
    joint: JointLaw


def load_published(path: Path = COEFFICIENTS) -> Published:
    """The published laws from a coefficients file; ValueError names a missing or unknown entry."""
    try:
        tables = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error
    names = [f.name for f in fields(Published)]
    for name in set(names).symmetric_difference(tables):
        refuse(f"{path.name}: [{name}]", name in tables, f"laws are {', '.join(names)}")
    return Published(**{name: _read_law(name, tables[name]) for name in names})


def _read_law(name: str, table: Mapping[str, Any]) -> Any:
    form: Any = find(table["form"], f"{name}.form")
    given, wanted = table["coefficients"], form.coefficient_names
    require(set(given) == set(wanted), f"{name}.coefficients", list(given), f"must be {wanted}")
    known = {f.name for f in fields(Source)} - {"domain"}
    described = {key: value for key, value in table.items() if key in known}
    domain = {key: (float(low), float(high)) for key, (low, high) in table["domain"].items()}
    law = form(**{k: float(v) for k, v in given.items()}, source=Source(**described, domain=domain))
    return law.with_bases(**table["logarithm_bases"]) if isinstance(law, JointLaw) else law


def _exponent(theta: Array, inputs: Inputs) -> Array:
    """a + d log10 C + gamma (log2 G)^2 + beta log2 G, as a product of matrices."""
    log_c, log_g = np.log10(inputs["compute"]), np.log2(inputs["granularity"])
    features = np.stack([np.ones_like(log_c), log_c, log_g**2, log_g])
    exponent: Array = (theta[..., None, :4] @ features)[..., 0, :]
    return exponent


def _power_of_ten(exponent: Array) -> Any:
    with np.errstate(over="ignore"):
        return plain(np.power(10.0, exponent))


PUBLISHED = load_published()
