"""Products of rows, sorted by expert, with the matrix of their expert: the arithmetic of dispatch.

    multiply    out[r] = rows[r] weights[e]                     for the rows r of expert e
    outer       out[e] = sum over the rows r of e of rows[r]^T others[r]

    R  rows, those of expert e before those of e + 1     E  experts     i, o  widths in and out

Where several threads of a CPU share the work, fp32 goes to one batched call of Intel's MKL, which
takes every expert's number of rows as it is; `grouped_mm` there runs expert by expert. Both are
operators of their own for `torch.compile`, which cannot look into either.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of the C interface of BLAS


def multiply(
    rows: Float[Tensor, "R i"], weights: Float[Tensor, "E i o"], ends: Int[Tensor, " E"]
) -> Float[Tensor, "R o"]:
    """Every row times the matrix of its expert; `ends`, int32, is the row after an expert's last.

    >>> weights = torch.stack((torch.eye(4), 2 * torch.eye(4)))
    >>> multiply(torch.ones(3, 4), weights, torch.tensor([1, 3], dtype=torch.int32))[:, 0]
    tensor([1., 2., 2.])
    """
    out: Tensor = _multiply(rows, weights, ends)
    return out


def outer(
    rows: Float[Tensor, "R i"], others: Float[Tensor, "R o"], ends: Int[Tensor, " E"]
) -> Float[Tensor, "E i o"]:
    """Sum over the rows of each expert of row^T other, zero where an expert has none.

    >>> outer(torch.ones(3, 4), torch.ones(3, 4), torch.tensor([1, 3], dtype=torch.int32))[:, 0, 0]
    tensor([1., 2.])
    """
    out: Tensor = _outer(rows, others, ends)
    return out


@torch.library.custom_op("moe_leverage::multiply", mutates_args=())
def _multiply(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    if _is_batched(rows):
        return _multiply_batched(rows, weights, ends)
    if _has_grouped(rows):
        return F.grouped_mm(rows, weights, offs=ends)
    out = rows.new_empty(len(rows), weights.shape[2])
    for expert, where in enumerate(_slices(ends)):
        torch.mm(rows[where], weights[expert], out=out[where])
    return out


@torch.library.custom_op("moe_leverage::outer", mutates_args=())
def _outer(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    if _is_batched(rows):
        return _outer_batched(rows, others, ends)
    if _has_grouped(rows):
        return F.grouped_mm(rows.t(), others, offs=ends)
    return torch.stack([rows[where].t() @ others[where] for where in _slices(ends)])


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


def _is_batched(rows: Tensor) -> bool:
    is_shared = rows.device.type == "cpu" and torch.get_num_threads() > 1
    return is_shared and rows.dtype == torch.float32 and _batch_function() is not None


@functools.cache
def _batch_function() -> ctypes._NamedFuncPointer | None:
    """`cblas_sgemm_batch` of the MKL that torch carries, if it carries one."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        function = library.cblas_sgemm_batch
    except (OSError, AttributeError):
        return None
    number, array = ctypes.c_int, ctypes.c_void_p
    function.argtypes = [number, *[array] * 13, number, array]
    function.restype = None
    return function


def _multiply_batched(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    rows = rows.contiguous()
    if 1 not in weights.stride()[1:]:
        weights = weights.contiguous()
    out = rows.new_empty(len(rows), weights.shape[2])
    starts, loads = _starts_and_loads(ends)
    used = _largest_first(loads)
    is_plain = weights.stride(2) == 1
    _batch(
        (PLAIN, PLAIN if is_plain else TRANSPOSED),
        (loads[used], weights.shape[2], weights.shape[1]),
        (_addresses(rows, starts[used]), _addresses(weights, used), _addresses(out, starts[used])),
        (rows.shape[1], weights.stride(1 if is_plain else 2), out.shape[1]),
    )
    return out


def _outer_batched(rows: Tensor, others: Tensor, ends: Tensor) -> Tensor:
    rows, others = rows.contiguous(), others.contiguous()
    starts, loads = _starts_and_loads(ends)
    used = _largest_first(loads)
    out = rows.new_empty(len(loads), rows.shape[1], others.shape[1])
    for idle in (loads == 0).nonzero()[0]:
        out[idle].zero_()
    _batch(
        (TRANSPOSED, PLAIN),
        (rows.shape[1], others.shape[1], loads[used]),
        (_addresses(rows, starts[used]), _addresses(others, starts[used]), _addresses(out, used)),
        (rows.shape[1], others.shape[1], others.shape[1]),
    )
    return out


Numbers = NDArray[np.int64]


def _starts_and_loads(ends: Tensor) -> tuple[Numbers, Numbers]:
    stops = ends.numpy().astype(np.int64)
    loads = np.diff(stops, prepend=0)
    return stops - loads, loads


def _largest_first(loads: Numbers) -> Numbers:
    """The experts that have rows, in the order in which threads that share them finish together."""
    return np.argsort(-loads, kind="stable")[: np.count_nonzero(loads)]


def _addresses(tensor: Tensor, index: Numbers) -> Numbers:
    return tensor.data_ptr() + tensor.element_size() * tensor.stride(0) * index


def _batch(
    transposed: tuple[int, int],
    sizes: tuple[int | Numbers, int | Numbers, int | Numbers],
    addresses: tuple[Numbers, Numbers, Numbers],
    strides: tuple[int, int, int],
) -> None:
    """C = A B for each triple of addresses, in groups of one: [m, k] times [k, n]."""
    count = len(addresses[0])
    if count == 0:
        return

    def each(value: float | Numbers, dtype: type = np.int32) -> NDArray[np.generic]:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), count))

    left, right, product = addresses
    arrays = [  # named, since they must outlive the call that is given where they lie
        *(each(one) for one in (*transposed, *sizes)),
        each(1.0, np.float32),
        *(left, each(strides[0]), right, each(strides[1])),
        each(0.0, np.float32),
        *(product, each(strides[2])),
    ]
    group_sizes = each(1)
    function = _batch_function()
    assert function is not None
    places = [array.ctypes.data for array in arrays]
    function(ROW_MAJOR, *places, count, group_sizes.ctypes.data)
