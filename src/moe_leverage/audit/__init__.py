"""The audit: every published number checked, and the questions its numbers leave open settled.

`claims` holds what the paper says, `checks` recomputes it, `measured` asks our runs, `verdicts`
puts it together, `leads` settles twelve places where printed numbers do not obviously agree.
"""

from moe_leverage.audit.claims import LABELS, Claim, load_claims, load_neighbours, load_statements
from moe_leverage.audit.conclusions import Conclusion, conclusions
from moe_leverage.audit.verdicts import (
    Verdict,
    audit,
    audit_neighbours,
    audit_statements,
    counts,
    decide,
    folded_table,
    html_table,
    table,
)

__all__ = [
    "LABELS", "Claim", "Conclusion", "Verdict", "audit", "audit_neighbours",
    "audit_statements", "conclusions", "counts", "decide", "folded_table", "html_table",
    "load_claims", "load_neighbours", "load_statements", "table",
]  # fmt: skip
