"""Attention of a block: one, or a soft mixture of several (BAM, arXiv 2408.08274).

The plain one is that of Section 2.1 of the paper. The mixture is what dense models become when
their attentions are kept side by side: every token passes all of them, so that nothing is dropped
and no load has to be balanced, and a gate weighs what they say.

    b  sequences of a batch     D  width of the model     M  attentions of a mixture
    s  tokens of a sequence     Z  width of a head        h, k  heads of a packed projection
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moe_leverage.config import ModelConfig
from moe_leverage.model.kernels import attention, rms_norm

Rotations = Float[Tensor, "s P 2"]


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions.

    One that does not `own_key_values` projects queries alone, and is given keys and values.
    """

    def __init__(self, config: ModelConfig, *, own_key_values: bool = True) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.d_head, self.qk_norm = config.d_head, config.qk_norm
        heads = config.num_heads + 2 * config.num_kv_heads * own_key_values
        self.query_key_value = nn.Linear(
            config.d_model, heads * config.d_head, bias=config.attention_bias
        )
        self.output = nn.Linear(
            config.num_heads * config.d_head, config.d_model, bias=config.attention_output_bias
        )
        if config.qk_norm != "none":
            is_width = config.qk_norm == "width"
            query_width = config.d_head * (config.num_heads if is_width else 1)
            key_width = config.d_head * (config.num_kv_heads if is_width else 1)
            self.query_norm = RMSNorm(query_width, config.norm_eps)
            self.key_norm = RMSNorm(key_width, config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b s D"],
        rope: Rotations,
        key_value: Float[Tensor, "b s kZ"] | None = None,
    ) -> Float[Tensor, "b s D"]:
        """Each position's mixture of the values at and before it."""
        packed = self.query_key_value(x)
        if key_value is not None:
            packed = torch.cat((packed, key_value), dim=-1)
        if self.qk_norm != "none":
            packed = self._normed(packed)
        out: Tensor = self.output(attention(packed, rope, self.num_heads, self.num_kv_heads))
        return out

    def _normed(self, packed: Float[Tensor, "b s hZ"]) -> Float[Tensor, "b s hZ"]:
        sizes = [n * self.d_head for n in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        query, key, value = torch.split(packed, sizes, dim=-1)
        parts = [(query, self.query_norm), (key, self.key_norm)]
        if self.qk_norm == "width":
            normed = [norm(part) for part, norm in parts]
        else:
            normed = [
                norm(part.view(*part.shape[:2], -1, self.d_head)).flatten(2) for part, norm in parts
            ]
        return torch.cat((*normed, value), dim=-1)


class AttentionMixture(nn.Module):
    """y = sum over m of g_m(x) attention_m(x), with g = softmax(W x) over all M of them.

    BAM's soft variant of a mixture of attention: no choice is made. The attentions have queries and
    outputs of their own, and keys and values too unless one projection is shared by all.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        is_shared = config.shares_key_values
        self.router = nn.Linear(config.d_model, config.num_attention_experts, bias=False)
        self.experts = nn.ModuleList(
            Attention(config, own_key_values=not is_shared)
            for _ in range(config.num_attention_experts)
        )
        width = 2 * config.num_kv_heads * config.d_head
        self.key_value = (
            nn.Linear(config.d_model, width, bias=config.attention_bias) if is_shared else None
        )

    def forward(self, x: Float[Tensor, "b s D"], rope: Rotations) -> Float[Tensor, "b s D"]:
        """The gated sum of what all attentions say of each position."""
        key_value = None if self.key_value is None else self.key_value(x)
        gates = self.router(x).float().softmax(dim=-1)
        mixed = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            mixed = mixed + gates[..., place, None] * expert(x, rope, key_value)
        return mixed


class RMSNorm(nn.Module):
    """x / rms(x) with a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """The normed last dimension."""
        return rms_norm(x, self.gain, self.eps)
