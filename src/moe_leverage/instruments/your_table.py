"""What the page needs to read a reader's table as `moe-leverage fit` does: names and constants.

The page reads the simple case of `your_runs`: a row a finished run, loss in nats, compute in FLOPs.
Whatever needs more (other units, checkpoints, compute from shapes, the floor of the frontier, laws)
it leaves to the command, and says so.
"""

from __future__ import annotations

from typing import Any

from moe_leverage.analysis.bootstrap import LEVEL, student_ratio
from moe_leverage.analysis.leverage import MIN_SEED_PAIRS
from moe_leverage.analysis.reductions import SAME_BUDGET
from moe_leverage.instruments.scripts import assign
from moe_leverage.your_runs.columns import MOE_WORDS, SYNONYMS
from moe_leverage.your_runs.plausible import PLAUSIBLE

READ = (
    "loss", "compute", "is_moe", "activation_ratio", "granularity", "shared_ratio", "num_experts",
    "num_active_experts", "num_shared_experts", "d_model", "d_expert", "flops_per_token",
    "num_tokens", "active_params", "learning_rate", "batch_tokens", "seed",
)  # fmt: skip
LEFT = ("step", "status", "outlier", "variant")  # whose rows only the command tells apart
MOST_FREEDOM = 200


def payload() -> dict[str, Any]:
    """Names of columns, words for a mixture, limits, and the constants of the intervals.

    >>> payload()["level"]
    0.9
    """
    own = {ours: [ours, *SYNONYMS.get(ours, ((),))[0]] for ours in (*READ, *LEFT)}
    return {
        "names": own,
        "left": list(LEFT),
        "moeWords": MOE_WORDS,
        "plausible": {name: PLAUSIBLE[name][:2] for name in ("loss", "compute")},
        "sameBudget": SAME_BUDGET,
        "level": LEVEL,
        "least": MIN_SEED_PAIRS,
        "studentRatio": [float(f"{student_ratio(n):.12g}") for n in range(1, MOST_FREEDOM + 1)],
    }


def script() -> str:
    """The payload as a script."""
    return assign("tableData", payload())
