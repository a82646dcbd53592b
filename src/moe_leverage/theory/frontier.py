"""From a law of the loss to a leverage: its optimum at a compute, and the dense compute it equals.

C      training compute by the law's own count, FLOPs
N_a, D active parameters and tokens
EL     C_dense / C at equal loss (Equation 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from moe_leverage.theory.forms import DENSE, Form, Layout
from moe_leverage.theory.law import Array

SIZES = np.linspace(math.log(1e3), math.log(1e16), 261)  # ln N_a that are tried: twenty a decade
COMPUTES = np.linspace(math.log(1e8), math.log(1e40), 513)  # ln C of a dense frontier
ZOOMS, ZOOM_POINTS = 3, 21


@dataclass(frozen=True, slots=True)
class Optimum:
    """The mixture of a layout that a law holds best at one compute."""

    active_params: float
    num_tokens: float
    loss_nats: float


def optimum(form: Form, layout: Layout, compute: float) -> Optimum:
    """The least loss at this compute over N_a, with D what the compute leaves.

    >>> from moe_leverage.theory.forms import SizeAndTokensLoss
    >>> best = optimum(SizeAndTokensLoss(406.4, 0.34, 410.7, 0.28, 1.69), DENSE, 1e21)
    >>> f"{best.active_params:.2e}"
    '1.82e+09'
    """
    sizes = SIZES
    for _ in range(ZOOMS + 1):
        active = np.exp(sizes)
        tokens = compute / form.flops_per_token(layout, active)
        losses = form.loss(layout, active, tokens)
        best = int(np.argmin(losses))
        low, high = sizes[max(best - 1, 0)], sizes[min(best + 1, len(sizes) - 1)]
        sizes = np.linspace(low, high, ZOOM_POINTS)
    return Optimum(float(active[best]), float(tokens[best]), float(losses[best]))


def leverage_at_optimum(mixture: Form, dense: Form, layout: Layout, compute: float) -> float:
    """EL with both sides at their own optimum; NaN where the dense side never reaches the loss."""
    loss = optimum(mixture, layout, compute).loss_nats
    return dense_compute(dense, loss) / compute


def leverage_at_tokens(
    mixture: Form, dense: Form, layout: Layout, active_params: float, num_tokens: float
) -> float:
    """EL with both sides trained on D tokens; NaN where no dense model reaches the loss on them."""
    size = np.array([active_params])
    tokens = np.array([num_tokens])
    loss = float(mixture.loss(layout, size, tokens)[0])
    equal = dense_size(dense, loss, num_tokens)
    spent = float(mixture.flops_per_token(layout, size)[0])
    return float(dense.flops_per_token(DENSE, np.array([equal]))[0]) / spent


def dense_size(dense: Form, loss: float, num_tokens: float) -> float:
    """N of the dense model that reaches a loss on D tokens; NaN where none does."""
    sizes = SIZES
    for _ in range(ZOOMS + 1):
        losses = dense.loss(DENSE, np.exp(sizes), np.full(len(sizes), num_tokens))
        sizes, size = _crossing(sizes, losses, loss)
        if math.isnan(size):
            return math.nan
    return math.exp(size)


def dense_compute(dense: Form, loss: float) -> float:
    """C at which the dense optimum has this loss; NaN where it has it nowhere."""
    around, compute = _crossing(COMPUTES, _frontier(dense), loss)
    if math.isnan(compute):
        return math.nan
    for _ in range(2):  # the frontier is all but straight between its points
        losses = np.array([optimum(dense, DENSE, math.exp(c)).loss_nats for c in around])
        around, compute = _crossing(around, losses, loss, points=3)
    return math.exp(compute)


@cache
def _frontier(dense: Form) -> Array:
    return np.array([optimum(dense, DENSE, math.exp(c)).loss_nats for c in COMPUTES])


def _crossing(
    places: Array, falling: Array, wanted: float, points: int = ZOOM_POINTS
) -> tuple[Array, float]:
    """Places around the one where a falling curve takes a value, and that one; NaN if nowhere."""
    after = int(np.searchsorted(-falling, -wanted))
    if not 0 < after < len(places):
        return places, math.nan
    pair = slice(after - 1, after + 1)
    middle = float(np.interp(-wanted, -falling[pair], places[pair]))
    low, high = places[pair]
    return np.linspace(low, high, points), middle
