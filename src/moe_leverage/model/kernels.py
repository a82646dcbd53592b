"""The dense layers' hot paths, each one differentiable function with its gradient written out.

They compute what the plain expressions of the paper's layers say (Section 2.1, Appendix B) in fewer
passes over memory, which is what a small model on a CPU spends its time on; `bench/NOTES.md` has
the numbers. Under `torch.compile` the `plain` expression of each stands in its place: that it fuses
by itself, and it cannot look into what is written out.

    b  sequences of a batch     h  heads, of which            D  width of the model
    s  tokens of a sequence        Q query, then              H  width of a SwiGLU
    Z  width of a head             N key, then N value        P  rotated pairs of a head
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from moe_leverage.model.native import functions as native
from moe_leverage.model.native.door import runs_here

QUERY_CHUNK = 64  # query positions attended to at once; later keys are then skipped, not masked
EXPLICIT_LENGTH = 1024  # up to this length a CPU keeps the probabilities of every layer

_softmax_into = torch.ops.aten._softmax.out
_silu_backward_into = torch.ops.aten.silu_backward.grad_input
_softmax_backward_into = torch.ops.aten._softmax_backward_data.out


def embedding(tokens: Int[Tensor, "*n"], table: Float[Tensor, "V D"]) -> Float[Tensor, "*n D"]:
    """The row of the table for each token; its gradient adds up in the same order every time.

    >>> embedding(torch.tensor([2, 0]), torch.eye(3))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if torch.compiler.is_compiling():
        return apply(_Embedding, tokens, table)
    return F.embedding(tokens, table)


class _Embedding(torch.autograd.Function):
    """For the compiler, whose own gradient lets threads add to a row in the order they come."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, table: Tensor) -> Tensor:
        ctx.num_rows = len(table)
        ctx.save_for_backward(tokens)
        return F.embedding(tokens, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        return None, _embedding_gradient(grad, tokens, ctx.num_rows)


@torch.library.custom_op("moe_leverage::embedding_gradient", mutates_args=())
def _embedding_gradient(grad: Tensor, tokens: Tensor, num_rows: int) -> Tensor:
    to_table = torch.ops.aten.embedding_dense_backward
    out: Tensor = to_table(grad.contiguous(), tokens, num_rows, -1, False)
    return out


@_embedding_gradient.register_fake
def _(grad: Tensor, tokens: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[-1])


def rms_norm(x: Float[Tensor, "*n D"], gain: Float[Tensor, " D"], eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) gain, over the last dimension.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0) * 12.5**0.5
    tensor([[3., 4.]])
    """
    return written_out(_RMSNorm, x, gain, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def plain(x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, gain.shape, gain, eps)

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse: Tensor = mean_square.add_(eps).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, gain)
        return unit * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, gain = ctx.saved_tensors
        product = grad * unit
        along = (product @ gain).unsqueeze(-1).div_(unit.shape[-1])
        grad_x = (grad * gain).addcmul_(unit, along, value=-1).mul_(inverse)
        return grad_x, product.flatten(0, -2).sum(dim=0), None


def swiglu(gate_up: Float[Tensor, "*n 2H"]) -> Float[Tensor, "*n H"]:
    """silu(first half) * second half of the last dimension.

    >>> swiglu(torch.tensor([[0.0, 1.0, 5.0, 2.0]]))
    tensor([[0.0000, 1.4621]])
    """
    return written_out(_SwiGLU, gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def plain(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        active = F.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return swiglu_gradient(grad, *ctx.saved_tensors)


def swiglu_gradient(
    grad: Float[Tensor, "*n H"], gate_up: Float[Tensor, "*n 2H"], active: Float[Tensor, "*n H"]
) -> Float[Tensor, "*n 2H"]:
    """Gradient of `swiglu` in its argument; `active` is silu of the first half."""
    gate, up = gate_up.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), grad * active), dim=-1)
    grad_gate_up = torch.empty_like(gate_up)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
    torch.mul(grad, active, out=grad_up)
    _silu_backward_into(grad * up, gate, grad_input=grad_gate)
    return grad_gate_up


def attention(
    packed: Float[Tensor, "b s hZ"],
    turns: Float[Tensor, "s P 2"],
    num_heads: int,
    num_kv_heads: int,
) -> Float[Tensor, "b s QZ"]:
    """Causal attention in which queries and keys are first rotated by their position.

    Takes the heads packed as one matrix product gives them: queries, then keys, then values.

    >>> packed = torch.tensor([[[1.0, 0.0, 1.0, 0.0, 5.0, 6.0]]])  # a query, a key and a value
    >>> attention(packed, torch.tensor([[[0.0, 1.0]]]), 1, 1)
    tensor([[[5., 6.]]])
    """
    num_turned = num_heads + num_kv_heads
    all_heads = num_turned + num_kv_heads
    if _is_written_out(packed) and runs_here("attention", packed, packed.shape[2] // all_heads):
        return native.attention(packed, turns, num_heads, num_kv_heads)
    heads = heads_first(packed, all_heads, turns, num_turned)
    return causal_attention(heads, num_heads, num_kv_heads)


def heads_first(
    packed: Float[Tensor, "b s hZ"], num_heads: int, turns: Float[Tensor, "s P 2"], num_turned: int
) -> Float[Tensor, "b h s Z"]:
    """Heads before positions, the first `num_turned` heads rotated by their position.

    Coordinates 2 i and 2 i + 1 of a head, for the P leading pairs, are one complex number,
    multiplied by turns[position, i], itself a real and an imaginary part. Models that pair i with
    i + P do the same after a permutation of the query and key rows.
    """
    return written_out(_HeadsFirst, packed, num_heads, turns, num_turned)


class _HeadsFirst(torch.autograd.Function):
    @staticmethod
    def plain(packed: Tensor, num_heads: int, turns: Tensor, num_turned: int) -> Tensor:
        heads = packed.view(*packed.shape[:2], num_heads, -1).transpose(1, 2)
        width = 2 * turns.shape[-2]
        cosine, sine = turns.unbind(-1)
        real, imaginary = heads[:, :num_turned, :, 0:width:2], heads[:, :num_turned, :, 1:width:2]
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        pairs = torch.stack(turned, dim=-1)
        rotated = torch.cat((pairs.flatten(-2), heads[:, :num_turned, :, width:]), dim=-1)
        return torch.cat((rotated.to(packed.dtype), heads[:, num_turned:]), dim=1)

    @staticmethod
    def forward(ctx: Any, packed: Tensor, num_heads: int, turns: Tensor, num_turned: int) -> Tensor:
        ctx.num_turned = num_turned
        ctx.save_for_backward(turns)
        heads = packed.view(*packed.shape[:2], num_heads, -1).transpose(1, 2).contiguous()
        _turn(heads[:, :num_turned], torch.view_as_complex(turns))
        return heads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (turns,) = ctx.saved_tensors
        packed = grad.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        backwards = torch.view_as_complex(turns).conj().unsqueeze(1)
        _turn(packed[:, :, : ctx.num_turned], backwards)
        return packed.flatten(2), None, None, None


def _turn(heads: Tensor, turns: Tensor) -> None:
    turned = heads[..., : 2 * turns.shape[-1]]
    turned = turned.view(*turned.shape[:-1], -1, 2)
    if heads.dtype in (torch.float32, torch.float64):
        torch.view_as_complex(turned).mul_(turns)
    else:
        product = torch.view_as_complex(turned.float()).mul_(turns)
        turned.copy_(torch.view_as_real(product))


def causal_attention(
    heads: Float[Tensor, "b h s Z"], num_heads: int, num_kv_heads: int
) -> Float[Tensor, "b s QZ"]:
    """softmax(q k^T / sqrt(Z)) v over the positions up to each query's own.

    Query head i reads key-value head i // (Q / N). On a CPU short sequences take an explicit path
    that walks the queries in chunks; everything else takes PyTorch's fused kernels.
    """
    if _is_explicit(heads):
        return written_out(_CausalAttention, heads, num_heads, num_kv_heads)
    return _CausalAttention.plain(heads, num_heads, num_kv_heads)


def _is_explicit(heads: Tensor) -> bool:
    length = heads.shape[2]
    is_short = length <= EXPLICIT_LENGTH and length % min(length, QUERY_CHUNK) == 0
    return is_short and _is_written_out(heads)


def _is_written_out(tensor: Tensor) -> bool:
    is_cast = torch.is_autocast_enabled(tensor.device.type)
    is_exact = tensor.dtype in (torch.float32, torch.float64) and not is_cast
    is_fused = torch._C._get_flash_sdp_enabled()  # not so within sdpa_kernel(SDPBackend.MATH)
    return tensor.device.type == "cpu" and is_exact and is_fused


class _CausalAttention(torch.autograd.Function):
    """Per chunk of queries, one batched multiply in which a key-value head serves all its heads.

    Queries are held chunk by chunk: [s / c, b N, (Q / N) c, Z] for chunks of c.
    """

    @staticmethod
    def plain(heads: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
        query, key, value = _split(heads, num_heads, num_kv_heads)
        is_grouped = num_heads != num_kv_heads
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=is_grouped
        )
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def forward(ctx: Any, heads: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
        batch, _, length, width = heads.shape
        query, key, value = _split(heads, num_heads, num_kv_heads)
        key, value = key.flatten(0, 1), value.flatten(0, 1)  # [b N, s, Z]
        query = _chunked(query, num_kv_heads).mul_(width**-0.5)
        size = length // len(query)
        future = torch.full((size, size), -torch.inf, dtype=heads.dtype).triu_(1)
        mixed, chances = torch.empty_like(query), []
        for index, rows in enumerate(query):
            stop = (index + 1) * size
            scores = torch.bmm(rows, key[:, :stop].transpose(1, 2))
            scores.view(len(key), -1, size, stop)[..., stop - size :].add_(future)
            chances.append(_softmax_into(scores, -1, False, out=scores))
            torch.bmm(scores, value[:, :stop], out=mixed[index])
        ctx.sizes = (num_heads, num_kv_heads)
        ctx.save_for_backward(heads, query, *chances)
        return _unchunked(mixed, batch, num_heads).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        heads, query, *chances = ctx.saved_tensors
        batch, _, length, width = heads.shape
        num_heads, num_kv_heads = ctx.sizes
        _, key, value = (part.flatten(0, 1) for part in _split(heads, num_heads, num_kv_heads))
        grad = _chunked(grad.view(batch, length, num_heads, width).transpose(1, 2), num_kv_heads)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for index, chance in enumerate(chances):
            stop = chance.shape[-1]
            grad_value[:, :stop] += torch.bmm(chance.transpose(1, 2), grad[index])
            slope = torch.bmm(grad[index], value[:, :stop].transpose(1, 2))
            _softmax_backward_into(slope, chance, -1, heads.dtype, grad_input=slope)
            torch.bmm(slope, key[:, :stop], out=grad_query[index])
            grad_key[:, :stop] += torch.bmm(slope.transpose(1, 2), query[index])
        grad_heads = torch.empty_like(heads)
        to_query, to_key, to_value = _split(grad_heads, num_heads, num_kv_heads)
        torch.mul(_unchunked(grad_query, batch, num_heads), width**-0.5, out=to_query)
        to_key.copy_(grad_key.view_as(to_key))
        to_value.copy_(grad_value.view_as(to_value))
        return grad_heads, None, None


def _split(heads: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    first_value = num_heads + num_kv_heads
    return heads[:, :num_heads], heads[:, num_heads:first_value], heads[:, first_value:]


def _chunked(query: Tensor, num_kv_heads: int) -> Tensor:
    batch, num_heads, length, width = query.shape
    size = min(length, QUERY_CHUNK)
    shared = num_heads // num_kv_heads
    chunks = query.reshape(batch, num_kv_heads, shared, length // size, size, width)
    chunks = chunks.permute(3, 0, 1, 2, 4, 5).clone(memory_format=torch.contiguous_format)
    return chunks.view(length // size, batch * num_kv_heads, shared * size, width)


def _unchunked(chunks: Tensor, batch: int, num_heads: int) -> Tensor:
    num_chunks, per_batch, rows, width = chunks.shape
    shared = num_heads * batch // per_batch
    apart = chunks.view(num_chunks, batch, per_batch // batch, shared, rows // shared, width)
    return apart.permute(1, 2, 3, 0, 4, 5).reshape(batch, num_heads, -1, width)


def cross_entropy(logits: Float[Tensor, "*n V"], targets: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Mean negative log-probability of the targets, in nats.

    >>> cross_entropy(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64))
    tensor(2.0794)
    """
    return written_out(_CrossEntropy, logits.float().flatten(0, -2), targets.flatten())


class _CrossEntropy(torch.autograd.Function):
    """The gradient grows in place of the log-probabilities: large arrays cost most when new."""

    @staticmethod
    def plain(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_chances = logits.log_softmax(dim=-1)
        targets = targets.unsqueeze(-1)
        loss = log_chances.gather(1, targets).mean().neg()
        if ctx.needs_input_grad[0]:
            slope = log_chances.exp_()
            slope.scatter_add_(1, targets, torch.full_like(targets, -1, dtype=slope.dtype))
            ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope.mul_(grad / len(slope)), None


def written_out(function: Any, *arguments: Any) -> Tensor:
    """The value of an autograd function, or to the compiler that of its `plain` expression."""
    if torch.compiler.is_compiling():
        out: Tensor = function.plain(*arguments)
        return out
    return apply(function, *arguments)


def apply(function: Any, *arguments: Any) -> Tensor:
    """`function.apply(*arguments)`, typed."""
    out: Tensor = function.apply(*arguments)
    return out
