"""Each C++ function of a compiled step beside the library's, at the sizes of the training bench.

python -m bench kernels

The two take turns in one process, on all threads, with arrays that stay in the caches; in a step
both also wait for memory. The experts' loads are uneven, as routers here make them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.bench_training import (
    BATCH_TOKENS,
    SEQUENCE_LENGTH,
    SHAPES,
    Shape,
    Step,
    figure,
    median_ratio,
    take_turns,
)
from moe_leverage.model import dispatch, grouped, kernels, routing
from moe_leverage.model.native import door
from moe_leverage.model.native import functions as native
from moe_leverage.model.transformer import rotations
from moe_leverage.training.machine import Execution, machine_of

TURNS = 40
FAVOUR = 0.7  # standard deviation over experts of what a router adds to a score of deviation one

Call = Callable[[], object]


def run() -> list[dict[str, Any]]:
    """One row a figure: name, shape, value, unit, peer, ratio, target, met."""
    print(door.why())
    rows = []
    with machine_of(Execution(device="cpu")):
        for shape in SHAPES:
            for name, ours, peer, theirs in (attention(shape), products(shape), places(shape)):
                sides = {"ours": whatever_the_tokens(ours), "theirs": whatever_the_tokens(theirs)}
                seconds = take_turns(sides, turns=TURNS)
                ratio = median_ratio(seconds["theirs"], seconds["ours"])
                rows.append(figure(name, shape, seconds["ours"], "s", peer, ratio))
    return rows


def whatever_the_tokens(call: Call) -> Step:
    """A step that does the same in each turn."""
    return lambda tokens: call()


def attention(shape: Shape) -> tuple[str, Call, str, Call]:
    """Rotation, attention and their gradients in one layer."""
    model = shape.moe()
    heads = (model.num_heads, model.num_kv_heads)
    turned, all_heads = sum(heads), sum(heads) + model.num_kv_heads
    turns = rotations(SEQUENCE_LENGTH, model, torch.device("cpu"))
    batch = BATCH_TOKENS // SEQUENCE_LENGTH
    packed = torch.randn(batch, SEQUENCE_LENGTH, all_heads * model.d_head, requires_grad=True)
    grad = torch.randn(batch, SEQUENCE_LENGTH, model.num_heads * model.d_head)

    def ours() -> object:
        return torch.autograd.grad(native.attention(packed, turns, *heads), packed, grad)

    def theirs() -> object:
        apart = kernels.heads_first(packed, all_heads, turns, turned)
        mixed = kernels._CausalAttention.plain(apart, *heads)
        return torch.autograd.grad(mixed, packed, grad)

    return "attention of a layer", ours, "scaled_dot_product_attention", theirs


def products(shape: Shape) -> tuple[str, Call, str, Call]:
    """All six products of the experts of one layer, forward and backward."""
    model = shape.moe()
    width, inner, experts = model.d_model, model.d_expert, model.num_experts
    chosen = scores_of(shape).topk(model.num_active_experts).indices
    at = dispatch.place(chosen, routing.count(chosen, experts))
    tokens, grad = torch.randn(2, BATCH_TOKENS, width)
    wide, narrow = torch.randn(len(at.tokens), 2 * inner), torch.randn(len(at.tokens), inner)
    gate_up, down = torch.randn(experts, width, 2 * inner), torch.randn(experts, inner, width)

    def with_functions(multiply: Any, outer: Any, gather: Any) -> object:
        grad_out, which = gather(grad, at.tokens)
        return (
            multiply(tokens, gate_up, at.ends, at.tokens),
            multiply(narrow, down, at.ends),
            outer(narrow, grad_out, at.ends, None, which),
            multiply(grad_out, down.transpose(1, 2), at.ends, which),
            outer(tokens, wide, at.ends, at.tokens),
            multiply(wide, gate_up.transpose(1, 2), at.ends),
        )

    return (
        "products of a layer",
        lambda: with_functions(native.multiply, native.outer, lambda rows, which: (rows, which)),
        "index_select and grouped_mm",
        lambda: with_functions(grouped.multiply, grouped.outer, grouped.gather),
    )


def places(shape: Shape) -> tuple[str, Call, str, Call]:
    """From the scores of one layer to the slots of its assignments."""
    count, experts, scores = (
        shape.moe().num_active_experts,
        shape.moe().num_experts,
        scores_of(shape),
    )

    def ours() -> object:
        chosen = native.largest(scores, count)
        return native.place(chosen, routing.count(chosen, experts))

    def theirs() -> object:
        chosen = scores.topk(count).indices
        return dispatch.place(chosen, routing.count(chosen, experts))

    return "selection and places of a layer", ours, "topk and argsort", theirs


def scores_of(shape: Shape) -> torch.Tensor:
    """Scores [T, E] that favour some experts."""
    generator = torch.Generator().manual_seed(0)
    experts = shape.moe().num_experts
    favour = FAVOUR * torch.randn(experts, generator=generator)
    return torch.randn(BATCH_TOKENS, experts, generator=generator) + favour
