"""Claims about models that are pruned while they train: which count of them the dense law takes.

See `analysis.journey`; the effects are means over the pruned runs of a study, their 90 % intervals
from the dense law's residuals and the schedules, both drawn anew.

    error     mean of ln(measured / predicted) at the average count
    final     mean |ln error| at the final count less that at the average
    first     mean |ln error| at the first count less that at the average
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_leverage.analysis import journey
from moe_leverage.analysis.bootstrap import LEVEL
from moe_leverage.audit import evidence
from moe_leverage.audit.claims import Measurement, check
from moe_leverage.rules import one_of, require
from moe_leverage.theory.law import Array

DRAWS = 1_000
READINGS = list(journey.COUNTS)
EFFECTS: dict[str, Callable[[Array], Array]] = {  # of means and mean sizes, (..., reading, 2)
    "error": lambda found: found[..., READINGS.index("average"), 0],
    "final": lambda found: found[..., READINGS.index("final"), 1] - found[..., 0, 1],
    "first": lambda found: found[..., READINGS.index("first"), 1] - found[..., 0, 1],
}


@check
def average_count(study: str, statistic: str) -> Measurement:
    """One of the statistics above for the pruned runs of a study, or why there is none."""
    require(statistic in EFFECTS, "statistic", statistic, one_of(EFFECTS))
    if lacking := evidence.shortfall([study]):
        return Measurement(effect=None, detail=f"decided when complete: {lacking}")
    runs = evidence.runs([study])
    if runs.empty:
        return Measurement(effect=None, detail=f"no finished run of the study {study}")
    errors = journey.errors(runs).to_numpy(float)
    means = np.column_stack([errors.mean(axis=0), np.abs(errors).mean(axis=0)])
    effect = float(EFFECTS[statistic](means))
    draws = EFFECTS[statistic](journey.resampled(runs, DRAWS))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    failing = evidence.failing_gates([study])
    words = (
        f"{len(errors)} pruned runs of {study}, predicted by {len(runs) - len(errors)} dense ones"
    )
    detail = f"{', '.join(failing)}; {words}" if failing else words
    return Measurement(
        effect=effect, low=float(low), high=float(high), detail=detail, gates=failing
    )
