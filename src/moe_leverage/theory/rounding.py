"""What the digits that the paper prints leave open: every law that rounds to the printed one.

The paper prints three digits of each coefficient of Equation 13 and no interval. A coefficient may
lie anywhere within half of its last digit, and the corners of that box bound what follows from it:
ln EL is linear in a, d, gamma and beta, and moves one way with A_start (A_max does not matter).
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any, Literal

from moe_leverage.theory.laws import COEFFICIENTS, PUBLISHED, JointLaw, PowerLaw

PADDED_EXPONENT = re.compile(r"(?<=\d)e(?:\+|(-))0*(?=\d)")


def short(text: str) -> str:
    """A text whose numbers have their exponents as the paper prints them.

    >>> short("1e+18"), short("6.68e-05 to 7.29e+03")
    ('1e18', '6.68e-5 to 7.29e3')
    """
    return PADDED_EXPONENT.sub(lambda match: f"e{match[1] or ''}", text)


def half_unit(printed: str) -> float:
    """Half of the last printed digit.

    >>> half_unit("55.8"), half_unit("2.93e-4")
    (0.05, 5e-07)
    """
    exponent = Decimal(printed).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def bounds(published: str, relation: str) -> tuple[float, float]:
    """The values that agree with what is printed, rounding included.

    >>> bounds("55.8", "equals"), bounds("8 to 12", "between"), bounds("7", "above")
    ((55.75, 55.849999999999994), (8.0, 12.0), (7.0, inf))
    """
    if relation == "between":
        low, high = published.split(" to ")
        return float(low), float(high)
    value, half = float(published), half_unit(published)
    return {
        "equals": (value - half, value + half),
        "above": (value, math.inf),
        "below": (-math.inf, value),
    }[relation]


Agreement = Literal["reproduced", "consistent", "discrepant"]


def agreement(published: str, relation: str, value: float, slack: float) -> Agreement:
    """Whether a value is as printed, as printed within a slack, or neither.

    >>> agreement("55.8", "equals", 55.9, 0.1), agreement("7", "above", 6.0, 0.5)
    ('consistent', 'discrepant')
    """
    low, high = (1.0, 1.0) if relation == "holds" else bounds(published, relation)
    rounding = 1e-9 * max(abs(end) for end in (low, high) if abs(end) < math.inf)
    if low - rounding <= value <= high + rounding:
        return "reproduced"
    is_near = low - slack - rounding <= value <= high + slack + rounding
    return "consistent" if is_near else "discrepant"


@cache
def half_units() -> dict[str, float]:
    """How far each coefficient of the published joint law may lie from what is printed.

    >>> half_units()["a"], half_units()["d"]
    (0.005, 5e-05)
    """
    table = _printed("joint")
    halves = {name: half_unit(str(digits)) for name, digits in table["coefficients"].items()}
    bases = {name: float(base) for name, base in table["logarithm_bases"].items()}
    law = JointLaw.from_coefficients([halves[name] for name in JointLaw.coefficient_names])
    law = law.with_bases(**bases)  # scales each of them as it scales the coefficients
    return dict(zip(law.coefficient_names, map(float, law.coefficients), strict=True))


def rounding_range(quantity: Callable[[JointLaw], float]) -> tuple[float, float]:
    """Least and most of a quantity over all joint laws whose coefficients round to Table 2.

    It is no interval of the fit, which the paper does not print, but no interval can be narrower.

    >>> example = {"activation_ratio": 0.031, "granularity": 12, "compute": 1e22}
    >>> low, high = rounding_range(lambda law: law(**example))
    >>> round(low, 2), round(PUBLISHED.joint(**example), 2), round(high, 2)
    (7.05, 7.24, 7.44)
    """
    values = [float(quantity(law)) for law in _corners()]
    return min(values), max(values)


def power_law_corners(name: str) -> tuple[PowerLaw, ...]:
    """The four laws at the ends of what the printed digits of a power law leave open.

    >>> [round(law(1e20), 6) for law in power_law_corners("learning_rate")]
    [0.001011, 0.001015, 0.001011, 0.001015]
    """
    law: PowerLaw = getattr(PUBLISHED, name)
    digits = _printed(name)["coefficients"]
    ends = [
        [getattr(law, key) + sign * half_unit(str(digits[key])) for sign in (-1, 1)]
        for key in law.coefficient_names
    ]
    return tuple(law.from_coefficients(corner, law.source) for corner in itertools.product(*ends))


@cache
def _printed(name: str) -> dict[str, Any]:
    """A law of coefficients.toml with its numbers as they are printed."""
    table: dict[str, Any] = tomllib.loads(COEFFICIENTS.read_text(), parse_float=str)[name]
    return table


@cache
def _corners() -> tuple[JointLaw, ...]:
    """The published joint law with each coefficient at either end of its rounding."""
    law = PUBLISHED.joint
    ends = [
        [getattr(law, name) + sign * half for sign in (-1, 1)]
        for name, half in half_units().items()
    ]
    return tuple(law.from_coefficients(corner, law.source) for corner in itertools.product(*ends))
