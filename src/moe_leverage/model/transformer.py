"""The transformer that is trained: decoder-only, dense or mixture-of-experts, top to bottom.

Stands for the architecture of Section 2.1 and Appendix B (GQA, RoPE, SwiGLU, fine-grained experts
beside shared ones); QK-norm, half RoPE and multi-token prediction are those of Ling 2.0.

    b  sequences of a batch     H  width of a SwiGLU      T  tokens of a batch, b s
    s  tokens of a sequence     V  vocabulary             K  experts chosen per token, E_a
    D  width, d_model           E  routed experts         L  layers that route
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from moe_leverage.config import ModelConfig
from moe_leverage.model import routing
from moe_leverage.model.attention import Attention, AttentionMixture, RMSNorm, Rotations
from moe_leverage.model.dispatch import experts, place
from moe_leverage.model.kernels import embedding, swiglu
from moe_leverage.rules import require

Dispatch = Literal["grouped", "loop"]

GROUPED_STRIDE_BYTES = 16  # every row of a grouped_mm operand must be a multiple of this


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOutput:
    """Logits of every position, and what the routers did; the losses are not yet weighted.

    Rows of `counts` are the MoE layers in order, then those of the multi-token-prediction layers.
    `mtp_logits[d - 1][:, t]` predicts the token d places after the one that `logits[:, t]` predicts
    and is d positions shorter.
    """

    logits: Float[Tensor, "b s V"]
    balance_loss: Float[Tensor, ""]  # mean over the layers that route; 1 when uniform, 0 if dense
    z_loss: Float[Tensor, ""]  # mean over the layers that route; 0 if dense
    mtp_logits: tuple[Float[Tensor, "b _ V"], ...]
    counts: Int[Tensor, "L E"]


def build_model(config: ModelConfig, seed: int, dispatch: Dispatch = "grouped") -> Transformer:
    """The model with weights drawn from `seed` alone: normal with `init_std`, gains one, biases 0.

    >>> shape = ModelConfig(vocab_size=32, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     num_experts=4, num_active_experts=2, d_expert=4)
    >>> build_model(shape, seed=0)(torch.arange(6).view(2, 3)).logits.shape
    torch.Size([2, 3, 32])
    """
    model = Transformer(config, dispatch)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=config.init_std, generator=generator)
    return model


class Transformer(nn.Module):
    """Embedding, blocks, norm, logits; then the multi-token-prediction layers."""

    def __init__(self, config: ModelConfig, dispatch: Dispatch = "grouped") -> None:
        super().__init__()
        require_trainable(config, dispatch)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(
            Block(config, is_moe=i >= config.num_dense_layers, dispatch=dispatch)
            for i in range(config.num_layers)
        )
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.unembed.weight = self.embedding.weight
        self.mtp = nn.ModuleList(
            TokenPrediction(config, dispatch) for _ in range(config.num_mtp_layers)
        )

    def forward(self, tokens: Int[Tensor, "b s"]) -> ModelOutput:
        """Logits of the next token at every position."""
        rope = rotations(tokens.shape[1], self.config, tokens.device)
        hidden = embedding(tokens, self.embedding.weight)
        routed: list[Routed | None] = []
        for block in self.layers:
            hidden, seen = block(hidden, rope)
            routed.append(seen)
        logits = self.unembed(self.norm(hidden))

        mtp_logits = []
        for depth, predict in enumerate(self.mtp, start=1):
            # The last `depth` positions lack their token; being last, they reach no other.
            ahead = embedding(tokens.roll(-depth, dims=1), self.embedding.weight)
            hidden, normed, seen = predict(hidden, ahead, rope)
            routed.append(seen)
            mtp_logits.append(self.unembed(normed[:, :-depth]))
        return _output(logits, tuple(mtp_logits), [seen for seen in routed if seen is not None])

    def routers(self) -> list[MixtureOfExperts]:
        """The layers that route, in the order of `ModelOutput.counts`."""
        return [m for m in self.modules() if isinstance(m, MixtureOfExperts)]

    def step_biases(self, counts: Int[Tensor, "L E"]) -> None:
        """Move the selection biases once, after an optimiser step, from that step's counts."""
        rate = self.config.routing.bias_update_rate
        for layer, layer_counts in zip(self.routers(), counts, strict=True):
            bias = layer.selection_bias
            if bias is not None:
                bias.copy_(routing.bias_step(bias, layer_counts, rate))


class Routed(NamedTuple):
    """What the router of one layer did in one forward pass."""

    balance_loss: Float[Tensor, ""]
    z_loss: Float[Tensor, ""]
    counts: Int[Tensor, " E"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); in parallel x + attention(n) + ffn(n)."""

    def __init__(self, config: ModelConfig, *, is_moe: bool, dispatch: Dispatch) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        is_mixed = config.num_attention_experts > 0
        self.attention = AttentionMixture(config) if is_mixed else Attention(config)
        self.ffn_norm = None if config.parallel_blocks else RMSNorm(config.d_model, config.norm_eps)
        self.ffn = (
            MixtureOfExperts(config, dispatch) if is_moe else SwiGLU(config.d_model, config.d_ffn)
        )

    def forward(
        self, hidden: Float[Tensor, "b s D"], rope: Rotations
    ) -> tuple[Float[Tensor, "b s D"], Routed | None]:
        """The hidden states, and what the router did if this block has one."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.attention(normed, rope)
        if self.ffn_norm is not None:
            normed = self.ffn_norm(hidden)
        if isinstance(self.ffn, SwiGLU):
            return hidden + self.ffn(normed), None
        mixed, routed = self.ffn(normed)
        return hidden + mixed, routed


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix, gate rows first."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """The feed-forward network of every position."""
        out: Tensor = self.down(swiglu(self.gate_up(x)))
        return out


class MixtureOfExperts(nn.Module):
    """y = sum over the chosen of g_i expert_i(x), plus the shared experts (Appendix B).

    The shared experts are one SwiGLU of their joint width, without a gate.
    """

    def __init__(self, config: ModelConfig, dispatch: Dispatch) -> None:
        super().__init__()
        experts, width, inner = config.num_experts, config.d_model, config.d_expert
        self.num_active_experts = config.num_active_experts
        self.routing = config.routing
        self.dispatch = dispatch
        self.router = nn.Linear(width, experts, bias=config.router_bias)
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * inner))
        self.down = nn.Parameter(torch.empty(experts, inner, width))
        self.shared = SwiGLU(width, config.d_shared) if config.num_shared_experts else None
        has_bias = config.routing.bias_update_rate > 0
        # Processes that share a batch balance the loads of the batch, not each its own part's.
        self.sum_counts: Callable[[Tensor], Tensor] = lambda counts: counts
        self.selection_bias: Tensor | None  # saved, not trained; moved by `step_biases`
        self.register_buffer("selection_bias", torch.zeros(experts) if has_bias else None)

    def forward(self, x: Float[Tensor, "b s D"]) -> tuple[Float[Tensor, "b s D"], Routed]:
        """The mixture, and what the router did."""
        tokens = x.flatten(0, 1)
        chosen, gates, routed = self.route(tokens)
        run = grouped_experts if self.dispatch == "grouped" else loop_experts
        mixed = run(tokens, chosen, gates, routed.counts, self.gate_up, self.down)
        if self.shared is not None:
            mixed = mixed + self.shared(tokens)
        return mixed.view_as(x), routed

    def route(
        self, tokens: Float[Tensor, "T D"]
    ) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Routed]:
        """Chosen experts, their gates, and the router's losses and counts; fp32 throughout."""
        with torch.autocast(tokens.device.type, enabled=False):
            logits = self.router(tokens.float())
            scores = routing.score(logits, self.routing)
            chosen = routing.select(
                scores, self.num_active_experts, self.routing, self.selection_bias
            )
            gates = routing.weigh(scores, chosen, self.routing)
            counts = routing.count(chosen, scores.shape[-1])
            balance = routing.balance_loss(scores, self.sum_counts(counts), self.routing)
            return chosen, gates, Routed(balance, routing.z_loss(logits), counts)


class TokenPrediction(nn.Module):
    """One multi-token-prediction layer: block(W [norm(embedding ahead) ; norm(hidden)])."""

    def __init__(self, config: ModelConfig, dispatch: Dispatch) -> None:
        super().__init__()
        self.ahead_norm = RMSNorm(config.d_model, config.norm_eps)
        self.hidden_norm = RMSNorm(config.d_model, config.norm_eps)
        self.combine = nn.Linear(2 * config.d_model, config.d_model, bias=False)
        self.block = Block(config, is_moe=config.is_moe, dispatch=dispatch)
        self.norm = RMSNorm(config.d_model, config.norm_eps)  # before the model's logits

    def forward(
        self,
        hidden: Float[Tensor, "b s D"],
        ahead: Float[Tensor, "b s D"],
        rope: Rotations,
    ) -> tuple[Float[Tensor, "b s D"], Float[Tensor, "b s D"], Routed | None]:
        """Hidden states one place further ahead, the same normed, and what the router did."""
        both = torch.cat((self.ahead_norm(ahead), self.hidden_norm(hidden)), dim=-1)
        hidden, routed = self.block(self.combine(both), rope)
        return hidden, self.norm(hidden), routed


def loop_experts(
    tokens: Float[Tensor, "T D"],
    chosen: Int[Tensor, "T K"],
    gates: Float[Tensor, "T K"],
    counts: Int[Tensor, " E"],
    gate_up: Float[Tensor, "E D 2H"],
    down: Float[Tensor, "E H D"],
) -> Float[Tensor, "T D"]:
    """Expert by expert, the reference: gather its tokens, run it, add its gated output."""
    mixed = torch.zeros_like(tokens)
    for expert in range(len(counts)):
        rows, slots = torch.where(chosen == expert)
        gate, up = (tokens[rows] @ gate_up[expert]).chunk(2, dim=-1)
        gated = (F.silu(gate) * up @ down[expert]) * gates[rows, slots].unsqueeze(-1)
        mixed = mixed.index_add(0, rows, gated.to(mixed.dtype))
    return mixed


def grouped_experts(
    tokens: Float[Tensor, "T D"],
    chosen: Int[Tensor, "T K"],
    gates: Float[Tensor, "T K"],
    counts: Int[Tensor, " E"],
    gate_up: Float[Tensor, "E D 2H"],
    down: Float[Tensor, "E H D"],
) -> Float[Tensor, "T D"]:
    """All experts at once, no token dropped: slots sorted by expert, one multiply for all."""
    return experts(tokens, gates, gate_up, down, place(chosen, counts))


def rotations(length: int, config: ModelConfig, device: torch.device) -> Rotations:
    """exp(i position theta^(-p / P)), as real and imaginary part, for the P pairs of a head."""
    pairs = int(config.d_head * config.rope_fraction) // 2
    turns: Rotations = _turns(length, pairs, config.rope_theta, device)
    return turns


# The compiler does not fuse complex numbers: for it the table is a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _turns(length: int, pairs: int, theta: float, device: torch.device) -> Rotations:
    frequency = theta ** (-torch.arange(pairs, device=device) / pairs)
    angles = torch.outer(torch.arange(length, device=device), frequency)
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))


def require_trainable(
    config: ModelConfig, dispatch: Dispatch, dtype: torch.dtype = torch.float32
) -> None:
    """Refuse what this model does not build: shapes that are counted only, and odd widths."""
    require(dispatch in ("grouped", "loop"), "dispatch", dispatch, "must be one of grouped, loop")
    for name in ("latent_attention", "attention_sinks", "ffn_bias"):
        value = getattr(config, name)
        require(not value, name, value, "is counted and explained but cannot be trained here")
    rotated = config.d_head * config.rope_fraction
    require(rotated % 2 == 0, "rope_fraction", config.rope_fraction, "must rotate whole pairs")
    if config.is_moe and dispatch == "grouped":
        multiple = GROUPED_STRIDE_BYTES // dtype.itemsize
        for name in ("d_model", "d_expert"):
            value = getattr(config, name)
            rule = f"must be a multiple of {multiple} for the grouped matrix multiply in {dtype}"
            require(value % multiple == 0, name, value, rule)


def _output(logits: Tensor, mtp_logits: tuple[Tensor, ...], routed: list[Routed]) -> ModelOutput:
    if routed:
        balance, z, counts = (torch.stack(column) for column in zip(*routed, strict=True))
        balance, z = balance.mean(), z.mean()
    else:
        balance = z = logits.new_zeros((), dtype=torch.float32)
        counts = torch.zeros(0, 0, dtype=torch.int64, device=logits.device)
    return ModelOutput(
        logits=logits, balance_loss=balance, z_loss=z, mtp_logits=mtp_logits, counts=counts
    )
