"""The models of the paper's tables (7 to 11) with their axes and counts, a row each.

A, G, S    activation ratio, granularity, shared-expert ratio
N, N_a     total and active parameters outside the vocabulary
M          non-embedding FLOPs of one token, convention `exact`
"""

from __future__ import annotations

import pandas as pd

from moe_leverage import paper
from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.config import ModelConfig

PAPER_SEQUENCE = 4_096  # Appendix B


def sizes_of(number: int, sequence_length: int = PAPER_SEQUENCE) -> pd.DataFrame:
    """Table `number` with A, G, S, N, N_a and M of each row's model, counted exactly.

    `attention_share` is attention's part of M; `projection_share` is the same with the scores,
    which grow with the sequence, left out on both sides.

    >>> round(float(sizes_of(8)["attention_share"].iloc[0]), 3)
    0.722
    """
    counted = [_sizes(model, sequence_length) for model in paper.models(number)]
    return pd.concat([paper.table(number), pd.DataFrame(counted)], axis=1)


def _sizes(model: ModelConfig, sequence_length: int) -> dict[str, float]:
    parameters = count_parameters(model)
    forward = count_forward_flops(model, sequence_length)
    attention = forward.attention_projections + forward.attention_scores
    without_scores = forward.non_embedding - forward.attention_scores
    return {
        "activation_ratio": model.activation_ratio,
        "granularity": model.granularity,
        "shared_ratio": model.shared_ratio,
        "total_params": parameters.non_vocabulary,
        "active_params": parameters.active_non_vocabulary,
        "flops_per_token": forward.non_embedding,
        "attention_share": attention / forward.non_embedding,
        "projection_share": forward.attention_projections / without_scores,
    }
