"""What the models of Tables 3 and 7 to 11 cost, row by row (Appendices C and F).

One table per paper table: `paper.counted`, and beside it what the published laws say of the row.
Checks and leads read these columns and count nothing themselves.

    M     flops_per_token   non-embedding FLOPs of one token's forward pass, convention `exact`
    D     num_tokens        printed budget / (3 M)
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from moe_leverage import paper
from moe_leverage.accounting import TRAINING_PASSES
from moe_leverage.theory.laws import PUBLISHED

IN_WORDS = {  # what is counted of a model, as a reader calls it
    "total": "with logits",
    "non_embedding": "without logits",
    "non_vocabulary": "outside the vocabulary",
    "active_non_vocabulary": "active, outside the vocabulary",
}
GROUPED_TABLES = (7, 8, 9, 10, 11)  # six groups of models, one for each training budget


@cache
def _listed(number: int) -> pd.DataFrame:
    frame = paper.counted(number)
    return _budgeted(frame) if number in GROUPED_TABLES else frame


def listed(number: int) -> pd.DataFrame:
    """Printed cells and computed costs of the models of one table.

    >>> round(float(listed(7)["total_params"].max()) / 1e9, 1)
    27.9
    """
    return _listed(number).copy()


def token_multiple(
    frame: pd.DataFrame, passes_in_law: int, passes_in_budget: int
) -> pd.Series[float]:
    """D over the optimal D of a model of this size, under one reading of C = M D.

    The size fixes the compute at which it is optimal, M_opt(C) = passes_in_law x M; that compute
    fixes D_opt (Table 1); the printed budget fixes D = C / (passes_in_budget x M).
    """
    flops = frame["flops_per_token"]
    best_compute = PUBLISHED.moe_model.compute_for(passes_in_law * flops)
    num_tokens = frame["training_flops"] / (passes_in_budget * flops)
    return pd.Series(num_tokens / PUBLISHED.moe_tokens(best_compute), index=frame.index)


def _budgeted(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns that need a training budget: tokens, multiples of the optimum, predicted leverage."""
    frame["num_tokens"] = frame["training_flops"] / (TRAINING_PASSES * frame["flops_per_token"])
    frame["token_multiple"] = token_multiple(frame, TRAINING_PASSES, TRAINING_PASSES)
    frame["published_leverage"] = PUBLISHED.joint(
        activation_ratio=frame["activation_ratio"],
        granularity=frame["granularity"],
        compute=frame["training_flops"],
    )
    return frame
