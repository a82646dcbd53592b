"""What a model is made of, however it was counted: its mixers, its experts, its parts in numbers.

A closed form (`accounting`) and a model that transformers built both end here, so that everything
said of a model is said of either in the same way.

    A, G, S  activation ratio, granularity, shared-expert ratio, means over the MoE layers
    s        sequence length
    w        window of a layer that sees only its last w positions

A layer mixes positions by attention, whose scores grow with s and whose keys and values are cached,
or by a state of fixed size (Mamba, linear attention, convolution), whose updates are an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_leverage.accounting import (
    FLOPS_PER_MAC,
    ForwardFlops,
    ParameterCount,
    count_forward_flops,
    count_parameters,
    score_width,
)
from moe_leverage.config import ModelConfig
from moe_leverage.rules import require

# Decay, outer product, addition and reading of each number of a state, for one token.
STATE_FLOPS = 6
CLOSED_FORM = "closed form"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixer:
    """Layers that mix positions in one way."""

    kind: str  # full, sliding, chunked, or the name of a layer without scores
    layers: int
    window: int | None = None  # positions seen; None: all of them
    score_width: int = 0  # multiply-adds of one token for each position it attends to
    cached: int = 0  # numbers that one token leaves in the cache of a layer
    state: int = 0  # numbers that a layer keeps, whatever the length

    def attended(self, sequence_length: int, *, causal: bool = False) -> float:
        """Positions that a token is scored against on average: s, or what the mask leaves of it.

        Under `causal` half the square, and of a window or chunk the part inside it.

        >>> band = Mixer(kind="sliding", layers=1, window=128, score_width=64)
        >>> band.attended(4096), band.attended(4096, causal=True)
        (4096.0, 126.0)
        """
        if not causal:
            return float(sequence_length)
        if self.window is None or self.window >= sequence_length:
            return sequence_length / 2
        if self.kind == "chunked":
            return self.window / 2
        return self.window - self.window**2 / (2 * sequence_length)

    def score_flops(self, sequence_length: int, *, causal: bool = False) -> float:
        """FLOPs of one token's scores and weighted values in all these layers."""
        positions = self.attended(sequence_length, causal=causal)
        return FLOPS_PER_MAC * self.layers * self.score_width * positions

    def cached_numbers(self, sequence_length: int) -> int:
        """Numbers that a sequence of this length keeps in the cache of all these layers."""
        held = min(sequence_length, self.window or sequence_length)
        return self.layers * (self.cached * held + self.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """The experts of layers that are alike.

    >>> qwen = Experts(layers=24, num_experts=60, num_active_experts=4, num_shared_experts=4,
    ...     d_expert=1408, d_shared=5632, d_model=2048)
    >>> qwen.activation_ratio, qwen.shared_ratio
    (0.125, 0.5)
    """

    layers: int
    num_experts: int
    num_active_experts: int
    num_shared_experts: int
    d_expert: int
    d_shared: int
    d_model: int

    @property
    def activation_ratio(self) -> float:
        """A = (E_a + E_s) / (E + E_s) (Section 2.1)."""
        active = self.num_active_experts + self.num_shared_experts
        return active / (self.num_experts + self.num_shared_experts)

    @property
    def shared_ratio(self) -> float:
        """S = E_s / (E_a + E_s) (Section 2.1)."""
        return self.num_shared_experts / (self.num_active_experts + self.num_shared_experts)

    @property
    def granularity(self) -> float:
        """G = 2 d_model / d_expert (Section 2.1)."""
        return 2 * self.d_model / self.d_expert


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """A model in numbers, and the way they were come by; multi-token prediction is left out."""

    way: str  # "closed form", or by what the model was built
    d_model: int
    vocab_size: int
    parameters: ParameterCount
    products: ForwardFlops  # one token's, without scores: these alone depend on the length
    mixers: tuple[Mixer, ...]
    experts: tuple[Experts, ...] = ()
    d_ffn: int = 0  # of the dense layers; G of a dense model

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return bool(self.experts)

    @property
    def activation_ratio(self) -> float:
        """A, mean over the MoE layers; 1 for a dense model."""
        return (
            self._mean([expert.activation_ratio for expert in self.experts])
            if self.experts
            else 1.0
        )

    @property
    def shared_ratio(self) -> float:
        """S, mean over the MoE layers; 0 for a dense model."""
        return self._mean([expert.shared_ratio for expert in self.experts]) if self.experts else 0.0

    @property
    def granularity(self) -> float:
        """G, mean over the MoE layers; 2 d_model / d_ffn if dense, 0 where there is no FFN."""
        if not self.experts:
            return 2 * self.d_model / self.d_ffn if self.d_ffn else 0.0
        return self._mean([expert.granularity for expert in self.experts])

    def forward_flops(self, sequence_length: int, *, causal: bool = False) -> ForwardFlops:
        """FLOPs of one token's forward pass, exact, or with half the square under `causal`."""
        whole = isinstance(sequence_length, int) and sequence_length >= 1
        require(whole, "sequence_length", sequence_length, "must be a whole number >= 1")
        scores = sum(mixer.score_flops(sequence_length, causal=causal) for mixer in self.mixers)
        return replace(self.products, attention_scores=scores)

    def _mean(self, values: Sequence[float]) -> float:
        if len(values) == 1:
            return values[0]
        layers = [expert.layers for expert in self.experts]
        return sum(v * n for v, n in zip(values, layers, strict=True)) / sum(layers)


def of_shape(model: ModelConfig, windows: Sequence[int | None] = ()) -> Anatomy:
    """The anatomy of a shape by the closed forms of `accounting`; `windows` names w by layer.

    >>> model = ModelConfig(vocab_size=1024, num_layers=4, d_model=64, num_heads=4,
    ...     num_kv_heads=2, num_experts=64, num_active_experts=2, num_shared_experts=1, d_expert=64)
    >>> of_shape(model).forward_flops(256) == count_forward_flops(model, 256)
    True
    """
    model = replace(model, num_mtp_layers=0)
    seen = list(windows) or [None] * model.num_layers
    mixers = [
        Mixer(
            kind="full" if window is None else "sliding",
            layers=seen.count(window),
            window=window,
            score_width=score_width(model),
            cached=_cached(model),
        )
        for window in dict.fromkeys(seen)
    ]
    return Anatomy(
        way=CLOSED_FORM,
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        parameters=count_parameters(model),
        products=replace(count_forward_flops(model, 1), attention_scores=0),
        mixers=tuple(mixers),
        experts=_experts(model),
        d_ffn=model.d_ffn,
    )


def _experts(model: ModelConfig) -> tuple[Experts, ...]:
    if not model.is_moe:
        return ()
    return (
        Experts(
            layers=model.num_moe_layers,
            num_experts=model.num_experts,
            num_active_experts=model.num_active_experts,
            num_shared_experts=model.num_shared_experts,
            d_expert=model.d_expert,
            d_shared=model.d_shared,
            d_model=model.d_model,
        ),
    )


def _cached(model: ModelConfig) -> int:
    """Numbers that one token leaves in a layer's cache: keys and values, or their latent."""
    if model.latent_attention is None:
        return 2 * model.num_kv_heads * model.d_head
    return model.latent_attention.kv_rank + model.latent_attention.d_head_rope
