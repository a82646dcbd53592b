"""What PyTorch's own counter finds in the built model, beside the formulas of `accounting`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe_leverage.accounting import count_forward_flops
from moe_leverage.config import ModelConfig
from moe_leverage.model.transformer import build_model

ENDS = (  # of the names of modules whose products are told apart
    ".attention", ".attention.router", ".query_key_value", ".key_value", ".output", ".ffn",
    ".ffn.shared",
)  # fmt: skip


def counter_table(model: ModelConfig, sequence_length: int) -> pd.DataFrame:
    """FLOPs of one forward pass of the built model: our formula beside PyTorch's own counter.

    The counter does not know the fused attention of a CPU, so attention is run in its unfused
    form, and experts one after the other, since a grouped product may pad. The router is counted by
    itself; the routed experts are what else an MoE layer computes outside its shared experts.
    """
    built = build_model(model, seed=0, dispatch="loop")
    tokens = torch.arange(sequence_length).remainder(model.vocab_size)[None]
    hidden = torch.zeros(sequence_length, model.d_model)
    found = _counts(lambda: built(tokens))
    router = sum(_counts(functools.partial(m.route, hidden))["Global"] for m in built.routers())
    by_end = {
        end: sum(flops for name, flops in found.items() if name.endswith(end)) for end in ENDS
    }
    gate = by_end[".attention.router"]
    projections = by_end[".query_key_value"] + by_end[".key_value"] + by_end[".output"]
    experts = by_end[".ffn"] - by_end[".ffn.shared"] - router
    counted = {
        "attention_projections": projections,
        "attention_scores": by_end[".attention"] - projections - gate,
        "router": router + gate,
        "routed_experts": experts if model.is_moe else 0,
        "shared_experts": by_end[".ffn.shared"],
        "dense_ffn": 0 if model.is_moe else experts,
        "logits": found["Transformer.unembed"],
    }
    forward = count_forward_flops(model, sequence_length)
    rows = [(name, sequence_length * getattr(forward, name), n) for name, n in counted.items()]
    rows.append(("total", sequence_length * forward.total, found["Global"]))
    table = pd.DataFrame(rows, columns=["component", "formula_flops", "counter_flops"])
    return table[(table["formula_flops"] > 0) | (table["counter_flops"] > 0)]


def training_over_forward(model: ModelConfig, sequence_length: int) -> float:
    """FLOPs that PyTorch counts for forward and backward, over those of the forward pass alone."""
    built = build_model(model, seed=0, dispatch="loop")
    tokens = torch.arange(sequence_length).remainder(model.vocab_size)[None]
    totals = []
    for passes in ("forward", "forward and backward"):
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            loss = built(tokens).logits.logsumexp(-1).mean()
            if passes != "forward":
                loss.backward()
        totals.append(counter.get_total_flops())
    return totals[1] / totals[0]


def _counts(call: Callable[[], object]) -> dict[str, int]:
    """FLOPs by module name of one call."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
