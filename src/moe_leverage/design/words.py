"""The words of a config that speak of its shape, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

STRUCTURE = re.compile(
    r"layers?|experts?|(^|_)moe(_|$)|hidden_(size|dim)|intermediate|head|vocab|rank|(^|_)d_|dim$"
    r"|width|n_embd|ffn|(^|_)mlp|shared|mtp|nextn|window|interval|period|freq|pattern|block|state"
    r"|expand|inner|(^|_)k$|top_?k|(^|_)(no_|use_)?bias$|tie_|kernel|latent|first_k|(^|_)n_groups?$"
)
OTHER = re.compile(
    r"drop|_id$|_ids$|loss|coef|jitter|output_(hidden|router|att)|norm_eps|epsilon|initializer"
    r"|rope|rotary|position|chunk_size_feed|act$|_act_|activation|_fn$|aux|std|scal|cache|version"
    r"|kernels$|quant|dtype|method|norm_topk|implementation|classifier|label|token|_name|noise|dsa_"
    r"|score_func|scoring|seq_|ep_size|tp_size|pretraining|deepstack|alibi|prune|return_dict"
)
EXPERTS = re.compile(r"expert|(^|_)moe(_|$)")
NUMBER_OF_EXPERTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
    "num_routed_experts", "n_experts", "moe_num_routed_experts",
)  # fmt: skip


def is_structural(key: str) -> bool:
    """Whether a key of a config speaks of the shape of the model.

    >>> [key for key in ("num_experts", "attention_dropout") if is_structural(key)]
    ['num_experts']
    """
    return STRUCTURE.search(key) is not None and OTHER.search(key) is None


def expert_words(raw: Mapping[str, Any]) -> list[str]:
    """Keys that say something of experts; nothing, null, false, 0 and 1 expert say nothing.

    >>> expert_words({"moe_intermediate_size": 32, "num_experts": 0, "router_aux_loss_coef": 0.1})
    ['moe_intermediate_size']
    """
    return [
        key
        for key, value in raw.items()
        if value not in (None, 0, 1, -1, False, [], {})
        and EXPERTS.search(key)
        and not OTHER.search(key)
    ]


def says_dense(raw: Mapping[str, Any]) -> bool:
    """Whether a number of experts is given and is none, or one."""
    return any(key in raw and raw[key] in (0, 1, None) for key in NUMBER_OF_EXPERTS)
