"""Attention, routing and the experts' products in C++, built for this machine's processor.

What a compiled step calls on a CPU where `torch.compile` could only call a library; `door` says
when, and why. The C++ compiler builds `cpp/` once a process, in about three seconds. Each function
is an operator of its own for `torch.compile`, computes what its plain counterpart in `kernels`,
`routing`, `dispatch` or `grouped` does, and gives the same bits on any number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

SOURCES = Path(__file__).parent / "cpp"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "--param=avoid-fma-max-bits=0",  # or sums of products are fused on some processors only
    "-fno-strict-aliasing",
    "-fopenmp",
    "-fPIC",
    "-shared",
)


def attention(
    packed: Float[Tensor, "b s hZ"],
    turns: Float[Tensor, "s P 2"],
    num_heads: int,
    num_kv_heads: int,
) -> Float[Tensor, "b s QZ"]:
    """Causal attention, queries and keys turned by their position, as in `kernels`.

    >>> value = torch.arange(32.0)[None, :, None].expand(1, 32, 16)
    >>> packed = torch.cat((torch.zeros(1, 32, 2 * 16), value), dim=-1)  # all keys are alike
    >>> attention(packed, torch.zeros(32, 0, 2), 1, 1)[0, :3, 0]  # and later ones are not seen
    tensor([0.0000, 0.5000, 1.0000])
    """
    out: Tensor = _attention(packed, turns, num_heads, num_kv_heads)[0]
    return out


def multiply(
    rows: Float[Tensor, "_ i"],
    weights: Float[Tensor, "E i o"],
    ends: Int[Tensor, " E"],
    which: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, "R o"]:
    """Every row, or `rows[which]`, times the matrix of its expert, as in `grouped`.

    >>> weights = torch.stack((torch.eye(16), 2 * torch.eye(16)))
    >>> multiply(torch.ones(3, 16), weights, torch.tensor([1, 3], dtype=torch.int32))[:, 0]
    tensor([1., 2., 2.])
    """
    out: Tensor = _multiply(rows, weights, ends, which)
    return out


def outer(
    rows: Float[Tensor, "_ i"],
    others: Float[Tensor, "_ o"],
    ends: Int[Tensor, " E"],
    which: Int[Tensor, " R"] | None = None,
    which_others: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, "E i o"]:
    """Sum over the rows of each expert of row^T other, as in `grouped`.

    >>> ends = torch.tensor([1, 3], dtype=torch.int32)
    >>> outer(torch.ones(3, 16), torch.ones(3, 16), ends)[:, 0, 0]
    tensor([1., 2.])
    """
    out: Tensor = _outer(rows, others, ends, which, which_others)
    return out


def largest(scores: Float[Tensor, "T E"], count: int) -> Int[Tensor, "T K"]:
    """The places of each row's `count` largest, largest first, as `topk` gives them.

    >>> largest(torch.tensor([[0.1, 0.6, 0.3]]), 2)
    tensor([[1, 2]])
    """
    out: Tensor = _largest(scores, count)
    return out


def place(
    chosen: Int[Tensor, "T K"], counts: Int[Tensor, " E"]
) -> tuple[Int[Tensor, " R"], Int[Tensor, "T K"], Int[Tensor, " E"]]:
    """Tokens of the slots, slots of the assignments and each expert's end, as in `dispatch`.

    >>> place(torch.tensor([[1], [0], [1]]), torch.tensor([1, 2]))[0]
    tensor([1, 0, 2])
    """
    tokens, slots, ends = _place(chosen, counts)
    return tokens, slots, ends


def name_of_compiler() -> str:
    """The C++ compiler, which the variable CXX can name."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


@functools.cache
def library(name: str, **constants: int) -> ctypes.CDLL:
    """The functions of `cpp/<name>.cpp`, built with these constants.

    Raises ValueError where there is no C++ compiler or it refuses.
    """
    compiler = name_of_compiler()
    defined = [f"-D{constant.upper()}={value}" for constant, value in constants.items()]
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / f"{name}.so"
        command = [compiler, *FLAGS, *defined, str(SOURCES / f"{name}.cpp"), "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(built))
        except (OSError, subprocess.CalledProcessError) as error:
            code = getattr(error, "returncode", None)
            said = getattr(error, "stderr", "") or (f"exit status {code}" if code else str(error))
            said = said.strip().partition("\n")[0]
            rule = f"needs a C++ compiler that builds {name}.cpp; {compiler} says: {said}"
            raise ValueError(f"compile = True: {rule}") from error


@torch.library.custom_op("moe_leverage::attention", mutates_args=())
def _attention(
    packed: Tensor, turns: Tensor, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, Tensor]:
    packed, turns = packed.contiguous(), turns.contiguous()
    out, norms = _new_attention(packed, num_heads, num_kv_heads)
    sizes = _sizes(packed, turns, num_heads, num_kv_heads)
    _call(_attention_library(out, num_heads).forward, packed, turns, out, norms, *sizes)
    return out, norms


@torch.library.custom_op("moe_leverage::attention_gradient", mutates_args=())
def _attention_gradient(
    grad: Tensor,
    packed: Tensor,
    turns: Tensor,
    out: Tensor,
    norms: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> Tensor:
    grad, packed, turns = grad.contiguous(), packed.contiguous(), turns.contiguous()
    grad_packed = torch.empty_like(packed)
    sizes = _sizes(packed, turns, num_heads, num_kv_heads)
    backward = _attention_library(out, num_heads).backward
    _call(backward, grad, packed, turns, out, norms, grad_packed, *sizes)
    return grad_packed


@torch.library.custom_op("moe_leverage::multiply", mutates_args=())
def _multiply(rows: Tensor, weights: Tensor, ends: Tensor, which: Tensor | None) -> Tensor:
    rows, (experts, wide_in, wide_out) = rows.contiguous(), weights.shape
    is_transposed = weights.stride(1) == 1
    weights = (weights.transpose(1, 2) if is_transposed else weights).contiguous()
    out = rows.new_empty(len(rows) if which is None else len(which), wide_out)
    sizes = (experts, wide_in, wide_out, is_transposed)
    _call(library("products").multiply, rows, which, weights, ends, out, *sizes)
    return out


@torch.library.custom_op("moe_leverage::outer", mutates_args=())
def _outer(
    rows: Tensor,
    others: Tensor,
    ends: Tensor,
    which: Tensor | None,
    which_others: Tensor | None,
) -> Tensor:
    rows, others = rows.contiguous(), others.contiguous()
    out = rows.new_empty(len(ends), rows.shape[1], others.shape[1])
    _call(library("products").outer, rows, which, others, which_others, ends, out, *out.shape)
    return out


@torch.library.custom_op("moe_leverage::largest", mutates_args=())
def _largest(scores: Tensor, count: int) -> Tensor:
    scores, (tokens, experts) = scores.contiguous(), scores.shape
    chosen = scores.new_empty(tokens, count, dtype=torch.int64)
    _call(library("routing").largest, scores, chosen, tokens, experts, count)
    return chosen


@torch.library.custom_op("moe_leverage::place", mutates_args=())
def _place(chosen: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen, counts = chosen.contiguous(), counts.contiguous()
    found = _new_places(chosen, counts)
    _call(library("routing").place, chosen, counts, *found, *chosen.shape, len(counts))
    return found


@_attention.register_fake
def _(packed: Tensor, turns: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor]:
    return _new_attention(packed, num_heads, num_kv_heads)


@_attention_gradient.register_fake
def _(
    grad: Tensor,
    packed: Tensor,
    turns: Tensor,
    out: Tensor,
    norms: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> Tensor:
    return torch.empty_like(packed, memory_format=torch.contiguous_format)


@_multiply.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor, which: Tensor | None) -> Tensor:
    return rows.new_empty((rows if which is None else which).shape[0], weights.shape[2])


@_outer.register_fake
def _(
    rows: Tensor,
    others: Tensor,
    ends: Tensor,
    which: Tensor | None,
    which_others: Tensor | None,
) -> Tensor:
    return rows.new_empty(ends.shape[0], rows.shape[1], others.shape[1])


@_largest.register_fake
def _(scores: Tensor, count: int) -> Tensor:
    return scores.new_empty(scores.shape[0], count, dtype=torch.int64)


@_place.register_fake
def _(chosen: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _new_places(chosen, counts)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    packed, turns, *ctx.sizes = inputs
    ctx.save_for_backward(packed, turns, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    return _attention_gradient(grad, *ctx.saved_tensors, *ctx.sizes), None, None, None


_attention.register_autograd(_differentiate, setup_context=_keep)


def _new_places(chosen: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tokens, slots = chosen.new_empty(chosen.numel()), torch.empty_like(chosen)
    return tokens, slots, torch.empty_like(counts, dtype=torch.int32)


def _new_attention(packed: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor]:
    batch, length, width = packed.shape
    width = width // (num_heads + 2 * num_kv_heads) * num_heads
    return packed.new_empty(batch, length, width), packed.new_empty(batch, num_heads, length)


def _attention_library(out: Tensor, num_heads: int) -> ctypes.CDLL:
    return library("attention", head_width=out.shape[2] // num_heads)


def _sizes(packed: Tensor, turns: Tensor, num_heads: int, num_kv_heads: int) -> tuple[int, ...]:
    return packed.shape[0], num_heads, num_kv_heads, packed.shape[1], turns.shape[1]


def _call(function: Any, *arguments: Tensor | int | None) -> None:
    """A function of C on tensors, which must be contiguous, and whole numbers."""
    function(*(_in_c(argument) for argument in arguments))


def _in_c(argument: Tensor | int | None) -> Any:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())
