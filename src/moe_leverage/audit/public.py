"""Claims that public runs of other groups decide (`evidence`), registered like the others."""

from __future__ import annotations

from moe_leverage.analysis.gates import UNJUDGED
from moe_leverage.audit.claims import Measurement, check
from moe_leverage.evidence import scores
from moe_leverage.rules import require


@check
def public(statistic: str) -> Measurement:
    """What leverages derived from public runs say of a claim, with the interval over sources."""
    known = scores.STATISTICS
    require(statistic in known, "statistic", statistic, f"must be one of {', '.join(known)}")
    effect, low, high, num_points = scores.statistic(statistic)
    detail = f"{num_points} points derived from public runs"
    if low == float("-inf"):
        detail += " of one source, over which no interval can be drawn"
    # what other groups tuned and balanced is not known, so that no gate can be asked
    return Measurement(
        effect=effect, low=low, high=high, detail=f"{UNJUDGED}; {detail}", gates=(UNJUDGED,)
    )
