"""EL by any law that gives it, with its definition where the formula and the definition part.

EL is the compute of a dense model over that of a mixture of the same loss (Equation 1), so a model
whose experts are all active, A = 1, has EL = 1 at every granularity and compute. Equation 13 does
not know that: as printed it gives 0.99 there, fitted to other runs it may give anything. Answers to
a reader go through `efficiency_leverage`; fits, and figures of a formula, call the law itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moe_leverage.theory.law import Law, plain


def efficiency_leverage(
    law: Law, *, activation_ratio: ArrayLike, granularity: ArrayLike, compute: ArrayLike
) -> Any:
    """EL at (A, G, C), broadcast together: 1 at A = 1 by definition, the law below it.

    >>> from moe_leverage.theory.laws import PUBLISHED
    >>> efficiency_leverage(PUBLISHED.joint, activation_ratio=1, granularity=12, compute=1e22)
    1.0
    >>> round(PUBLISHED.joint(activation_ratio=1, granularity=12, compute=1e22), 2)
    0.99
    """
    formula = law.evaluate(
        activation_ratio=activation_ratio, granularity=granularity, compute=compute
    )
    return plain(np.where(np.asarray(activation_ratio) == 1, 1.0, formula))
