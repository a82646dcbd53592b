"""Laws of mixtures that other groups print, each as a form: its loss, and what a token costs.

A form is a frozen dataclass whose fields are its coefficients and the reading of them; the numbers
lie in `data/laws` (`printed` reads them). A class that derives from `Form` is known by its name.
None of them is fitted here, so a form needs no gradient and is no `Law`.

    A, G   activation ratio and granularity, as in `laws`
    X      expansion, 1 / A: experts as wide as all active ones together
    N_a    active parameters outside the vocabulary;  N  all of them
    D      training tokens
    L      loss, nats per token
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moe_leverage.rules import require
from moe_leverage.theory.law import Array
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.leverage import efficiency_leverage
from moe_leverage.theory.saturation import saturated_activation_ratio

FORMS: dict[str, type[Form]] = {}  # defined so far; `printed` imports every module of this room

OWN_OPTIMUM = "own optimum"  # both sides at the size and tokens that are best for their compute
FIXED_TOKENS = "fixed tokens"  # both sides see the same tokens

ATTENTION_WIDTHS, FFN_WIDTHS = 4, 8  # of d_model^2: parameters of a block (Krajewski, Section 6.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A mixture of any size: which share of its experts is active, and how fine they are.

    >>> round(Layout(activation_ratio=1 / 64).total_over_active, 1), Layout().total_over_active
    (43.0, 1.0)
    """

    activation_ratio: float = 1.0  # 1: a dense model
    granularity: float | None = None

    def __post_init__(self) -> None:
        is_ratio = 0 < self.activation_ratio <= 1
        require(is_ratio, "activation_ratio", self.activation_ratio, "must lie in (0, 1]")
        is_size = self.granularity is None or 0 < self.granularity < math.inf
        require(is_size, "granularity", self.granularity, "must be a positive, finite number")

    @property
    def expansion(self) -> float:
        """X = 1 / A."""
        return 1 / self.activation_ratio

    @property
    def total_over_active(self) -> float:
        """N / N_a of blocks whose attention is a third of their active parameters."""
        ffn = FFN_WIDTHS * self.expansion
        return (ATTENTION_WIDTHS + ffn) / (ATTENTION_WIDTHS + FFN_WIDTHS)


DENSE = Layout()


def known_granularity(layout: Layout) -> float:
    """G; ValueError where a layout has none and a law asks for it."""
    require(layout.granularity is not None, "granularity", None, "is a variable of this law")
    return float(layout.granularity or 0)


class Form:
    """What a printed law is asked: its loss, or the leverage itself where it prints that."""

    __slots__ = ()
    needs_granularity: ClassVar[bool] = False
    knows_tokens: ClassVar[bool] = True  # false: every run behind it saw the same number
    gives_leverage: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Make the form known by its name."""
        FORMS[cls.__name__] = cls

    @abstractmethod
    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """L of mixtures of this layout, of N_a parameters, after D tokens."""
        raise NotImplementedError

    def flops_per_token(self, layout: Layout, active_params: Array) -> Array:
        """Training FLOPs of one token: 6 N_a unless the law counts more."""
        return 6 * active_params

    def leverage(self, layout: Layout, compute: float) -> float:
        """EL at the form's own optimum, for a form that prints a leverage and no loss."""
        raise NotImplementedError

    @property
    def domain(self) -> Mapping[str, tuple[float, float]]:
        """Of a form whose coefficients lie elsewhere: the range of the runs behind them."""
        return {}


@dataclass(frozen=True, slots=True)
class JointLeverage(Form):
    """Equation 13 of the paper, with its definition at A = 1; coefficients in data/paper.

    >>> round(JointLeverage().leverage(Layout(activation_ratio=0.031, granularity=12), 1e22), 2)
    7.24
    """

    needs_granularity = True
    gives_leverage = True

    def leverage(self, layout: Layout, compute: float) -> float:
        """EL(A, G, C)."""
        return float(
            efficiency_leverage(
                PUBLISHED.joint,
                activation_ratio=layout.activation_ratio,
                granularity=known_granularity(layout),
                compute=compute,
            )
        )

    @property
    def domain(self) -> Mapping[str, tuple[float, float]]:
        """That of the published joint law, EL among its axes."""
        return PUBLISHED.joint.domain


@dataclass(frozen=True, slots=True)
class RoutedLoss(Form):
    """Clark et al. (2022), Equation 1: log L = a log N + b log X^ + c log N log X^ + d.

    X^ saturates as A^ does in Equation 10 here; N is the dense model that the experts stand in.

    >>> sbase = RoutedLoss(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)
    >>> round(float(sbase.loss(Layout(activation_ratio=1 / 8), 370e6, 130e9)), 2)
    2.36
    """

    a: float
    b: float
    c: float
    d: float
    x_start: float
    x_max: float
    logarithm_base: float = 10.0
    knows_tokens = False

    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """Equation 1; the tokens are those of its runs."""
        in_base = math.log(self.logarithm_base)
        saturated = saturated_activation_ratio(layout.expansion - 1, self.x_start, self.x_max)
        log_x = math.log(saturated) / in_base
        log_n = np.log(active_params) / in_base
        log_loss = self.a * log_n + self.b * log_x + self.c * log_n * log_x + self.d
        loss: Array = np.exp(in_base * log_loss)
        return loss

    @property
    def cutoff(self) -> float:
        """N from which more experts no longer help: where b + c log N = 0."""
        return float(self.logarithm_base ** (-self.b / self.c))


@dataclass(frozen=True, slots=True)
class FineGrainedLoss(Form):
    """Krajewski et al. (2024), Equation 9: L = c + (g / F^gamma + a) / N^alpha + b / D^beta.

    F is granularity against an expert as wide as a dense FFN of 4 d_model, so twice the paper's G.
    Compute counts the router (their Equation 10), with d_model = 64 layers.

    >>> law = FineGrainedLoss(18.1, 0.115, 30.8, 0.147, 2.1, 0.58, 0.47)
    >>> round(float(law.loss(Layout(activation_ratio=1 / 64, granularity=8), 1e9, 28.94e9)), 2)
    2.47
    """

    a: float
    alpha: float
    b: float
    beta: float
    g: float
    gamma: float
    c: float
    params: str = "total"
    needs_granularity = True

    FINENESS: ClassVar[float] = 2.0  # of theirs in the paper's G
    ROUTER_FLOPS: ClassVar[float] = 14.0  # per router weight and token, their c_r
    WIDTH_OVER_DEPTH: ClassVar[float] = 64.0

    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """Equation 9."""
        size = active_params * (layout.total_over_active if self.params == "total" else 1.0)
        fine = self.g / self._fineness(layout) ** self.gamma + self.a
        loss: Array = self.c + fine / size**self.alpha + self.b / num_tokens**self.beta
        return loss

    def flops_per_token(self, layout: Layout, active_params: Array) -> Array:
        """Equation 10: 6 N_a and 14 for each weight of the routers."""
        block = ATTENTION_WIDTHS + FFN_WIDTHS
        width = np.cbrt(self.WIDTH_OVER_DEPTH * active_params / block)
        depth = width / self.WIDTH_OVER_DEPTH
        router = width * layout.expansion * self._fineness(layout) * depth
        return 6 * active_params + self.ROUTER_FLOPS * router

    def _fineness(self, layout: Layout) -> float:
        return self.FINENESS * known_granularity(layout)


@dataclass(frozen=True, slots=True)
class SizeAndTokensLoss(Form):
    """Loss of a dense model: L = c + a / N^alpha + b / D^beta, as Hoffmann et al. (2022)."""

    a: float
    alpha: float
    b: float
    beta: float
    c: float

    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """The three terms."""
        return self.c + self.a / active_params**self.alpha + self.b / num_tokens**self.beta


@dataclass(frozen=True, slots=True)
class SparsityLoss(Form):
    """Abnar et al. (2025), Equation 6, in A = 1 - S, with N the total.

    L = a / N^alpha + b / D^beta + c / A^lambda + d / (A^delta N^gamma) + e.

    >>> law = SparsityLoss(16612.5, 5455.67, 0.4598, 17.26, 0.94, 0.5962, 0.3954, -0.1666, 0.1603,
    ...                    0.1595)
    >>> round(float(law.loss(DENSE, 1e9, 20e9)), 2)
    2.57
    """

    a: float
    b: float
    c: float
    d: float
    e: float
    alpha: float
    beta: float
    lambda_: float
    delta: float
    gamma: float
    attention: str = "counted"

    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """Equation 6; where attention is not counted, N_a = A N."""
        counted = self.attention == "counted"
        total = active_params * (layout.total_over_active if counted else layout.expansion)
        ratio = layout.activation_ratio
        sizes = self.a / total**self.alpha + self.d / (ratio**self.delta * total**self.gamma)
        floor = self.c / ratio**self.lambda_ + self.e
        loss: Array = sizes + self.b / num_tokens**self.beta + floor
        return loss


@dataclass(frozen=True, slots=True)
class ExpertsLoss(Form):
    """Ludziejewski et al. (2025), Equation 6, with X^ as in Clark et al.

    L = a X^^delta N_a^(alpha + gamma ln X^) + b X^^omega D^(beta + zeta ln X^) + c.

    >>> law = ExpertsLoss(35.91, -0.1889, -0.2285, 0.0098, 35.98, -0.1775, 0.5529, -0.0259, 2.0732,
    ...                   290.4521, 1.3637)
    >>> [round(one, 1) for one in law.at_expansion(8)[::2]]
    [21.8, 119.8]
    """

    a: float
    alpha: float
    delta: float
    gamma: float
    b: float
    beta: float
    omega: float
    zeta: float
    x_start: float
    x_max: float
    c: float

    def loss(self, layout: Layout, active_params: Array, num_tokens: Array) -> Array:
        """Equation 6."""
        m, mu, n, nu = self.at_expansion(layout.expansion)
        return m * active_params**mu + n * num_tokens**nu + self.c

    def at_expansion(self, expansion: float) -> tuple[float, float, float, float]:
        """m, mu, n and nu of their Table 4: L = m N_a^mu + n D^nu + c at one number of experts."""
        log_x = math.log(saturated_activation_ratio(expansion - 1, self.x_start, self.x_max))
        size = self.a * math.exp(self.delta * log_x), self.alpha + self.gamma * log_x
        data = self.b * math.exp(self.omega * log_x), self.beta + self.zeta * log_x
        return *size, *data
