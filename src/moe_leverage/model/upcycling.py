"""A mixture made of dense models that began as one and were trained on different text.

Branch-Train-Mix keeps the FFN of every branch as an expert and averages the rest; BAM
(arXiv 2408.08274) keeps the attentions as well, each whole or with keys and values averaged and
shared. Routers are new. What kind it is follows from the shape asked for:

    num_attention_experts = 0                            FFN-only, attention averaged
    num_attention_experts = K                            BAM, full attention experts
    num_attention_experts = K, shares_key_values         BAM with shared keys and values

    K    branches, and so experts of every layer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moe_leverage.config import ModelConfig
from moe_leverage.model.transformer import Dispatch, Transformer, build_model
from moe_leverage.stages import require_branches


def upcycled(
    branches: Sequence[Transformer],
    config: ModelConfig,
    seed: int,
    dispatch: Dispatch = "grouped",
) -> Transformer:
    """The mixture `config` with the weights of `branches`; its routers are drawn from `seed`.

    An expert's place is its branch's. Raises ValueError for shapes that do not fit together,
    before anything is built.

    >>> shape = ModelConfig(vocab_size=32, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> branches = [build_model(shape, seed) for seed in (0, 1)]
    >>> mixture = ModelConfig(vocab_size=32, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     num_experts=2, num_active_experts=1, d_expert=16)
    >>> made = upcycled(branches, mixture, seed=0)
    >>> torch.equal(made.layers[0].ffn.down[1], branches[1].layers[0].ffn.down.weight.T)
    True
    """
    require_branches([branch.config for branch in branches], config)
    made = build_model(config, seed, dispatch)
    weights = [dict(branch.named_parameters()) for branch in branches]
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if ".router." not in name:
                weight.copy_(_weight(name, weights, config))
    return made


def _weight(name: str, branches: Sequence[Mapping[str, Tensor]], config: ModelConfig) -> Tensor:
    """One weight of the mixture from those of its branches."""
    block, _, part = name.partition(".ffn.")
    if part in ("gate_up", "down"):
        return torch.stack([branch[f"{block}.ffn.{part}.weight"].T for branch in branches])
    block, _, part = name.partition(".attention.")
    queries = config.num_heads * config.d_head
    if part.startswith("experts."):
        place, part = part.removeprefix("experts.").split(".", 1)
        whole = branches[int(place)][f"{block}.attention.{part}"]
        is_cut = config.shares_key_values and part.startswith("query_key_value")
        return whole[:queries] if is_cut else whole
    if part.startswith("key_value."):
        kind = part.removeprefix("key_value.")
        return _mean(f"{block}.attention.query_key_value.{kind}", branches)[queries:]
    return _mean(name, branches)


def _mean(name: str, branches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    return torch.stack([branch[name] for branch in branches]).mean(dim=0)
