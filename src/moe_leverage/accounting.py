"""Parameters and FLOPs of a model by component, in closed form (Section 2.1, Appendix C).

Arithmetic on the sizes of a `ModelConfig` alone: nothing is built and nothing beyond the standard
library is imported, so counts are exact and cost microseconds. It is elementwise: `search` passes
arrays in place of sizes and counts a hundred thousand shapes at once.

    N, N_a   total and active parameters without vocabulary matrices
    M        non-embedding FLOPs of one token's forward pass
    D        training tokens
    s        sequence length
    d        d_model
    V        vocabulary size

Three conventions name what a FLOP count includes:

    exact    two FLOPs a multiply-add of every matrix product: projections, scores over the full
             square s x s, router, experts, dense FFN, logits. Equal to torch's FlopCounterMode on
             the built model. Causal masking is not credited, element-wise work is not counted.
    paper    equations (14)-(16) as printed: attention d^2 (2 + 2 n_kv / n_h) + 4 s d a token and
             layer, whatever the head width (the projections lack the factor 2 of the other terms),
             FFN 6 d times the active width, logits 2 d V, no router.
    six_n    the rule of thumb C = 6 N_a D: forward 2 N_a, neither scores nor logits.

Training is three forward passes in every convention; what a fused kernel recomputes is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_leverage.config import LatentAttentionConfig, ModelConfig, RunConfig
from moe_leverage.rules import require

Convention = Literal["exact", "paper", "six_n"]

CONVENTIONS: tuple[Convention, ...] = ("exact", "paper", "six_n")
FLOPS_PER_MAC = 2  # one multiplication and one addition
FFN_MATRICES = 3  # gate, up and down of a SwiGLU, hence the 6 of Appendix C
TRAINING_PASSES = 3  # forward, and twice as much backward (Appendix C)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCount:
    """Trained parameters by component; the balancing bias of a router is a buffer, not counted.

    A matrix counts with its biases. `norms` are all normalisation gains outside `mtp`; `mtp` is
    all that the multi-token-prediction layers add, their embedding and logits being shared.
    """

    embedding: int
    attention: int
    router: int
    routed_experts: int
    shared_experts: int
    dense_ffn: int
    norms: int
    logits: int  # 0 when tied to the embedding
    mtp: int
    active_routed_experts: int  # the part of routed_experts that serves one token
    active_mtp: int  # the part of mtp that serves one token
    other: int = 0  # of a built model: what is none of these

    @property
    def total(self) -> int:
        """Every parameter of the model."""
        return (
            self.embedding
            + self.attention
            + self.router
            + self.routed_experts
            + self.shared_experts
            + self.dense_ffn
            + self.norms
            + self.logits
            + self.mtp
            + self.other
        )

    @property
    def active(self) -> int:
        """Parameters of the whole model less the experts that a token does not visit."""
        idle_experts = self.routed_experts - self.active_routed_experts
        return self.total - idle_experts - (self.mtp - self.active_mtp)

    @property
    def non_vocabulary(self) -> int:
        """N: `total` without embedding and logits (Table 5)."""
        return self.total - self.embedding - self.logits

    @property
    def active_non_vocabulary(self) -> int:
        """N_a: `active` without embedding and logits (Table 5)."""
        return self.active - self.embedding - self.logits


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardFlops:
    """FLOPs of one token's forward pass by component, averaged over the sequence."""

    attention_projections: float
    attention_scores: float
    router: float
    routed_experts: float
    shared_experts: float
    dense_ffn: float
    norms: float  # element-wise work: 0 but in `six_n`, which counts parameters
    logits: float  # of the main head and of every multi-token-prediction layer
    mtp: float  # multi-token-prediction layers without their logits
    other: float = 0  # of a built model: products that are none of these
    state_updates: float = 0  # of layers that keep a state in place of scores; an estimate

    @property
    def non_embedding(self) -> float:
        """M: everything but the logits (Section 2.1; the embedding lookup costs nothing)."""
        return (
            self.attention_projections
            + self.attention_scores
            + self.router
            + self.routed_experts
            + self.shared_experts
            + self.dense_ffn
            + self.norms
            + self.mtp
            + self.other
            + self.state_updates
        )

    @property
    def total(self) -> float:
        """All components."""
        return self.non_embedding + self.logits


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Parameters of `model` by component.

    >>> mixtral = ModelConfig(vocab_size=32_000, num_layers=32, d_model=4096, num_heads=32,
    ...     num_kv_heads=8, num_experts=8, num_active_experts=2, d_expert=14_336)
    >>> count = count_parameters(mixtral)
    >>> count.total, count.active
    (46702792704, 12879925248)
    """
    layers, moe_layers = model.num_layers, model.num_moe_layers
    vocabulary = model.vocab_size * model.d_model
    expert = _ffn_parameters(model, model.d_expert)
    routed, active_routed = model.num_experts * expert, model.num_active_experts * expert
    shared, dense = _ffn_parameters(model, model.d_shared), _ffn_parameters(model, model.d_ffn)
    attention = _attention_weights(model) + _attention_extras(model)
    norms = (2 - model.parallel_blocks) * model.d_model + _inner_norms(model)
    router = _router_parameters(model)
    attention_router = model.d_model * model.num_attention_experts
    # One such layer joins two normalised vectors by a matrix, adds a block and a last norm.
    mtp_shell = 2 * model.d_model**2 + 3 * model.d_model + attention + attention_router + norms
    mtp_ffn = router + routed + shared if model.is_moe else dense
    mtp_idle = routed - active_routed
    return ParameterCount(
        embedding=vocabulary,
        attention=layers * attention,
        router=moe_layers * router + layers * attention_router,
        routed_experts=moe_layers * routed,
        shared_experts=moe_layers * shared,
        dense_ffn=model.num_dense_layers * dense,
        norms=layers * norms + model.d_model,
        logits=0 if model.tie_embeddings else vocabulary,
        mtp=model.num_mtp_layers * (mtp_shell + mtp_ffn),
        active_routed_experts=moe_layers * active_routed,
        active_mtp=model.num_mtp_layers * (mtp_shell + mtp_ffn - mtp_idle),
    )


def count_forward_flops(
    model: ModelConfig, sequence_length: int, convention: Convention = "exact"
) -> ForwardFlops:
    """FLOPs of one token's forward pass in a sequence of `sequence_length` tokens.

    Raises ValueError if the convention `paper` is asked for what equations (14)-(16) do not cover:
    latent attention, multi-token prediction and mixtures of attention.

    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, num_experts=64, num_active_experts=2, num_shared_experts=1, d_expert=64)
    >>> [count_forward_flops(model, 256, name).non_embedding for name in CONVENTIONS]
    [688128, 606208.0, 427136]
    """
    whole = isinstance(sequence_length, int) and sequence_length >= 1
    require(whole, "sequence_length", sequence_length, "must be a whole number >= 1")
    rule = f"must be one of {', '.join(CONVENTIONS)}"
    require(convention in CONVENTIONS, "convention", convention, rule)
    if convention == "six_n":
        return _parameter_flops(model)
    if convention == "paper":
        return _printed_flops(model, sequence_length)
    return _exact_flops(model, sequence_length)


def count_training_flops(run: RunConfig, convention: Convention = "exact") -> float:
    """C of a whole run: three forward passes (Appendix C) over its D tokens.

    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, d_ffn=192)
    >>> run = RunConfig(model=model, corpus="smoke", sequence_length=256, batch_sequences=8,
    ...     num_steps=100, learning_rate=1e-3)
    >>> f"{count_training_flops(run):.3e}"
    '4.832e+11'
    """
    forward = count_forward_flops(run.model, run.sequence_length, convention)
    return TRAINING_PASSES * forward.total * run.num_tokens


def _exact_flops(model: ModelConfig, sequence_length: int) -> ForwardFlops:
    layers, moe_layers, mtp_layers = model.num_layers, model.num_moe_layers, model.num_mtp_layers
    projections = FLOPS_PER_MAC * _attention_weights(model)
    scores = FLOPS_PER_MAC * sequence_length * score_width(model)
    expert_width = model.num_active_experts * model.d_expert
    per_width = FLOPS_PER_MAC * FFN_MATRICES * model.d_model
    router = FLOPS_PER_MAC * model.d_model * model.num_experts
    attention_router = FLOPS_PER_MAC * model.d_model * model.num_attention_experts
    mtp_ffn = router + attention_router + per_width * model.d_active_ffn
    mtp_joint = FLOPS_PER_MAC * 2 * model.d_model**2
    # The k-th such layer lacks a target at the last k positions and projects only the others.
    lengths = (max(sequence_length - depth, 0) for depth in range(1, mtp_layers + 1))
    predicted = sequence_length + sum(lengths)
    return ForwardFlops(
        attention_projections=layers * projections,
        attention_scores=layers * scores,
        router=moe_layers * router + layers * attention_router,
        routed_experts=moe_layers * per_width * expert_width,
        shared_experts=moe_layers * per_width * model.d_shared,
        dense_ffn=model.num_dense_layers * per_width * model.d_ffn,
        norms=0,
        logits=FLOPS_PER_MAC * model.d_model * model.vocab_size * predicted / sequence_length,
        mtp=mtp_layers * (mtp_joint + projections + scores + mtp_ffn),
    )


def _printed_flops(model: ModelConfig, sequence_length: int) -> ForwardFlops:
    """Equations (14)-(16), divided by the b s tokens of the batch."""
    rule = "is outside equations (14)-(16); count it under the convention exact"
    latent = model.latent_attention
    require(latent is None, "latent_attention", latent, rule)
    require(model.num_mtp_layers == 0, "num_mtp_layers", model.num_mtp_layers, rule)
    attentions = model.num_attention_experts
    require(attentions == 0, "num_attention_experts", attentions, rule)
    d_model, moe_layers = model.d_model, model.num_moe_layers
    projections = d_model**2 * (2 + 2 * model.num_kv_heads / model.num_heads)
    return ForwardFlops(
        attention_projections=model.num_layers * projections,
        attention_scores=model.num_layers * 4 * sequence_length * d_model,
        router=0,
        routed_experts=moe_layers * 6 * d_model * model.num_active_experts * model.d_expert,
        shared_experts=moe_layers * 6 * d_model * model.d_shared,
        dense_ffn=model.num_dense_layers * 6 * d_model * model.d_ffn,
        norms=0,
        logits=2 * d_model * model.vocab_size,
        mtp=0,
    )


def _parameter_flops(model: ModelConfig) -> ForwardFlops:
    """Two FLOPs for each active parameter outside the vocabulary matrices."""
    count = count_parameters(model)
    return ForwardFlops(
        attention_projections=FLOPS_PER_MAC * count.attention,
        attention_scores=0,
        router=FLOPS_PER_MAC * count.router,
        routed_experts=FLOPS_PER_MAC * count.active_routed_experts,
        shared_experts=FLOPS_PER_MAC * count.shared_experts,
        dense_ffn=FLOPS_PER_MAC * count.dense_ffn,
        norms=FLOPS_PER_MAC * count.norms,
        logits=0,
        mtp=FLOPS_PER_MAC * count.active_mtp,
    )


def _attention_weights(model: ModelConfig) -> int:
    """Entries of one layer's attention matrices, biases left out; of all its attentions."""
    if model.latent_attention is None:
        heads = _attentions(model) * model.num_heads + _key_values(model) * model.num_kv_heads
        return 2 * model.d_model * model.d_head * heads
    latent, d_model, heads = model.latent_attention, model.d_model, model.num_heads
    d_query = heads * (latent.d_head_nope + latent.d_head_rope)
    query = latent.q_rank * (d_model + d_query) if latent.q_rank else d_model * d_query
    compress = d_model * (latent.kv_rank + latent.d_head_rope)
    expand = latent.kv_rank * heads * (latent.d_head_nope + latent.d_head_value)
    return query + compress + expand + heads * latent.d_head_value * d_model


def _attention_extras(model: ModelConfig) -> int:
    """One layer's attention parameters outside matrices: biases and sinks."""
    if model.latent_attention is None:
        kv_heads = 2 * _key_values(model) * model.num_kv_heads
        projected = model.d_head * (_attentions(model) * model.num_heads + kv_heads)
    else:
        projected = _compressed_width(model.latent_attention)
    return (
        model.attention_bias * projected
        + model.attention_output_bias * _attentions(model) * model.d_model
        + model.attention_sinks * model.num_heads
    )


def _compressed_width(latent: LatentAttentionConfig) -> int:
    """Outputs of the two compressing maps, the ones that DeepSeek's `attention_bias` biases."""
    return latent.q_rank + latent.kv_rank + latent.d_head_rope


def score_width(model: ModelConfig) -> int:
    """Multiply-adds of one token's scores and weighted values for each position it attends to."""
    if model.latent_attention is None:
        return _attentions(model) * model.num_heads * 2 * model.d_head
    latent = model.latent_attention
    return model.num_heads * (latent.d_head_nope + latent.d_head_rope + latent.d_head_value)


def _inner_norms(model: ModelConfig) -> int:
    """Gains of one layer's norms inside attention: QK-norm, or those of the latents."""
    if model.latent_attention is not None:
        return model.latent_attention.q_rank + model.latent_attention.kv_rank
    by_width = model.d_head * (model.num_heads + model.num_kv_heads)
    one = {"none": 0, "head": 2 * model.d_head, "width": by_width}[model.qk_norm]
    return _attentions(model) * one


def _attentions(model: ModelConfig) -> int:
    """Attentions of one layer, each with queries and an output of its own."""
    return model.num_attention_experts or 1


def _key_values(model: ModelConfig) -> int:
    """Key and value projections of one layer."""
    return 1 if model.shares_key_values else _attentions(model)


def _ffn_parameters(model: ModelConfig, width: int) -> int:
    """One SwiGLU FFN: three matrices, and a bias for each output if the model has them.

    Nothing if the width is 0, without a branch, so that arrays of widths pass as well.
    """
    biases = model.ffn_bias * (width > 0) * (2 * width + model.d_model)
    return FFN_MATRICES * model.d_model * width + biases


def _router_parameters(model: ModelConfig) -> int:
    return model.num_experts * (model.d_model + model.router_bias)
