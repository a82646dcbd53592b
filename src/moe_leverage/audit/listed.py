"""What the models of Tables 3 and 7 to 11 cost, row by row (Appendices C and F).

One table per paper table: the printed cells, and beside them everything that our accounting and
the published laws say of the row. Checks and leads read these columns and count nothing themselves.

    M     flops_per_token   non-embedding FLOPs of one token's forward pass, convention `exact`
    D     num_tokens        printed budget / (3 M)
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from moe_leverage import paper
from moe_leverage.accounting import TRAINING_PASSES, count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig
from moe_leverage.theory.laws import PUBLISHED

GROUPED_TABLES = (7, 8, 9, 10, 11)  # six groups of models, one for each training budget


@cache
def _listed(number: int, sequence_length: int) -> pd.DataFrame:
    cells = paper.table(number)
    costs = pd.DataFrame([_costs(model, sequence_length) for model in paper.models(number)])
    extra = costs.drop(columns=[name for name in costs if name in cells])
    frame = pd.concat([cells, extra], axis=1)
    return _budgeted(frame) if number in GROUPED_TABLES else frame


def listed(number: int, sequence_length: int = paper.SEQUENCE_LENGTH) -> pd.DataFrame:
    """Printed cells and computed costs of the models of one table.

    >>> round(float(listed(7)["total_params"].max()) / 1e9, 1)
    27.9
    """
    return _listed(number, sequence_length).copy()


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


def _costs(model: ModelConfig, sequence_length: int) -> dict[str, float]:
    exact = count_forward_flops(model, sequence_length)
    printed = count_forward_flops(model, sequence_length, "paper")
    count = count_parameters(model)
    projections, scores = exact.attention_projections, exact.attention_scores
    experts = exact.non_embedding - projections - scores
    return {
        "activation_ratio": model.activation_ratio,
        "granularity": model.granularity,
        "shared_ratio": model.shared_ratio,
        "total_params": count.non_vocabulary,
        "active_params": count.active_non_vocabulary,
        "flops_per_token": exact.non_embedding,
        "printed_flops_per_token": printed.non_embedding,
        "logits_flops": exact.logits,
        "router_share": exact.router / exact.non_embedding,
        "logits_share": exact.logits / exact.total,
        "attention_share": (projections + scores) / exact.non_embedding,
        "printed_attention_share": (printed.attention_projections + printed.attention_scores)
        / printed.non_embedding,
        "causal_attention_share": (projections + scores / 2) / (exact.non_embedding - scores / 2),
        "projection_ratio": printed.attention_projections / projections,
        "projection_share": projections / (projections + experts),
    }


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
