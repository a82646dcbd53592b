"""The saturating transform of the activation ratio, Equation 10 (after Clark et al., 2022).

A    activation ratio
A^   saturated activation ratio, between A_start and A_max
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moe_leverage.rules import require
from moe_leverage.theory.law import Array, plain

START_BOX = {"a_start": (math.log(1e-3), math.log(0.3)), "a_max": (0.0, math.log(1e6))}


def saturated_activation_ratio(a: ArrayLike, a_start: float, a_max: float) -> Any:
    """A^ of Equation 10: 1/A^ = 1 / (A + (1/A_start - 1/A_max)^-1) + 1/A_max.

    It rises from A_start at A = 0 to A_max for large A. As printed, A^(1) is not 1: with Table 2 it
    is 1.0163, so the printed law gives a dense model EL(A = 1) = A^^alpha, about 0.99, and not the
    1 that the text claims. The form is kept as printed.

    >>> round(saturated_activation_ratio(1.0, 1.63e-2, 5.28e16), 4)
    1.0163
    >>> round(saturated_activation_ratio(0.0, 1.63e-2, 5.28e16), 4)
    0.0163
    """
    require(0 < a_start < a_max, "a_start", a_start, f"must lie between 0 and a_max = {a_max:g}")
    offset = 1 / (1 / a_start - 1 / a_max)
    return plain(1 / (1 / (np.asarray(a, dtype=float) + offset) + 1 / a_max))


def saturation(theta: Array, a: Array) -> tuple[Array, Array, Array]:
    """Ln A^ and its derivatives by ln A_start and ln A_max; NaN where A_start > A_max.

    Where both are equal A^ is that value, whatever A: runs whose leverage does not depend on A
    drive a fit there.
    """
    with np.errstate(all="ignore"):
        a_start, a_max = np.exp(theta[..., 0, None]), np.exp(theta[..., 1, None])
        offset = np.where(a_start <= a_max, 1 / (1 / a_start - 1 / a_max), np.nan)
        share = 1 / (a + offset)
        saturated = 1 / (share + 1 / a_max)
        share = np.where(np.isinf(offset), 1.0, share * offset)
        slope = saturated * share * share
        return np.log(saturated), slope * (1 / a_start), (saturated - slope) * (1 / a_max)
