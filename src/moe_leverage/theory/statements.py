"""Printed laws checked by what their own papers say of them, before any of them is asked.

A statement names a quantity, a function here under `@quantity`, of the two sides of a law. Its
value is set beside the printed one; coefficients are printed with few digits, and how far the value
can move over all that round to them (each moved alone, the moves multiplied) is the uncertainty. A
law is used under the first of its readings that returns every statement that decides; one that has
none answers nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

from moe_leverage.rules import refuse, require
from moe_leverage.theory.forms import Layout
from moe_leverage.theory.frontier import Optimum, dense_size, leverage_at_optimum, optimum
from moe_leverage.theory.printed import PrintedLaw, Reading, Sides, Statement
from moe_leverage.theory.rounding import agreement

Quantity = TypeVar("Quantity", bound=Callable[..., float])
QUANTITIES: dict[str, Callable[..., float]] = {}


def quantity(function: Quantity) -> Quantity:
    """Register a function of the two sides of a law as a quantity that statements may name."""
    QUANTITIES[function.__name__] = function
    return function


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A statement, the value that the law gives for it, and whether the two agree."""

    statement: Statement
    value: float
    uncertainty: float
    label: str  # reproduced, consistent (by rounding or tolerance) or discrepant


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a law came out of its statements, reading by reading."""

    reading: Reading | None  # None: no reading returns all of them
    verdicts: tuple[Verdict, ...]  # under that reading, or under the first
    by_reading: tuple[tuple[Reading, tuple[Verdict, ...]], ...]


@cache
def standing(law: PrintedLaw) -> Standing:
    """Which reading of a law returns its own statements.

    >>> from moe_leverage.theory.printed import find_law
    >>> standing(find_law("krajewski-2024")).reading.says
    'N counts all parameters'
    """
    by_reading = tuple(
        (reading, tuple(verdict(law, reading, statement) for statement in law.statements))
        for reading in law.readings
    )
    for reading, verdicts in by_reading:
        if not any(
            verdict.label == "discrepant" and verdict.statement.decides for verdict in verdicts
        ):
            return Standing(reading=reading, verdicts=verdicts, by_reading=by_reading)
    return Standing(reading=None, verdicts=by_reading[0][1], by_reading=by_reading)


def verdict(law: PrintedLaw, reading: Reading, statement: Statement) -> Verdict:
    """One statement under one reading."""
    value = value_of(statement, law.sides(reading))
    reach = _reach(law, reading, statement, value)
    slack = statement.tolerance + reach
    label = agreement(statement.published, statement.relation, value, slack)
    return Verdict(statement=statement, value=value, uncertainty=reach, label=label)


def value_of(statement: Statement, sides: Sides) -> float:
    """The quantity of a statement; ValueError for an unknown one or wrong arguments of it."""
    arguments = {name: given for name, given in statement.check.items() if name != "name"}
    name = statement.check.get("name", "")
    rule = f"must be one of {', '.join(sorted(QUANTITIES))}"
    require(name in QUANTITIES, f"{statement.id}.check", name, rule)
    unit = float(arguments.pop("unit", 1.0))
    try:
        inspect.signature(QUANTITIES[name]).bind(sides, **arguments)
    except TypeError as error:
        refuse(f"{statement.id}.check", arguments, str(error))
    return QUANTITIES[name](sides, **arguments) / unit


@quantity
def cutoff(sides: Sides) -> float:
    """N from which experts no longer help (Clark et al.)."""
    return float(sides.mixture.cutoff)  # type: ignore[attr-defined]


@quantity
def dense_equal(sides: Sides, active_params: float, expansion: float, num_tokens: float) -> float:
    """N of the dense model with the loss of a mixture, after the same tokens."""
    layout = Layout(activation_ratio=1 / expansion)
    loss = sides.mixture.loss(layout, np.array([active_params]), np.array([num_tokens]))
    return dense_size(sides.dense, float(loss[0]), num_tokens)


@quantity
def at_optimum(
    sides: Sides, of: str, compute: float, expansion: float, granularity: float | None = None
) -> float:
    """N_a, N, D or L of the optimum of a layout at one compute."""
    return _at_optimum(sides, of, compute, expansion, granularity)


@quantity
def best_granularity(
    sides: Sides, compute: float, expansion: float, granularities: Sequence[float]
) -> float:
    """G of the least loss at one compute, among these."""
    return min(granularities, key=lambda g: _loss(sides, compute, expansion, g))


@quantity
def best_leverage(
    sides: Sides, compute: float, expansion: float, granularities: Sequence[float]
) -> float:
    """EL at its own optimum and at the best G among these."""
    best = best_granularity(sides, compute, expansion, granularities)
    layout = Layout(activation_ratio=1 / expansion, granularity=best)
    return leverage_at_optimum(sides.mixture, sides.dense, layout, compute)


@quantity
def finer_gain(
    sides: Sides,
    computes: Sequence[float],
    expansion: float,
    coarse: float,
    granularities: Sequence[float],
) -> float:
    """Nats by which the best of these G beats the coarse one, least over computes."""
    return min(
        _loss(sides, c, expansion, coarse)
        - min(_loss(sides, c, expansion, g) for g in granularities)
        for c in computes
    )


@quantity
def reduced(sides: Sides, of: str, expansion: float) -> float:
    """m, mu, n or nu of the law at one number of experts (Ludziejewski et al., Table 4)."""
    m, mu, n, nu = sides.mixture.at_expansion(expansion)  # type: ignore[attr-defined]
    return float({"m": m, "mu": mu, "n": n, "nu": nu}[of])


@quantity
def trend(
    sides: Sides, of: str, sign: int, computes: Sequence[float], expansions: Sequence[float]
) -> float:
    """Smallest step of ln N_a, ln N, ln D or ln L at the optimum as X grows, times `sign`."""
    steps = [
        sign * np.diff(np.log([_at_optimum(sides, of, c, x, None) for x in expansions]))
        for c in computes
    ]
    return float(np.min(steps))


@quantity
def margin(
    sides: Sides, dense: Sequence[float], mixture: Sequence[float], expansion: float
) -> float:
    """Nats by which a mixture of (N_a, D) beats a dense model of (N, D)."""
    layout = Layout(activation_ratio=1 / expansion)
    sparse = sides.mixture.loss(layout, *(np.array([entry]) for entry in mixture))
    whole = sides.dense.loss(Layout(), *(np.array([entry]) for entry in dense))
    return float((whole - sparse)[0])


@quantity
def best_sparsity(sides: Sides, total_params: float, compute: float) -> float:
    """S = 1 - A of the least loss at fixed N and C."""
    ratios = np.geomspace(1e-3, 1, 601)
    losses = []
    for ratio in ratios:
        layout = Layout(activation_ratio=float(ratio))
        active = np.array([total_params / layout.total_over_active])
        tokens = compute / sides.mixture.flops_per_token(layout, active)
        losses.append(float(sides.mixture.loss(layout, active, tokens)[0]))
    return 1 - float(ratios[int(np.argmin(losses))])


@quantity
def sparsity_step(sides: Sides, total_params: Sequence[float], compute: float) -> float:
    """Smallest step of the best S as N grows."""
    return float(np.min(np.diff([best_sparsity(sides, n, compute) for n in total_params])))


def _reach(law: PrintedLaw, reading: Reading, statement: Statement, value: float) -> float:
    """How far rounded coefficients can move the value towards the printed one."""
    up = down = 0.0
    for name, half in law.half_units.items():
        ends = [value_of(statement, law.sides(reading, {name: s * half})) for s in (-1, 1)]
        ends = [_scale(end) for end in ends if math.isfinite(end)] or [_scale(value)]
        up += max(0.0, max(ends) - _scale(value))
        down += max(0.0, _scale(value) - min(ends))
    is_above = float(statement.published) > value
    end = _scale(value) + (up if is_above else -down)
    return abs(_unscale(end, value) - value)


def _scale(value: float) -> float:
    """Large positive values move by factors, others by differences."""
    return math.log(value) if value >= 1 else value - 1


def _unscale(scaled: float, value: float) -> float:
    return math.exp(scaled) if value >= 1 else scaled + 1


def _at_optimum(
    sides: Sides, of: str, compute: float, expansion: float, granularity: float | None
) -> float:
    layout = Layout(activation_ratio=1 / expansion, granularity=granularity)
    best: Optimum = optimum(sides.mixture, layout, compute)
    values: dict[str, Any] = {
        "active_params": best.active_params,
        "total_params": best.active_params * layout.total_over_active,
        "num_tokens": best.num_tokens,
        "loss_nats": best.loss_nats,
    }
    require(of in values, "of", of, f"must be one of {', '.join(values)}")
    return float(values[of])


def _loss(sides: Sides, compute: float, expansion: float, granularity: float) -> float:
    return _at_optimum(sides, "loss_nats", compute, expansion, granularity)
