"""Every layout that a design is chosen from: widths, expert widths and active experts on a grid.

Models whose sizes are arrays, one entry a layout, so that `accounting` counts all of them at once;
depth and the number of routed experts are what the search then sets.
"""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_leverage.config import ModelConfig, RoutingConfig
from moe_leverage.theory.laws import PUBLISHED

WIDTHS = (128, *range(256, 2048, 256), *range(2048, 16_385, 512))  # d_model
WIDE = 2048  # from this d_model on, heads are 128 wide instead of 64 and experts multiples of 64
EXPERT_MULTIPLES = (16, 64)  # of d_expert, below WIDE and from it on
KV_GROUP = 4  # query heads for each key-value head, as in both models of Table 3
KV_RANKS = (8, 4, 2, 1)  # ranks over which key-value heads are to divide, the most first
MAX_ACTIVE = 32
ACTIVE_FFN_RATIO = (2.0, 4.0)  # active FFN width / d_model: the paper's baseline has 3
NUM_SHARED = 1  # one shared expert is the paper's advice (Section 4.1)
NUM_DENSE = 1  # first layers with a dense FFN, as in Ling-mini-beta; EL of about 1 (Appendix D)
# transformers has no class with raw gates beside shared experts; renormalised ones it has.
ROUTING = RoutingConfig(renormalise=True)

Column = NDArray[np.float64]


def layouts(vocab_size: int) -> SimpleNamespace:
    """Every width, expert width and number of active experts, two layers deep, without experts."""
    low, high = PUBLISHED.joint.domain["granularity"]
    found = []
    for d_model in WIDTHS:
        multiple = EXPERT_MULTIPLES[d_model >= WIDE]
        for d_expert in range(multiple, int(2 * d_model / low) + 1, multiple):
            active = np.arange(1, MAX_ACTIVE + 1)
            ratio = (active + NUM_SHARED) * d_expert / d_model
            kept = (ratio >= ACTIVE_FFN_RATIO[0]) & (ratio <= ACTIVE_FFN_RATIO[1])
            if 2 * d_model / d_expert <= high:
                found += [(d_model, d_expert, int(n)) for n in active[kept]]
    d_model, d_expert, active = np.array(found).T
    shallow = np.full_like(active, NUM_DENSE + 1)
    return as_model(d_model, d_expert, active, shallow, vocab_size)


def as_model(
    d_model: Column,
    d_expert: Column,
    active: Column,
    num_layers: Column,
    vocab_size: int,
) -> SimpleNamespace:
    """A model whose sizes are arrays, for `accounting`; E is still 0."""
    d_head = np.where(d_model >= WIDE, 128, 64)
    heads = d_model // d_head
    d_active_ffn = (active + NUM_SHARED) * d_expert
    defaults = {f.name: f.default for f in fields(ModelConfig)}
    sizes = {
        "vocab_size": vocab_size,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": heads,
        "num_kv_heads": kv_heads(heads),
        "d_head": d_head,
        "d_ffn": d_active_ffn,
        "num_experts": np.zeros_like(active),
        "num_active_experts": active,
        "num_shared_experts": NUM_SHARED,
        "d_expert": d_expert,
        "d_shared": NUM_SHARED * d_expert,
        "num_dense_layers": NUM_DENSE,
        "routing": ROUTING,
        "is_moe": True,
        "num_moe_layers": num_layers - NUM_DENSE,
        "d_active_ffn": d_active_ffn,
    }
    return SimpleNamespace(**defaults | sizes)


def changed(model: SimpleNamespace, **changes: Any) -> SimpleNamespace:
    """The same with other arrays for some sizes."""
    return SimpleNamespace(**vars(model) | changes)


def kv_heads(heads: Column) -> Column:
    """A fourth of the heads, brought down or up to what divides over 2, 4 or 8 ranks."""
    wanted = np.maximum(heads // KV_GROUP, 1)
    found = np.ones_like(wanted)
    for ranks in KV_RANKS[::-1]:
        nearest = np.maximum(wanted // ranks * ranks, ranks)
        fits = (heads % nearest == 0) & (wanted >= ranks)
        found = np.where(fits, nearest, found)
    return found
