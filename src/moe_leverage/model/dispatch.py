"""Dropless dispatch: every token to its chosen experts, all experts at once (Appendix B).

Computes what the loop over experts in `model` says: sum over the chosen of g_i E_i(x).

    T  tokens                  E  routed experts       R  slots, places where one token
    K  experts per token       D  width of the model      meets one expert
    H  width of an expert
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe_leverage.model.grouped import gather, multiply, outer
from moe_leverage.model.kernels import apply, swiglu_gradient
from moe_leverage.model.native import functions as native
from moe_leverage.model.native.door import runs_here


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """Where each assignment of a token to an expert is computed, sorted by expert."""

    tokens: Int[Tensor, " R"]  # token read by each slot
    slots: Int[Tensor, "T K"]  # slot of each assignment
    ends: Int[Tensor, " E"]  # the slot after each expert's last


def place(chosen: Int[Tensor, "T K"], counts: Int[Tensor, " E"]) -> Slots:
    """Slots for the experts chosen; `counts` are the assignments to each expert.

    >>> place(torch.tensor([[1], [0], [1]]), torch.tensor([1, 2])).tokens
    tensor([1, 0, 2])
    """
    if runs_here("place", chosen):
        tokens, slots, ends = native.place(chosen, counts)
        return Slots(tokens=tokens, slots=slots, ends=ends)
    order = chosen.flatten().argsort(stable=True)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order), device=order.device)
    return Slots(
        tokens=order // chosen.shape[1],
        slots=slots.view_as(chosen),
        ends=counts.cumsum(0).to(torch.int32),
    )


def experts(
    tokens: Float[Tensor, "T D"],
    gates: Float[Tensor, "T K"],
    gate_up: Float[Tensor, "E D 2H"],
    down: Float[Tensor, "E H D"],
    slots: Slots,
) -> Float[Tensor, "T D"]:
    """Sum over the chosen of gate x down(swiglu(gate_up(token))), no token dropped.

    The gate is applied before `down`, where rows are H wide: g (h W) = (g h) W.
    """
    if torch.is_autocast_enabled(tokens.device.type):
        dtype = torch.get_autocast_dtype(tokens.device.type)
        tokens, gates = tokens.to(dtype), gates.to(dtype)
        gate_up, down = gate_up.to(dtype), down.to(dtype)
    return apply(_Experts, tokens, gates, gate_up, down, slots)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor, at: Slots
    ) -> Tensor:
        spread = gates.new_empty(len(at.tokens))
        spread[at.slots] = gates
        spread = spread.unsqueeze(-1)
        wide = multiply(tokens, gate_up, at.ends, at.tokens)
        gate, up = wide.chunk(2, dim=1)
        active = F.silu(gate)
        inner = active * up
        gated = inner * spread
        ctx.at = at
        ctx.save_for_backward(tokens, gate_up, down, spread, wide, active, inner, gated)
        return F.embedding_bag(at.slots, multiply(gated, down, at.ends), mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        at: Slots = ctx.at
        tokens, gate_up, down, spread, wide, active, inner, gated = ctx.saved_tensors
        grad_out, which = gather(grad, at.tokens)
        grad_down = outer(gated, grad_out, at.ends, which_others=which)
        grad_gated = multiply(grad_out, down.transpose(1, 2), at.ends, which)
        grad_gates = (grad_gated * inner).sum(dim=-1)[at.slots]
        grad_wide = swiglu_gradient(grad_gated.mul_(spread), wide, active)
        grad_gate_up = outer(tokens, grad_wide, at.ends, at.tokens)
        grad_rows = multiply(grad_wide, gate_up.transpose(1, 2), at.ends)
        grad_tokens = F.embedding_bag(at.slots, grad_rows, mode="sum")
        return grad_tokens, grad_gates, grad_gate_up, grad_down, None
