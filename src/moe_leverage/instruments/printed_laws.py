"""What the calculator page needs of the laws of other groups: EL over A, G and C as small tables.

A form is a class of the package, and a page that repeated each would need one more function for
each new one. So each law is tabulated where the page may ask it, and the page interpolates the
logarithms; a test holds it to the package within a few per cent. The paper's own law the page knows
by its formula.

    A, G, C    activation ratio, granularity, training compute in FLOPs
    N_a        active parameters: what a law at fixed tokens takes in the place of C
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moe_leverage.design.every_law import Asked, answer
from moe_leverage.instruments import scripts
from moe_leverage.theory.forms import Layout
from moe_leverage.theory.frontier import optimum
from moe_leverage.theory.printed import PrintedLaw, Sides, printed_laws
from moe_leverage.theory.statements import standing

RATIOS = tuple(float(a) for a in np.geomspace(0.001, 0.99, 13))
GRANULARITIES = tuple(2.0**i for i in range(-2, 7))
COMPUTES = tuple(10.0 ** (i / 2) for i in range(30, 55))
SIZES = tuple(10.0**i for i in range(4, 14))
DIGITS = 4
SIZED = ("active_params", "total_params", "num_tokens")  # of the optimum, where a domain asks


def script() -> str:
    """The payload as a script, which is read after that of the calculator."""
    return scripts.assign("printedLaws", payload())


def payload(laws: Sequence[PrintedLaw] | None = None) -> list[dict[str, Any]]:
    """Each of these laws, or every printed one, but the paper's: its table, or why it is silent.

    >>> from moe_leverage.theory.printed import find_law
    >>> payload([find_law("zhao-2025")])[0]["silent"]
    'coefficients not at hand'
    """
    asked = printed_laws() if laws is None else laws
    return [_law(law) for law in asked if law.form != "JointLeverage"]


def _law(law: PrintedLaw) -> dict[str, Any]:
    said: dict[str, Any] = {"law": law.id, "title": law.title}
    reading = standing(law).reading
    probe = answer(law, Asked(layout=Layout(activation_ratio=0.1, granularity=2.0), compute=1e20))
    if reading is None or law.missing:
        return said | {"silent": probe.reason}
    sides = law.sides(reading)
    knows = sides.mixture.knows_tokens
    grains = GRANULARITIES if sides.mixture.needs_granularity else (1.0,)
    places = COMPUTES if knows else SIZES
    layouts = [Layout(activation_ratio=a, granularity=g) for a in RATIOS for g in grains]
    table = [_value(law, layout, place, knows) for layout in layouts for place in places]
    domain = {name: list(ends) for name, ends in law.domain.items()}
    more: dict[str, Any] = {"num_tokens": law.num_tokens}
    if knows and set(domain) & set(SIZED):
        more["sizes"] = [_size(sides, layout, c) for layout in layouts for c in places]
    return said | more | {
        "basis": probe.basis,
        "axis": "C" if knows else "N",
        "grid": [list(RATIOS), list(grains), list(places)],
        "table": table,
        "domain": domain,
    }  # fmt: skip


def _value(law: PrintedLaw, layout: Layout, place: float, knows_tokens: bool) -> float | None:
    """Ln EL, or None where no dense model reaches the loss."""
    asked = Asked(
        layout=layout,
        compute=place if knows_tokens else 1.0,
        active_params=None if knows_tokens else place,
    )
    value = answer(law, asked).value
    return None if value is None else _short(math.log(value))


def _size(sides: Sides, layout: Layout, compute: float) -> float:
    """Ln N_a of the law's own optimum."""
    return _short(math.log(optimum(sides.mixture, layout, compute).active_params))


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
