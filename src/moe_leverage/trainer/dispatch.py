"""Dropless dispatch: every token to its chosen experts, all experts at once (Appendix B).

Computes what the loop over experts in `model` says: sum over the chosen of g_i E_i(x).

    T  tokens                  E  routed experts       R  slots, places where one token
    K  experts per token       D  width of the model      meets one expert
    H  width of an expert      i, o  widths in and out of a matrix
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe_leverage.trainer.kernels import apply, swiglu_gradient

SMALL_CALL_FLOPS = 1_500_000  # arithmetic that the overhead of one small multiply costs on a CPU


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """Where each assignment of a token to an expert is computed; no token is dropped.

    For a grouped kernel the K T slots are sorted by expert. Without one every expert has a block
    of equally many slots, so that one batched multiply serves all, and what overflows the blocks
    follows, sorted by expert, with one small multiply for each expert that overflows.
    """

    tokens: Int[Tensor, " R"]  # token read by each slot; token 0 where the slot is padding
    slots: Int[Tensor, "T K"]  # slot of each assignment
    ends: Int[Tensor, " E"] | None  # with a grouped kernel: the slot after each expert's last
    blocked: int  # without: slots that lie in blocks
    overflow: tuple[tuple[int, slice], ...]  # experts that overflow, and the slots where

    def multiply(self, rows: Float[Tensor, "R i"], weights: Float[Tensor, "E i o"]) -> Tensor:
        """Every row times the matrix of its expert: [R, o]."""
        if self.ends is not None:
            return F.grouped_mm(rows, weights, offs=self.ends)
        num_experts, width, out_width = weights.shape
        out = rows.new_empty(len(rows), out_width)
        if self.blocked:
            block = out[: self.blocked].view(num_experts, -1, out_width)
            torch.bmm(rows[: self.blocked].view(num_experts, -1, width), weights, out=block)
        for expert, where in self.overflow:
            torch.mm(rows[where], weights[expert], out=out[where])
        return out

    def outer(self, rows: Float[Tensor, "R i"], others: Float[Tensor, "R o"], num: int) -> Tensor:
        """Sum over the rows of each expert of row^T other: [E, i, o]."""
        if self.ends is not None:
            return F.grouped_mm(rows.t(), others, offs=self.ends)
        if self.blocked:
            left, right = (x[: self.blocked].view(num, -1, x.shape[1]) for x in (rows, others))
            out = torch.bmm(left.transpose(1, 2), right)
        else:
            out = rows.new_zeros(num, rows.shape[1], others.shape[1])
        for expert, where in self.overflow:
            out[expert].addmm_(rows[where].t(), others[where])
        return out


def place(
    chosen: Int[Tensor, "T K"], counts: Int[Tensor, " E"], flops_per_row: int, dtype: torch.dtype
) -> Slots:
    """Slots for the experts chosen, as suits the device.

    The grouped kernel of a CPU runs its products one after another: fastest on one thread, while
    several threads share a batched one. `flops_per_row`, of one token in one expert, decides how
    large its blocks pay.
    """
    is_cuda = counts.device.type == "cuda"
    is_one_thread = counts.device.type == "cpu" and torch.get_num_threads() == 1
    if is_cuda or (is_one_thread and dtype != torch.float64):
        return grouped(chosen, counts)
    return blocked(chosen, counts, flops_per_row)


def grouped(chosen: Int[Tensor, "T K"], counts: Int[Tensor, " E"]) -> Slots:
    """Slots for a grouped kernel: assignments sorted by expert, nothing padded."""
    order = chosen.flatten().argsort(stable=True)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order), device=order.device)
    return Slots(
        tokens=order // chosen.shape[1],
        slots=slots.view_as(chosen),
        ends=counts.cumsum(0).to(torch.int32),
        blocked=0,
        overflow=(),
    )


def blocked(chosen: Int[Tensor, "T K"], counts: Int[Tensor, " E"], flops_per_row: int) -> Slots:
    """Slots without a grouped kernel: one block an expert, and what overflows the blocks."""
    loads = counts.tolist()
    size = _block_size(loads, flops_per_row)
    starts, overflow, free = [], [], size * len(loads)
    for expert, load in enumerate(loads):
        starts.append(free - size)  # where the rank within the expert counts from, past its block
        if load > size:
            overflow.append((expert, slice(free, free + load - size)))
            free += load - size
    assigned = chosen.flatten()
    order = assigned.argsort(stable=True)
    by_expert, device = assigned[order], order.device
    ranks = torch.arange(len(order), device=device) - (counts.cumsum(0) - counts)[by_expert]
    past = torch.tensor(starts, device=device)[by_expert] + ranks
    places = torch.where(ranks < size, by_expert * size + ranks, past)
    slots = torch.empty_like(order)
    slots[order] = places
    tokens = order.new_zeros(free)
    tokens[places] = order // chosen.shape[1]
    return Slots(
        tokens=tokens,
        slots=slots.view_as(chosen),
        ends=None,
        blocked=size * len(loads),
        overflow=tuple(overflow),
    )


def _block_size(loads: list[int], flops_per_row: int) -> int:
    """Block size with the least arithmetic, padding and the cost of further calls included."""
    call_rows = 2 * SMALL_CALL_FLOPS / flops_per_row  # two matrices an expert
    best, best_cost, above = 0, float("inf"), 0
    for rank, size in enumerate(sorted(loads, reverse=True)):
        cost = len(loads) * size + (above - rank * size) + rank * call_rows
        if cost < best_cost:
            best, best_cost = size, cost
        above += size
    return best


def experts(
    tokens: Float[Tensor, "T D"],
    gates: Float[Tensor, "T K"],
    gate_up: Float[Tensor, "E D 2H"],
    down: Float[Tensor, "E H D"],
    slots: Slots,
) -> Float[Tensor, "T D"]:
    """Sum over the chosen of gate x down(swiglu(gate_up(token))), no token dropped.

    The gate is applied before `down`, where rows are H wide: g (h W) = (g h) W. Padding has gate 0.
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
        spread = gates.new_zeros(len(at.tokens))
        spread[at.slots] = gates
        spread = spread.unsqueeze(-1)
        wide = at.multiply(tokens.index_select(0, at.tokens), gate_up)
        gate, up = wide.chunk(2, dim=1)
        active = F.silu(gate)
        inner = active * up
        gated = inner * spread
        ctx.at = at
        ctx.save_for_backward(tokens, gate_up, down, spread, wide, active, inner, gated)
        return F.embedding_bag(at.slots, at.multiply(gated, down), mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        at: Slots = ctx.at
        tokens, gate_up, down, spread, wide, active, inner, gated = ctx.saved_tensors
        grad_out = grad.index_select(0, at.tokens)
        grad_down = at.outer(gated, grad_out, len(down))
        grad_gated = at.multiply(grad_out, down.transpose(1, 2))
        grad_gates = (grad_gated * inner).sum(dim=-1)[at.slots]
        grad_wide = swiglu_gradient(grad_gated.mul_(spread), wide, active)
        grad_gate_up = at.outer(tokens.index_select(0, at.tokens), grad_wide, len(gate_up))
        grad_rows = at.multiply(grad_wide, gate_up.transpose(1, 2))
        grad_tokens = F.embedding_bag(at.slots, grad_rows, mode="sum")
        return grad_tokens, grad_gates, grad_gate_up, grad_down, None
