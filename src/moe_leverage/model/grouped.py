"""Products of rows, sorted by expert, with the matrix of their expert: the arithmetic of dispatch.

    multiply    out[r] = rows[r] weights[e]                     for the rows r of expert e
    outer       out[e] = sum over the rows r of e of rows[r]^T others[r]

    R  rows, those of expert e before those of e + 1     E  experts     i, o  widths in and out

They go to PyTorch's `grouped_mm`, and in a compiled step on a CPU to C++ of our own, which reads
rows where they lie instead of gathering them first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from moe_leverage.model.native import functions as native
from moe_leverage.model.native.door import runs_here


def multiply(
    rows: Float[Tensor, "_ i"],
    weights: Float[Tensor, "E i o"],
    ends: Int[Tensor, " E"],
    which: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, "R o"]:
    """Every row, or `rows[which]`, times the matrix of its expert.

    `ends`, int32, is the row after an expert's last.

    >>> weights = torch.stack((torch.eye(4), 2 * torch.eye(4)))
    >>> multiply(torch.ones(3, 4), weights, torch.tensor([1, 3], dtype=torch.int32))[:, 0]
    tensor([1., 2., 2.])
    """
    if runs_here("multiply", rows, *weights.shape[1:]):
        return native.multiply(rows, weights, ends, which)
    rows = rows if which is None else rows.index_select(0, which)
    out: Tensor = _multiply(rows, weights, ends)
    return out


def outer(
    rows: Float[Tensor, "_ i"],
    others: Float[Tensor, "_ o"],
    ends: Int[Tensor, " E"],
    which: Int[Tensor, " R"] | None = None,
    which_others: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, "E i o"]:
    """Sum over the rows of each expert of row^T other, zero where an expert has none.

    >>> outer(torch.ones(3, 4), torch.ones(3, 4), torch.tensor([1, 3], dtype=torch.int32))[:, 0, 0]
    tensor([1., 2.])
    """
    if runs_here("outer", rows, others.shape[1]):
        return native.outer(rows, others, ends, which, which_others)
    rows = rows if which is None else rows.index_select(0, which)
    others = others if which_others is None else others.index_select(0, which_others)
    out: Tensor = _outer(rows, others, ends)
    return out


def gather(rows: Float[Tensor, "_ i"], which: Int[Tensor, " R"]) -> tuple[Tensor, Tensor | None]:
    """rows[which] for several products: gathered once, or where they lie if all read them there."""
    if runs_here("gather", rows):
        return rows, which
    return rows.index_select(0, which), None


# Operators of our own, since the compiler takes `grouped_mm` in bf16 alone.
@torch.library.custom_op("moe_leverage::grouped_multiply", mutates_args=())
def _multiply(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    if _has_grouped(rows):
        return F.grouped_mm(rows, weights, offs=ends)
    return torch.cat([rows[at] @ weights[expert] for expert, at in enumerate(_slices(ends))])


@torch.library.custom_op("moe_leverage::grouped_outer", mutates_args=())
def _outer(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    if _has_grouped(rows):
        return F.grouped_mm(rows.t(), others, offs=ends)
    return torch.stack([rows[at].t() @ others[at] for at in _slices(ends)])


@_multiply.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[2])


@_outer.register_fake
def _(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(ends.shape[0], rows.shape[1], others.shape[1])


def _has_grouped(rows: Tensor) -> bool:
    return rows.dtype != torch.float64  # in which only gradients are checked


def _slices(ends: Tensor) -> list[slice]:
    stops = ends.tolist()
    return [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]
